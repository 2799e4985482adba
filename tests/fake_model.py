"""A whole model of rules: every step of the engine in microseconds, without weights, LLM or processes.

Each clip is a number: its loudest sample, in thousandths. Stage 1 hands the number on, the decoder writes "clip 7.",
and the aligner hears just that, so that a clip that gets lost, mixed up or dropped is seen in a text.
"""

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.fake_decoder import FakeDecoder
from tests.fake_voices import FakeVoices
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.audio.read_ahead import Audio
from twostage_asr.engine.audio.readers import AudioReaders
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.errors import ConfigError
from twostage_asr.engine.families.base import Answer, Request
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.prompt import EMBEDDING_NAME, PromptEmbedder, PromptText
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.transcript import Word
from twostage_asr.engine.vad.splitting import Piece
from twostage_asr.engine.words.aligner import Alignment
from twostage_asr.engine.words.confidence import WrittenTokens

HIDDEN_SIZE = 4
FRAME_SAMPLES = 960  # 60 ms
LANGUAGES = ("en", "zh")


def samples(number: int, seconds: float = 1.0) -> Waveform:
    """The clip of this number."""
    return np.full(round(seconds * SAMPLE_RATE), number / 1000, np.float32)


def number_of(waveform: Waveform) -> int:
    return round(1000 * float(waveform.max(initial=0.0)))


def text_of(number: int) -> str:
    """What the model writes for this clip."""
    return f"clip {number}."


class FakeTokenizer:
    """A token is a byte of UTF-8."""

    def encode(self, text: str, *, begins_text: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="replace")

    def decode_each(self, token_ids: Sequence[int]) -> list[str]:
        return [self.decode([token_id]) for token_id in token_ids]


class FakeFamily:
    """Its prompt holds everything that is asked for."""

    name = "fake"
    languages = LANGUAGES
    best_length_s = 30.0
    languages = LANGUAGES

    def build_acoustic_model(self, *_: object) -> Any:
        raise NotImplementedError("this family is built by fake_transcriber()")

    def prompt_text(self, request: Request) -> PromptText:
        if request.language not in (None, *LANGUAGES):
            raise ConfigError(f"language {request.language!r} is unknown; allowed: {', '.join(LANGUAGES)}")
        return PromptText(prefix=f"{request.context}{', '.join(request.hotwords)}:", suffix="\n")

    def parse_answer(self, answer: str, request: Request) -> Answer:
        return Answer(answer.strip(), request.language)


class FakeAcoustic:
    """Embeddings and hidden states hold nothing but the clip's number; a batch larger than `room_s` does not fit."""

    def __init__(self, room_s: float = float("inf")) -> None:
        self.room_s = room_s
        self.batches: list[list[int]] = []  # the numbers of each batch that was encoded

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // FRAME_SAMPLES)

    def num_audio_tokens(self, num_samples: int) -> int:
        return -(-self.num_frames(num_samples) // 8)

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        padded_s = len(waveforms) * max(map(len, waveforms)) / SAMPLE_RATE
        if padded_s > self.room_s:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {padded_s:g} MiB.")
        numbers = [number_of(waveform) for waveform in waveforms]
        self.batches.append(numbers)
        encoder_lens = [self.num_frames(len(waveform)) for waveform in waveforms]
        audio_lens = [self.num_audio_tokens(len(waveform)) for waveform in waveforms]
        rows = torch.tensor(numbers, dtype=torch.float32)[:, None, None]
        hidden = rows.expand(-1, max(encoder_lens), HIDDEN_SIZE) if with_ctc else None
        return EncodedBatch(
            audio_embeds=rows.expand(-1, max(audio_lens), HIDDEN_SIZE),
            audio_lens=audio_lens,
            ctc_hidden=hidden,
            encoder_lens=encoder_lens,
        )


class FakeAligner:
    """Hears every text as it is written, its words at even distances."""

    def align(
        self,
        hidden: Sequence[Tensor],
        texts: Sequence[str],
        durations: Sequence[float],
        *,
        written: Sequence[WrittenTokens | None] | None = None,
        compare: bool = False,
    ) -> list[Alignment]:
        return [self._alignment(text, duration) for text, duration in zip(texts, durations, strict=True)]

    def close(self) -> None:
        pass

    def _alignment(self, text: str, duration: float) -> Alignment:
        words = text.rstrip(".").split()
        step = duration / max(len(words), 1)
        timed = tuple(Word(word, i * step, (i + 1) * step, 0.9) for i, word in enumerate(words))
        return Alignment(timed, ctc_text=text, disagreement=0.0)


class ReadAlready:
    """In place of AudioReaders: what is read of each input, whatever the input is."""

    def __init__(self, audio: Sequence[Audio | Waveform]) -> None:
        self._audio = [Piece.whole(each) if isinstance(each, np.ndarray) else each for each in audio]

    def read(self, items: Iterable[AudioInput], **_: object) -> Generator[tuple[int, AudioInput, Audio], None, None]:
        yield from ((i, item, audio) for i, (item, audio) in enumerate(zip(items, self._audio, strict=True)))

    def close(self) -> None:
        pass


def write_answer(prompt: Tensor) -> list[int]:
    """The rule of the decoder: the rows around the audio are zeros."""
    return list(text_of(round(float(prompt.max()))).encode())


def fake_transcriber(directory: Path, **changes: Any) -> Transcriber:
    """`directory` takes the embedding table, all zeros; `changes` are fields of Transcriber."""
    table = directory / "model.safetensors"
    if not table.exists():
        save_file({EMBEDDING_NAME: torch.zeros(256, HIDDEN_SIZE)}, table)
    tokenizer: Any = FakeTokenizer()
    parts: dict[str, Any] = {
        "family": FakeFamily(),
        "acoustic": FakeAcoustic(),
        "aligner": FakeAligner(),
        "no_times_reason": "",
        "tokenizer": tokenizer,
        "embedder": PromptEmbedder(directory, tokenizer, torch.float32),
        "decoder": FakeDecoder(write_answer, hidden_size=HIDDEN_SIZE),
        "readers": AudioReaders(1),
        "device": torch.device("cpu"),
        "max_batch_frames": 4000,
        "lock": ModelLock(),
        "speakers": FakeVoices(),
    }
    return Transcriber(**parts | changes)
