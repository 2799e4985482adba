"""The offline pipeline: inputs -> transcripts, as they finish.

Audio is read ahead in threads. The clips of one window are batched by length and encoded (stage 1), join whatever is
being decoded (stage 2), and are timed when their text is known. The window and MAX_PENDING bound the memory, however
long the list.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from .alignment import Alignment, WordAligner
from .audio import DEFAULT_LIMITS, SAMPLE_RATE, AudioLimits, Waveform
from .batching import plan_batches
from .decoder.base import DecodeParams, Decoder, Hypothesis
from .errors import ASRError, AudioError, ConfigError, DecodeError, PromptTooLongError
from .families.base import AcousticModel, ModelFamily, Request
from .inputs import AudioInput, load
from .prompt import EmbeddedPrompt, PromptEmbedder
from .text import LLMTokenizer, clean_text
from .transcript import Segment, Transcript, TranscriptWarning

READERS = os.cpu_count() or 1  # threads that decode audio
READ_AHEAD = 2 * READERS  # clips decoded before they are needed: an hour of audio takes 230 MB
MAX_PENDING = 1024  # prompts in stage 2; more would only wait in its queue
ALIGN_BATCH = 32  # finished texts that are timed together
WINDOW_BATCHES = 4  # full stage 1 batches whose clips are sorted by length together


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeOptions:
    """What one run asks for, beyond what each input says of itself."""

    request: Request
    params: DecodeParams
    timestamps: bool = True
    batch_size: int = 128  # most clips in one stage 1 batch
    limits: AudioLimits = DEFAULT_LIMITS
    allow_urls: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(slots=True, eq=False)
class _Clip:
    """One input on its way."""

    index: int
    key: str
    language: str | None
    duration: float  # s
    prompt: EmbeddedPrompt
    ctc_hidden: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriber:
    """Both stages of one loaded model."""

    family: ModelFamily
    acoustic: AcousticModel
    aligner: WordAligner | None
    no_times_reason: str  # why `aligner` is None
    tokenizer: LLMTokenizer
    embedder: PromptEmbedder
    decoder: Decoder
    max_batch_frames: int  # encoder frames of a stage 1 batch, padding included
    lock: threading.Lock

    def run(self, inputs: Sequence[AudioInput], options: TranscribeOptions) -> Iterator[tuple[int, Transcript]]:
        """Yield (index into `inputs`, transcript) in the order in which they finish.

        An input that cannot be transcribed yields a transcript of status "error".

        Raises:
            ConfigError: a language that the family does not know.
            DecodeError: the LLM's engine failed; it must be built anew.
        """
        self.family.prompt_text(options.request)  # refuses an unknown language before any work
        with self.lock:
            in_flight: dict[int, _Clip] = {}
            finished: list[tuple[_Clip, Hypothesis]] = []
            try:
                for window in self._windows(inputs, options):
                    ready: list[tuple[_Clip, Waveform]] = []
                    for index, item, audio in window:
                        if isinstance(audio, AudioError):
                            yield index, _failed(item.key, 0.0, audio)
                            continue
                        clip = self._prepare(index, item, audio, options)
                        if isinstance(clip, Transcript):
                            yield index, clip
                        else:
                            ready.append((clip, audio))
                    frames = [self.acoustic.num_frames(len(waveform)) for _, waveform in ready]
                    for batch in plan_batches(frames, max_frames=self.max_batch_frames, max_size=options.batch_size):
                        yield from self._encode([ready[i] for i in batch], in_flight, options)
                        while self.decoder.num_pending > MAX_PENDING:
                            yield from self._collect(in_flight, finished, options)
                while in_flight:
                    yield from self._collect(in_flight, finished, options)
            finally:
                if in_flight:
                    self.decoder.cancel()

    def _windows(
        self, inputs: Sequence[AudioInput], options: TranscribeOptions
    ) -> Iterator[list[tuple[int, AudioInput, Waveform | AudioError]]]:
        """Inputs with their audio, in pieces of a few batches."""
        window: list[tuple[int, AudioInput, Waveform | AudioError]] = []
        frames = 0
        for index, audio in enumerate(_read_ahead(inputs, options)):
            window.append((index, inputs[index], audio))
            frames += 0 if isinstance(audio, AudioError) else self.acoustic.num_frames(len(audio))
            if frames >= WINDOW_BATCHES * self.max_batch_frames or len(window) >= WINDOW_BATCHES * options.batch_size:
                yield window
                window, frames = [], 0
        if window:
            yield window

    def _prepare(self, index: int, item: AudioInput, audio: Waveform, options: TranscribeOptions) -> _Clip | Transcript:
        """A clip ready for stage 1, or the error result that says why not."""
        duration = len(audio) / SAMPLE_RATE
        request = Request(
            language=options.request.language if item.language is None else item.language,
            hotwords=options.request.hotwords if item.hotwords is None else item.hotwords,
            itn=options.request.itn if item.itn is None else item.itn,
        )
        try:
            prompt = self.embedder.embed(self.family.prompt_text(request))
            num_positions = len(prompt) + self.acoustic.num_audio_tokens(len(audio))
            self.decoder.limits.check_length(num_positions, options.params.max_new_tokens)
        except (ConfigError, PromptTooLongError) as error:
            return _failed(item.key, duration, error)
        return _Clip(index, item.key, request.language, duration, prompt)

    def _encode(
        self, batch: Sequence[tuple[_Clip, Waveform]], in_flight: dict[int, _Clip], options: TranscribeOptions
    ) -> Iterator[tuple[int, Transcript]]:
        """Stage 1 for one batch, handed on to stage 2; yields what stage 2 would not take."""
        encoded = self.acoustic.encode([waveform for _, waveform in batch], with_ctc=options.timestamps)
        for (clip, _), utterance in zip(batch, encoded, strict=True):
            clip.ctc_hidden = utterance.ctc_hidden
            try:
                prompt_id = self.decoder.submit(clip.prompt.around(utterance.audio_embeds), options.params)
            except (DecodeError, PromptTooLongError) as error:
                yield clip.index, _failed(clip.key, clip.duration, error)
            else:
                in_flight[prompt_id] = clip

    def _collect(
        self, in_flight: dict[int, _Clip], finished: list[tuple[_Clip, Hypothesis]], options: TranscribeOptions
    ) -> Iterator[tuple[int, Transcript]]:
        """One step of stage 2; yields transcripts once enough have finished to time them together."""
        finished.extend((in_flight.pop(prompt_id), hypothesis) for prompt_id, hypothesis in self.decoder.poll())
        if len(finished) >= ALIGN_BATCH or not in_flight:
            yield from self._finish(finished, options)
            finished.clear()

    def _finish(
        self, finished: Sequence[tuple[_Clip, Hypothesis]], options: TranscribeOptions
    ) -> Iterator[tuple[int, Transcript]]:
        texts = [clean_text(self.tokenizer.decode(hypothesis.token_ids)) for _, hypothesis in finished]
        alignments = self._align([clip for clip, _ in finished], texts, options)
        for (clip, hypothesis), text, alignment in zip(finished, texts, alignments, strict=True):
            yield clip.index, self._transcript(clip, hypothesis, text, alignment)

    def _align(self, clips: Sequence[_Clip], texts: Sequence[str], options: TranscribeOptions) -> Iterable[Alignment]:
        if not options.timestamps:
            return [Alignment(None, None)] * len(clips)
        if self.aligner is None:
            return [Alignment(None, self.no_times_reason)] * len(clips)
        hidden = [clip.ctc_hidden for clip in clips]
        return self.aligner.align([h for h in hidden if h is not None], texts, [clip.duration for clip in clips])

    def _transcript(self, clip: _Clip, hypothesis: Hypothesis, text: str, alignment: Alignment) -> Transcript:
        words, confidence = alignment.words, _confidence(hypothesis)
        segments: tuple[Segment, ...] = ()
        if text:
            start, end = (words[0].start, words[-1].end) if words else (0.0, clip.duration)
            segments = (Segment(start, end, text, words, confidence),)
        return Transcript(
            key=clip.key,
            text=text,
            language=clip.language,
            words=words,
            segments=segments,
            duration=clip.duration,
            confidence=confidence,
            finish_reason=hypothesis.finish_reason,
            warnings=tuple(self._warnings(clip, hypothesis, alignment)),
        )

    def _warnings(self, clip: _Clip, hypothesis: Hypothesis, alignment: Alignment) -> Iterator[TranscriptWarning]:
        if clip.duration > self.family.best_length_s:
            best = f"the model hears up to {self.family.best_length_s:g} s well in one pass"
            yield TranscriptWarning("long_audio", f"{clip.duration:.1f} s of audio; {best}")
        if hypothesis.finish_reason == "length":
            yield TranscriptWarning(
                "unfinished",
                f"the text stops after {len(hypothesis.token_ids)} tokens (max_new_tokens), not at its end",
            )
        if alignment.reason is not None:
            yield TranscriptWarning("no_word_times", alignment.reason)


def _read_ahead(inputs: Sequence[AudioInput], options: TranscribeOptions) -> Iterator[Waveform | AudioError]:
    """Waveforms, or what was wrong with them, in input order; decoded in threads a little before they are needed."""

    def read(item: AudioInput) -> Waveform | AudioError:
        try:
            return load(item, limits=options.limits, allow_urls=options.allow_urls)
        except AudioError as error:
            return error

    with ThreadPoolExecutor(READERS, thread_name_prefix="read-audio") as pool:
        ahead: deque[Future[Waveform | AudioError]] = deque()
        try:
            for item in inputs:
                ahead.append(pool.submit(read, item))
                if len(ahead) == READ_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _failed(key: str, duration: float, error: ASRError) -> Transcript:
    return Transcript(key, duration=duration, status="error", error=str(error))


def _confidence(hypothesis: Hypothesis) -> float | None:
    """Geometric mean of the tokens' probabilities; None where nothing was written."""
    if not hypothesis.log_probs:
        return None
    return math.exp(sum(hypothesis.log_probs) / len(hypothesis.log_probs))
