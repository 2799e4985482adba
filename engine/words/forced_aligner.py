"""Qwen3-ForcedAligner: audio and its text -> word times, in one forward pass of an LLM without decoding.

    [<|audio_start|> | audio | <|audio_end|> word <timestamp><timestamp> word <timestamp><timestamp> ...]

At each <timestamp> a classifier on the LLM's hidden state predicts a time, in classes of 80 ms: the start of the word
before it at the first, its end at the second. The aligner runs on PyTorch, because a batch is a single pass that leaves
vLLM nothing to schedule.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...convert.export import ensure_converted
from ...encoders.qwen3_asr import Qwen3AlignerTower, Qwen3ASRTowerConfig
from ..acoustic.base import StageOneOptions
from ..acoustic.runner import load_module
from ..acoustic.threads import one_thread
from ..acoustic.tower import TowerModel
from ..audio.decode import SAMPLE_RATE, Waveform
from ..audio.inputs import Inputs, iterate_inputs
from ..audio.loading import load
from ..batching import BatchPool
from ..checks import argument_names, check_arguments, checked_texts, refuse_unknown, say_unused
from ..config import EngineConfig, device_name, dtype_name
from ..errors import AudioTooLongError, CheckpointError, ConfigError, PromptTooLongError
from ..families.qwen3_asr import KNOWN_LANGUAGES
from ..hub.resolve import HubName, resolve_model
from ..manifest import ACOUSTIC_NAME, LLM_DIR_NAME, EngineManifest
from ..model_lock import OwnProcess
from ..text import LLMTokenizer
from ..transcript import Word
from .aligned_words import alignment_words, in_order, spans_in
from .aligner import Alignment

FAMILY = "qwen3_forced_aligner"
TIMESTAMP = "<timestamp>"
MAX_AUDIO_S = 300.0  # the length that the model was trained for; its classes end at 400 s
MAX_BATCH_TOKENS, MAX_BATCH = 16_384, 32
SAMPLES_BEYOND = SAMPLE_RATE // 4  # tolerance for rounded durations


@dataclass(frozen=True, slots=True)
class ForcedAlignItem:
    """One word, without punctuation, and when it is spoken."""

    text: str
    start_time: float  # s
    end_time: float  # s


@dataclass(frozen=True, slots=True)
class ForcedAlignResult:
    """The words of one text, in order."""

    items: list[ForcedAlignItem]

    def __iter__(self) -> Iterator[ForcedAlignItem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ForcedAlignItem:
        return self.items[index]


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """A clip and the prompt for it."""

    waveform: Waveform
    words: list[str]
    ids: list[int]  # tokens after the audio: the words, each followed by two <timestamp>s


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    """The words of one text with the model's times."""

    words: list[str]
    times_ms: list[int]  # start and end of each word
    confidences: list[float]  # of each word


