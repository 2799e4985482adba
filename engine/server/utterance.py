"""One utterance to a voice assistant: PCM of any format -> text while it is spoken."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import QueueFullError, UnsupportedAudioError
from ..streaming import AsyncStreamingSession, Event, Final, TextSoFar
from .commands import finish_stream
from .pcm import Resampler
from .recognizer import Recognizer
from .sessions import SessionEnd
from .settings import ServerSettings

MAX_CHANNELS = 8

_SCALES = {1: 1 << 7, 2: 1 << 15, 3: 1 << 23, 4: 1 << 31}  # bytes of a sample -> full scale


@dataclass(frozen=True, slots=True)
class PCMFormat:
    """The format of PCM: little-endian signed integers, or unsigned ones if a sample has one byte."""

    rate: int  # Hz
    width: int  # bytes of a sample
    channels: int  # interleaved

    @property
    def frame_bytes(self) -> int:
        return self.width * self.channels

    def require(self, limits: ServerSettings) -> None:
        """Raises UnsupportedAudioError for a format that cannot be decoded, or that the limits exclude."""
        are_numbers = all(type(value) is int for value in (self.rate, self.width, self.channels))
        if not are_numbers or self.width not in _SCALES or not 1 <= self.channels <= MAX_CHANNELS:
            raise UnsupportedAudioError(f"audio has 1 to 4 bytes a sample and 1 to {MAX_CHANNELS} channels, got {self}")
        if not limits.min_sample_rate <= self.rate <= limits.max_sample_rate:
            allowed = f"{limits.min_sample_rate} to {limits.max_sample_rate}"
            raise UnsupportedAudioError(f"the rate is {self.rate}, allowed are {allowed} Hz")


def decode_pcm(content: bytes, given: PCMFormat) -> Waveform:
    """Whole frames -> (N,) float32 in [-1, 1], the mean of the channels."""
    if given.width == 1:
        values = np.frombuffer(content, np.uint8).astype(np.float32) - 128
    elif given.width == 3:
        padded = np.zeros((len(content) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        values = (padded.view("<i4")[:, 0] >> 8).astype(np.float32)
    else:
        values = np.frombuffer(content, f"<i{given.width}").astype(np.float32)
    mixed: Waveform = values.reshape(-1, given.channels).mean(1, dtype=np.float32)
    return mixed / np.float32(_SCALES[given.width])


class Utterance:
    """One utterance, from audio-start to audio-stop."""

    def __init__(self, recognizer: Recognizer, *, language: str | None, hotwords: Sequence[str]) -> None:
        """Raises ConfigError for a language that the model does not know."""
        self._recognizer = recognizer
        # A model that cannot be asked for a language detects it.
        can_be_asked = bool(recognizer.service.model.family.languages)
        options = recognizer.options(language=language if can_be_asked else None, hotwords=hotwords)
        self._stream = AsyncStreamingSession(recognizer.service, options, recognizer.live)
        self._format: PCMFormat | None = None  # of the first chunk; all others must have the same
        self._rest = b""  # the incomplete frame at the end of the last chunk
        self._resampler: Resampler | None = None
        self._num_samples = 0  # at 16 kHz
        self._so_far = TextSoFar()
        self._sent = ""
        self.language: str | None = None  # detected or asked for

    @property
    def text(self) -> str:
        return self._so_far.text

    def samples(self, content: bytes, given: PCMFormat) -> Waveform:
        """Any number of bytes -> (N,) float32 samples at 16 kHz.

        Raises UnsupportedAudioError for an invalid format or one that changes, SessionEnd for too much audio.
        """
        self._require_format(given)
        assert self._resampler is not None
        content = self._rest + content
        end = len(content) - len(content) % given.frame_bytes
        self._rest = content[end:]
        samples = self._resampler.push(decode_pcm(content[:end], given))
        self._num_samples += len(samples)
        max_s = self._recognizer.settings.max_audio_s
        if self._num_samples > max_s * SAMPLE_RATE:
            raise SessionEnd(1009, f"more than {max_s:g} s of audio")
        return samples

    async def push(self, samples: Waveform) -> str:
        """Transcribe more samples; returns new text that will not change."""
        if not len(samples):
            return ""
        with contextlib.suppress(QueueFullError):  # a later push, or finish(), yields the text that is missing
            return self._heard(await self._stream.push(samples))
        return ""

    async def finish(self) -> str:
        """End the utterance; returns the rest of its text. Raises ASRError if a part could not be transcribed."""
        rest = None if self._resampler is None else self._resampler.finish()
        return self._heard(await finish_stream(self._stream, rest))

    def _heard(self, events: list[Event]) -> str:
        for event in events:
            self.language = event.language or self.language
            if isinstance(event, Final):
                self._recognizer.metrics.count(event.transcript)
                if error := event.transcript.exception():
                    raise error
        self._so_far.add(events)
        fixed = self._so_far.fixed_text
        new, self._sent = fixed[len(self._sent) :], fixed
        return new

    def _require_format(self, given: PCMFormat) -> None:
        if given == self._format:
            return
        if self._format is not None:
            raise UnsupportedAudioError(f"the format changes within an utterance, from {self._format} to {given}")
        given.require(self._recognizer.settings)
        self._format, self._resampler = given, Resampler(given.rate)
