"""Samples -> waveform (N,) float32, mono, 16 kHz: what every decoder pushes its blocks into."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from .checks import check_fields
from .errors import AudioTooLongError, ConfigError, UnsupportedAudioError

SAMPLE_RATE = 16_000  # Hz, of every waveform in this package
MAX_CHANNELS = 64  # of a file; sixth-order ambisonics has 49
LOSS_TOLERANCE_S = 0.25  # lengths are rounded, and padded by a frame (AAC at 8 kHz: 0.13 s); few words are shorter
INTEGER_FULL_SCALE = {np.int16: 2.0**15, np.int32: 2.0**31, np.uint8: 2.0**7}

Waveform: TypeAlias = npt.NDArray[np.float32]

_BLOCK_SAMPLES = 1 << 20  # that are checked and resampled at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLimits:
    """What one input may cost; protects against forged headers and files that decode to hours of silence."""

    max_duration_s: float = 12 * 3600.0  # a day's recording; cut, a few minutes of it are in memory, whole, 2.8 GB
    max_bytes: int = 2 << 30  # encoded; one hour of 24-bit 48 kHz stereo WAV is 1.0 GB
    min_sample_rate: int = 1_000  # Hz
    max_sample_rate: int = 768_000  # Hz

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.max_duration_s > 0 or self.max_bytes <= 0:
            raise ConfigError(f"max_duration_s and max_bytes must be positive: {self.max_duration_s}, {self.max_bytes}")
        if not 0 < self.min_sample_rate <= self.max_sample_rate:
            raise ConfigError(f"sample rates must be 0 < min <= max: {self.min_sample_rate}, {self.max_sample_rate}")


DEFAULT_LIMITS = AudioLimits()


class Joiner:
    """Collects mono blocks of one sample rate, resamples them on the way, and stops when the limits are passed.

    What is ready can be taken on the way, so that no recording has to fit into memory.
    """

    def __init__(self, name: str, limits: AudioLimits) -> None:
        self.name = name
        self.limits = limits
        self._sample_rate = 0
        self._num_samples = 0
        self._num_invalid = 0
        self._resampler: Any = None
        self._pending: list[Waveform] = []
        self._num_pending = 0
        self._blocks: list[Waveform] = []
        self._num_taken = 0

    @property
    def duration_s(self) -> float:
        """Of what was pushed."""
        return self._num_samples / self._sample_rate if self._sample_rate else 0.0

    def require_duration(self, duration_s: float) -> None:
        """Raises AudioTooLongError if this is more than the limits allow."""
        if duration_s > self.limits.max_duration_s:
            allowed_s = self.limits.max_duration_s
            raise AudioTooLongError(
                f"{self.name}: {duration_s:,.1f} s of audio or more, at most {allowed_s:,.1f} s allowed"
            )

    def require_format(self, sample_rate: int, num_channels: int) -> None:
        """Raises UnsupportedAudioError if the limits do not allow this."""
        low, high = self.limits.min_sample_rate, self.limits.max_sample_rate
        if not low <= sample_rate <= high:
            raise UnsupportedAudioError(f"{self.name}: sample rate {sample_rate:,} Hz, allowed are {low:,} to {high:,}")
        if not 1 <= num_channels <= MAX_CHANNELS:
            raise UnsupportedAudioError(f"{self.name}: {num_channels} channels, allowed are 1 to {MAX_CHANNELS}")

    def require_complete(self, promised_s: float) -> None:
        """Raises UnsupportedAudioError when what was pushed falls short of what the file promised."""
        if promised_s - self.duration_s > LOSS_TOLERANCE_S:
            raise UnsupportedAudioError(
                f"{self.name}: truncated or damaged: {self.duration_s:.2f} s of {promised_s:.2f} s can be decoded"
            )

    def push(self, block: Waveform, sample_rate: int) -> None:
        """Add mono samples, (N,) float32 at `sample_rate` Hz. Raises AudioError."""
        if not self._sample_rate:
            self.require_format(sample_rate, 1)
            self._sample_rate = sample_rate
            if sample_rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        elif sample_rate != self._sample_rate:
            raise UnsupportedAudioError(
                f"{self.name}: the sample rate changes from {self._sample_rate} to {sample_rate} Hz at "
                f"{self.duration_s:.2f} s; one rate is allowed"
            )
        self._num_samples += len(block)
        self.require_duration(self.duration_s)
        self._pending.append(block)
        self._num_pending += len(block)
        if self._num_pending >= _BLOCK_SAMPLES:
            self._flush()

    def _flush(self, *, last: bool = False) -> None:
        block = _concatenate(self._pending)
        self._pending, self._num_pending = [], 0
        with np.errstate(over="ignore", invalid="ignore"):
            energy = np.dot(block, block)  # takes half as long as a sum
        if not np.isfinite(energy):  # one NaN or infinity is enough, but finite samples can overflow it too
            self._num_invalid += int(block.size - np.count_nonzero(np.isfinite(block)))
        self._blocks.append(block if self._resampler is None else self._resampler.resample_chunk(block, last=last))

    def take(self) -> list[Waveform]:
        """What is ready and has not been taken. Raises UnsupportedAudioError for samples that are not finite."""
        blocks, self._blocks = self._blocks, []
        if blocks:
            self._require_finite(blocks)
        self._num_taken += sum(map(len, blocks))
        return blocks

    def finish(self) -> Waveform:
        """The waveform, (N,) float32 at 16 kHz, or the rest of it. Raises UnsupportedAudioError if there is nothing."""
        if not self._num_samples:
            raise UnsupportedAudioError(f"{self.name}: no samples")
        if self._pending or self._resampler is not None:
            self._flush(last=True)
        waveform = _concatenate(self._blocks)
        self._require_finite([waveform])
        if self._num_taken + len(waveform) < 2:
            raise UnsupportedAudioError(f"{self.name}: {len(waveform)} sample(s) at 16 kHz, at least 2 are needed")
        return waveform

    def _require_finite(self, blocks: list[Waveform]) -> None:
        if self._num_invalid:
            raise UnsupportedAudioError(
                f"{self.name}: {self._num_invalid:,} of {self._num_samples:,} samples are NaN or infinite"
            )
        if self._resampler is not None and not all(np.isfinite(block).all() for block in blocks):
            raise UnsupportedAudioError(f"{self.name}: samples too large for resampling to 16 kHz")


def mix(planes: npt.NDArray[Any]) -> Waveform:
    """(channels, N) of any allowed dtype -> (N,) float32, the mean; integers scaled by their full range."""
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite or NaN here is counted and reported
        samples = planes.astype(np.float32, copy=False)
        mono: Waveform = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
    if scale := INTEGER_FULL_SCALE.get(planes.dtype.type):
        mono = (mono - 128.0 if planes.dtype.type is np.uint8 else mono) / np.float32(scale)
    return np.ascontiguousarray(mono)


def _concatenate(blocks: list[Waveform]) -> Waveform:
    """Without a copy if there is one block; no block gives no samples."""
    return blocks[0] if len(blocks) == 1 else np.concatenate([*blocks, np.zeros(0, np.float32)])