class Qwen3ForcedAligner:
    """A loaded Qwen3-ForcedAligner."""

    def __init__(self, engine_dir: Path, config: EngineConfig) -> None:
        """Load a converted model. Raises CheckpointError or ConfigError."""
        from transformers import AutoModel

        manifest = EngineManifest.read(engine_dir)
        if manifest.family != FAMILY:
            raise ConfigError(f"{engine_dir} is of family {manifest.family!r}; a {FAMILY} is needed")
        sizes = dict(manifest.acoustic)
        try:
            self._class_ms: int = sizes.pop("class_ms")
            num_classes: int = sizes.pop("num_classes")
            tower_config = Qwen3ASRTowerConfig(**sizes)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{engine_dir}: engine.json describes no forced aligner: {error}") from error
        device = config.torch_device()
        dtype = config.torch_dtype(config.dtype, device)
        options = StageOneOptions(device=device, dtype=dtype, embeds_dtype=dtype)
        tower = load_module(engine_dir / ACOUSTIC_NAME, lambda: Qwen3AlignerTower(tower_config, num_classes), options)
        self._acoustic = TowerModel(tower, options)
        self._classifier = tower.classifier
        llm_dir = engine_dir / LLM_DIR_NAME
        self._llm = AutoModel.from_pretrained(llm_dir, dtype=dtype, local_files_only=True).eval().to(device)
        self._tokenizer = LLMTokenizer(llm_dir)
        (self._timestamp,) = self._tokenizer.encode(TIMESTAMP)
        self._before = self._tokenizer.encode("<|audio_start|>")
        self._max_positions = manifest.llm.max_position_embeddings
        self._device = device
        self._process = OwnProcess()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        hub: HubName = "ms",
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        device_map: str | torch.device | None = None,
        attn_implementation: str | None = None,
        **unknown: Any,
    ) -> Self:
        """Find the model, convert it on first use, and load it.

        Args:
            model, hub, revision, device, dtype: see AutoModelVLLM.
            device_map: the qwen-asr package's name for `device`.
            attn_implementation: has no effect, and a log message says so; transformers chooses.

        Raises:
            ConfigError, HubError, CheckpointError.
        """
        refuse_unknown(unknown, argument_names(Qwen3ForcedAligner.from_pretrained))
        check_arguments(Qwen3ForcedAligner.from_pretrained, model=model, revision=revision)
        say_unused(attn_implementation=attn_implementation)
        config = EngineConfig(device=device_name(device if device_map is None else device_map), dtype=dtype_name(dtype))
        return cls(ensure_converted(resolve_model(model, hub=hub, revision=revision)), config)

    def align(
        self, audio: Inputs, text: str | Iterable[str], language: str | Iterable[str | None] | None
    ) -> list[ForcedAlignResult]:
        """Find the times of each word of each text.

        Args:
            audio: any input of AutoModelVLLM.generate, or an iterable of them; up to 300 s each.
            text: the transcript of each input.
            language: a name or ISO code, one for each or one for all. With None, words are split at spaces, and each
                ideograph is a word. The model was trained on Chinese, English, Cantonese, French, German, Italian,
                Japanese, Korean, Portuguese, Russian and Spanish.

        Raises:
            ConfigError: the numbers of inputs, texts and languages differ, a language is unknown, or the package that
                tokenises it is not installed.
            AudioError: an input cannot be read, or is too long.
            PromptTooLongError: a text has more words than the model accepts with that much audio.
        """
        self._process.require()
        texts = [one or "" for one in checked_texts("text", text)]
        languages = checked_texts("language", language)
        waveforms = [load(item) for item in iterate_inputs(audio)]
        languages = languages * len(waveforms) if len(languages) == 1 else languages
        if not len(waveforms) == len(texts) == len(languages):
            raise ConfigError(
                f"Batch size mismatch: audio={len(waveforms)}, text={len(texts)}, language={len(languages)}"
            )
        return self.align_waveforms(waveforms, texts, [KNOWN_LANGUAGES.prompt_name(one) or "" for one in languages])

    def align_waveforms(
        self, waveforms: Sequence[Waveform], texts: Sequence[str], languages: Sequence[str]
    ) -> list[ForcedAlignResult]:
        """`align` for waveforms, (N,) float32 at 16 kHz.

        A language is an English name. Words of an unknown language are split at spaces.
        """
        questions = list(map(self._question, waveforms, map(alignment_words, texts, languages)))
        return [
            ForcedAlignResult(
                [
                    ForcedAlignItem(word, round(start / 1000, 3), round(end / 1000, 3))
                    for word, start, end in zip(timed.words, timed.times_ms[::2], timed.times_ms[1::2], strict=True)
                ]
            )
            for timed in self._time(questions)
        ]

    def align_words(
        self, waveforms: Sequence[Waveform], texts: Sequence[str], languages: Sequence[str | None]
    ) -> list[Alignment]:
        """Align texts with waveforms; see TextAligner. `Word.text` is written as in the text.

        A text that cannot be aligned gets an Alignment without words and with the reason.
        """
        questions: dict[int, _Question] = {}
        found: dict[int, Alignment] = {}
        for i, (waveform, text, language) in enumerate(zip(waveforms, texts, languages, strict=True)):
            try:
                questions[i] = self._question(waveform, alignment_words(text, _english(language)))
            except (AudioTooLongError, ConfigError, PromptTooLongError) as error:
                found[i] = Alignment(None, str(error))
        timed = self._time(list(questions.values()))
        found |= {i: Alignment(_words(texts[i], one)) for i, one in zip(questions, timed, strict=True)}
        return [found[i] for i in range(len(waveforms))]

    def _question(self, waveform: Waveform, words: list[str]) -> _Question:
        """Build the prompt of one clip.

        Raises AudioTooLongError, or PromptTooLongError if audio and words exceed the model's positions.
        """
        if len(waveform) > MAX_AUDIO_S * SAMPLE_RATE + SAMPLES_BEYOND:
            seconds = len(waveform) / SAMPLE_RATE
            raise AudioTooLongError(f"{seconds:.1f} s of audio; the forced aligner takes up to {MAX_AUDIO_S:g} s")
        ids = self._tokenizer.encode("<|audio_end|>" + "".join(word + 2 * TIMESTAMP for word in words))
        question = _Question(waveform, words, ids)
        share = self._max_positions / self._num_positions(question)
        if words and share < 1:
            seconds = len(waveform) / SAMPLE_RATE
            raise PromptTooLongError(
                f"{seconds:.1f} s of audio with {len(words)} words; of speech so dense the forced aligner takes up to "
                f"{share * seconds:.1f} s with {int(share * len(words))} words"
            )
        return question

    def _num_positions(self, question: _Question) -> int:
        return len(self._before) + self._acoustic.num_audio_tokens(len(question.waveform)) + len(question.ids)

    @torch.inference_mode()
    def _time(self, questions: Sequence[_Question]) -> list[_Timed]:
        self._process.require()
        results = [_Timed([], [], []) for _ in questions]
        pool: BatchPool[int] = BatchPool(max_frames=MAX_BATCH_TOKENS, max_size=MAX_BATCH)
        for i, question in enumerate(questions):
            if question.words:
                pool.add(self._num_positions(question), i)
        with one_thread(active=self._device.type != "cpu"):
            while pool:
                chosen = pool.take(last=True)
                for i, timed in zip(chosen, self._time_batch([questions[i] for i in chosen]), strict=True):
                    results[i] = timed
        return results

    def _time_batch(self, questions: Sequence[_Question]) -> list[_Timed]:
        """Run one batch. Prompts are padded on the right, because a causal LLM does not attend to later positions."""
        encoded = self._acoustic.encode([question.waveform for question in questions], with_ctc=False)
        heard = [utterance.audio_embeds for utterance in encoded.utterances()]
        embed = self._llm.get_input_embeddings()
        rows = [
            torch.cat(
                [self._embedded(embed, self._before), audio.to(self._device), self._embedded(embed, question.ids)]
            )
            for audio, question in zip(heard, questions, strict=True)
        ]
        hidden = self._llm(inputs_embeds=pad_sequence(rows, batch_first=True), use_cache=False).last_hidden_state
        results = []
        for row, audio, question in zip(hidden, heard, questions, strict=True):
            places = [k for k, token in enumerate(question.ids) if token == self._timestamp]
            marks = torch.tensor(places, device=self._device) + len(self._before) + len(audio)
            probs, classes = self._classifier(row[marks]).float().softmax(-1).max(-1)
            times = in_order([self._class_ms * k for k in classes.tolist()])
            results.append(_Timed(question.words, times, probs.view(-1, 2).prod(1).sqrt().tolist()))
        return results

    def _embedded(self, embed: Any, ids: Sequence[int]) -> Tensor:
        rows: Tensor = embed(torch.tensor(ids, device=self._device))
        return rows


def _english(language: str | None) -> str:
    """The English name of a language given by name, code or tag; "" for a language that the aligner does not know."""
    try:
        return KNOWN_LANGUAGES.prompt_name(language) or ""
    except ConfigError:
        return ""


def _words(text: str, timed: _Timed) -> tuple[Word, ...]:
    return tuple(
        Word(text[begin:stop], start / 1000, end / 1000, min(confidence, 1.0))
        for (begin, stop), start, end, confidence in zip(
            spans_in(text, timed.words), timed.times_ms[::2], timed.times_ms[1::2], timed.confidences, strict=True
        )
    )
