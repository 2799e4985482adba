"""Audio in messages, 16-bit PCM or G.711 -> samples, and their resampling to 16 kHz."""

import numpy as np
import soxr

from ..audio.waveform import MIN_SAMPLES, SAMPLE_RATE, Waveform
from ..streaming.audio import PCM16_FULL_SCALE, PCMReader

MIN_PCM_BYTES = 2 * MIN_SAMPLES


class PCMDecoder:
    """Bytes of one stream -> samples. A piece may end within a sample, whose other half comes with the next piece."""

    def __init__(self, format_type: str = "audio/pcm") -> None:
        """`format_type`: audio/pcm (16-bit, little-endian), audio/pcmu or audio/pcma."""
        self._table = {"audio/pcmu": MU_LAW, "audio/pcma": A_LAW}.get(format_type)
        self._reader = PCMReader()

    def decode(self, content: bytes) -> Waveform:
        """(bytes,) -> (N,) float32 in [-1, 1]."""
        if self._table is not None:
            return self._table[np.frombuffer(content, np.uint8)]
        return self._reader.samples(content)


class Resampler:
    """Resamples one stream to 16 kHz. The result does not depend on how the stream is cut into pieces."""

    def __init__(self, sample_rate: int) -> None:
        self._is_needed = sample_rate != SAMPLE_RATE
        self._stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def push(self, samples: Waveform) -> Waveform:
        """(N,) float32 -> (M,) float32 at 16 kHz; the resampler may hold some samples back."""
        return self._resampled(samples) if self._is_needed else samples

    def finish(self) -> Waveform:
        """The samples that the resampler has held back."""
        empty = np.zeros(0, np.float32)
        return self._resampled(empty, last=True) if self._is_needed else empty

    def _resampled(self, samples: Waveform, *, last: bool = False) -> Waveform:
        resampled: Waveform = self._stream.resample_chunk(samples, last=last)
        return resampled


def _mu_law() -> Waveform:
    """ITU-T G.711, table 2a: (256,) float32 in [-1, 1], the value of each mu-law code."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32) / PCM16_FULL_SCALE


def _a_law() -> Waveform:
    """ITU-T G.711, table 1a: (256,) float32 in [-1, 1], the value of each A-law code."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    linear = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, linear, (linear + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float32) / PCM16_FULL_SCALE


MU_LAW, A_LAW = _mu_law(), _a_law()
