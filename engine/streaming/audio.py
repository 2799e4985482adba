"""Live audio: the forms in which callers may push it, and the recent part of a stream that is kept."""

from collections import deque
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import UnsupportedAudioError
from ..transcript import TranscriptWarning
from ..vad import SpeechSpan

PCM: TypeAlias = "bytes | npt.NDArray[np.int16] | npt.NDArray[np.float32]"
PCM16_FULL_SCALE = 32768.0


class PCMReader:
    """Converts pieces of live audio to samples. A piece may end within a sample, whose rest comes with the next one."""

    def __init__(self) -> None:
        self._half = b""  # the first byte of an incomplete sample

    def samples(self, pcm: PCM) -> Waveform:
        """PCM -> (N,) float32 in [-1, 1]. Raises UnsupportedAudioError for anything else, which changes nothing."""
        if not isinstance(pcm, bytes):
            if self._half and isinstance(pcm, np.ndarray):
                raise UnsupportedAudioError("the bytes before this array ended in the middle of a sample")
            return samples_of(pcm)
        whole = self._half + pcm
        end = len(whole) - len(whole) % 2
        self._half = whole[end:]
        return samples_of(whole[:end])

    def finish(self) -> TranscriptWarning | None:
        """A warning if the stream ended within a sample, else None."""
        if not self._half:
            return None
        self._half = b""
        return TranscriptWarning(
            "stray_byte", "the audio ended in the middle of a 16-bit sample; its byte was left out"
        )


def samples_of(pcm: PCM) -> Waveform:
    """PCM -> (N,) float32 in [-1, 1]. Raises UnsupportedAudioError for anything else."""
    if isinstance(pcm, bytes):
        if len(pcm) % 2:
            raise UnsupportedAudioError(f"16-bit samples take an even number of bytes, got {len(pcm)}")
        pcm = np.frombuffer(pcm, "<i2")
    if not isinstance(pcm, np.ndarray) or pcm.ndim != 1 or pcm.dtype not in (np.int16, np.float32):
        found = f"{pcm.dtype} of shape {pcm.shape}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise UnsupportedAudioError(f"live audio is bytes, or an array of (N,) int16 or float32; got {found}")
    if pcm.dtype == np.int16:
        return pcm.astype(np.float32) / np.float32(PCM16_FULL_SCALE)
    if not np.isfinite(pcm).all():
        raise UnsupportedAudioError(f"{np.count_nonzero(~np.isfinite(pcm))} of {len(pcm)} samples are NaN or infinite")
    return pcm.astype(np.float32, copy=False)


class RecentAudio:
    """Keeps the recent samples of a stream."""

    def __init__(self) -> None:
        self._pieces: deque[Waveform] = deque()
        self._first = 0  # index in the stream of the first sample that is kept
        self._end = 0  # number of samples in the stream so far

    @property
    def end_s(self) -> float:
        """Seconds of the stream so far."""
        return self._end / SAMPLE_RATE

    def push(self, samples: Waveform) -> None:
        self._pieces.append(samples)
        self._end += len(samples)

    def cut(self, span: SpeechSpan) -> Waveform:
        start, end = round(span.start * SAMPLE_RATE), round(span.end * SAMPLE_RATE)
        assert start >= self._first
        return np.concatenate(self._pieces)[start - self._first : end - self._first]

    def forget(self, before_s: float) -> None:
        """Drop the pieces that end before this time (s)."""
        while self._pieces and self._first + len(self._pieces[0]) <= before_s * SAMPLE_RATE:
            self._first += len(self._pieces.popleft())
