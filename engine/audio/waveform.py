"""Blocks of samples -> waveform (N,) float32, mono, 16 kHz. Every decoder pushes its blocks into a Joiner."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from ...encoders import SAMPLE_RATE as SAMPLE_RATE
from ..checks import check_fields
from ..errors import AudioTooLongError, ConfigError, UnsupportedAudioError
from ..transcript import TranscriptWarning
from .channels import Channels, Mixer
from .notes import Notes

MAX_CHANNELS = 64  # of a file; sixth-order ambisonics has 49
# Audio that may be missing: stored lengths are rounded and padded by a frame (AAC at 8 kHz: 0.13 s), and few words are
# this short.
LOSS_TOLERANCE_S = 0.25

MIN_SAMPLES = 2  # the shortest clip that features can be computed of

Waveform: TypeAlias = npt.NDArray[np.float32]

# Samples per channel that are checked and resampled at a time. Such blocks stay in a core's cache. The C library
# returns larger ones to the system when they are freed, and faulting their pages in again costs more than mixing.
_BLOCK_SAMPLES = 1 << 16
_TAKEN_SAMPLES = 1 << 18  # fewest samples that take() hands out: a consumer's work per block is not small


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLimits:
    """Bounds on one input, against forged headers and small files that decode to hours of silence."""

    max_duration_s: float = 12 * 3600.0  # 2.8 GB as one waveform; a recording that is cut has a few minutes in memory
    max_bytes: int = 2 << 30  # of the encoded file; one hour of 24-bit 48 kHz stereo WAV is 1.0 GB
    max_samples: int = 1 << 32  # decoded, of all channels together; 12 hours of 48 kHz stereo have 4.1e9
    max_cpu_s: float = 600.0  # CPU time to decode the file; 12 hours of 44.1 kHz stereo AAC take about a minute
    min_sample_rate: int = 1_000  # Hz
    max_sample_rate: int = 768_000  # Hz

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("max_duration_s", "max_bytes", "max_samples", "max_cpu_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.min_sample_rate <= self.max_sample_rate:
            raise ConfigError(f"sample rates must be 0 < min <= max: {self.min_sample_rate}, {self.max_sample_rate}")


DEFAULT_LIMITS = AudioLimits()


class Joiner:
    """Mixes and resamples the blocks of one recording, and raises an error when the limits are exceeded.

    Finished blocks can be taken at any time, so a recording need not fit into memory.
    """

    def __init__(
        self,
        name: str,
        limits: AudioLimits,
        *,
        channels: Channels = "mix",
        salvage: bool = False,
        notes: Notes | None = None,
    ) -> None:
        """`salvage`: missing audio is a warning, not an error. `notes`: records what was changed."""
        self.name = name
        self.limits = limits
        self.salvage = salvage
        self.notes = Notes() if notes is None else notes
        self._mixer = Mixer(name, channels, self.notes)
        self._sample_rate = 0
        self._earlier_s = 0.0  # duration of the audio before the last change of the sample rate
        self._num_samples = 0  # samples per channel since then
        self._num_decoded = 0  # samples of all channels together
        self._num_heard = 0  # samples after mixing that became blocks
        self._num_invalid = 0  # those of them that are NaN or infinite
        self._was_resampled = False
        self._resampler: Any = None
        self._empty: Waveform = np.zeros(0, np.float32)  # no samples, in the shape of the blocks
        self._pending: list[Waveform] = []
        self._num_pending = 0
        self._blocks: list[Waveform] = []
        self._num_ready = 0  # samples per channel in _blocks
        self._num_taken = 0

    @property
    def duration_s(self) -> float:
        """Duration of the audio pushed so far."""
        return self._earlier_s + (self._num_samples / self._sample_rate if self._sample_rate else 0.0)

    def require_duration(self, duration_s: float) -> None:
        """Raises AudioTooLongError if `duration_s` exceeds the limit."""
        if duration_s > self.limits.max_duration_s:
            allowed_s = self.limits.max_duration_s
            raise AudioTooLongError(
                f"{self.name}: {duration_s:,.1f} s of audio or more, at most {allowed_s:,.1f} s allowed"
            )

    def require_samples(self, num_samples: float) -> None:
        """Raises AudioTooLongError if `num_samples`, of all channels together, exceeds the limit."""
        if num_samples > self.limits.max_samples:
            raise AudioTooLongError(
                f"{self.name}: {num_samples:,.0f} samples of all channels or more, at most "
                f"{self.limits.max_samples:,} allowed"
            )

    def require_format(self, sample_rate: int, num_channels: int) -> None:
        """Raises UnsupportedAudioError if the sample rate or the number of channels is outside the limits."""
        low, high = self.limits.min_sample_rate, self.limits.max_sample_rate
        if not low <= sample_rate <= high:
            raise UnsupportedAudioError(f"{self.name}: sample rate {sample_rate:,} Hz, allowed are {low:,} to {high:,}")
        if not 1 <= num_channels <= MAX_CHANNELS:
            raise UnsupportedAudioError(f"{self.name}: {num_channels} channels, allowed are 1 to {MAX_CHANNELS}")

    def require_complete(self, promised_s: float, *, lost_s: float = 0.0) -> None:
        """Compare the pushed audio with the file's promise; warns of losses.

        Args:
            promised_s: duration of the recording by its container.
            lost_s: duration of the audio that could not be decoded, and may have been pushed as silence.

        Raises:
            UnsupportedAudioError: more than LOSS_TOLERANCE_S is missing, and `salvage` is off.
        """
        whole_s = max(promised_s, self.duration_s)
        missing_s = min(whole_s, max(promised_s - self.duration_s, 0.0) + lost_s)
        if missing_s > LOSS_TOLERANCE_S and not self.salvage:
            raise UnsupportedAudioError(
                f"{self.name}: truncated or damaged: {whole_s - missing_s:.2f} s of {whole_s:.2f} s can be decoded"
            )
        if lost_s > 0 or missing_s > LOSS_TOLERANCE_S:
            self.note_missing(f"{missing_s:.2f} s of {whole_s:.2f} s could not be decoded")

    def note_missing(self, message: str) -> None:
        """Record a warning about missing audio."""
        self.notes.add(TranscriptWarning("missing_audio", message))

    def push(self, planes: npt.NDArray[Any], sample_rate: int) -> None:
        """Add samples, (channels, N) of any dtype that the Mixer knows, at `sample_rate` Hz. Raises AudioError."""
        if sample_rate != self._sample_rate or not sample_rate:
            self._begin_rate(sample_rate)
        self._num_decoded += planes.size
        self.require_samples(self._num_decoded)
        start_s = self.duration_s
        self._num_samples += planes.shape[1]
        self.require_duration(self.duration_s)
        self._pending.append(self._mixer.mix(planes, start_s=start_s, end_s=self.duration_s))
        self._num_pending += planes.shape[1]
        if self._num_pending >= _BLOCK_SAMPLES:
            self._flush()

    def push_silence(self, duration_s: float, num_channels: int, sample_rate: int) -> None:
        """Add silence, as if `num_channels` channels of it had been decoded. Raises AudioTooLongError."""
        self.require_duration(self.duration_s + duration_s)
        left = round(duration_s * sample_rate)
        while left > 0:
            length = min(left, _BLOCK_SAMPLES)
            self.push(np.broadcast_to(np.float32(0.0), (num_channels, length)), sample_rate)
            left -= length

    def _begin_rate(self, sample_rate: int) -> None:
        """Continue with another sample rate, since each part of a joined file may have its own."""
        self.require_format(sample_rate, 1)
        if self._sample_rate:
            self._flush(last=True)
            self._earlier_s = self.duration_s
        self._num_samples, self._sample_rate, self._resampler = 0, sample_rate, None

    def _flush(self, *, last: bool = False) -> None:
        block = self._concatenated(self._pending)
        self._pending, self._num_pending = [], 0
        self._empty = block[:0]
        self._num_heard += block.size
        # np.dot would find it as well, but wakes all threads of the BLAS library for each clip.
        self._num_invalid += block.size - int(np.count_nonzero(np.isfinite(block)))
        block = block if self._sample_rate == SAMPLE_RATE else self._resampled(block, last=last)
        self._blocks.append(block)
        self._num_ready += len(block)

    def _resampled(self, block: Waveform, *, last: bool) -> Waveform:
        if self._resampler is None:
            num_channels = block.shape[1] if block.ndim == 2 else 1
            self._resampler = soxr.ResampleStream(
                self._sample_rate, SAMPLE_RATE, num_channels, dtype="float32", quality="HQ"
            )
            self._was_resampled = True
        resampled: Waveform = self._resampler.resample_chunk(block, last=last)
        return resampled

    def _concatenated(self, blocks: list[Waveform]) -> Waveform:
        """The blocks as one array; a single block is not copied."""
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [self._empty])

    def take(self) -> list[Waveform]:
        """The finished samples that have not been taken, as one block; none while they are few.

        Raises UnsupportedAudioError for NaN and infinite samples.
        """
        if self._num_ready < _TAKEN_SAMPLES:
            return []
        block = self._concatenated(self._blocks)
        self._require_finite(block)
        self._num_taken += len(block)
        self._blocks, self._num_ready = [], 0
        return [block]

    def finish(self) -> Waveform:
        """The part of the waveform that has not been taken: (N,) float32 at 16 kHz, or (N, channels) if split.

        Raises:
            UnsupportedAudioError: the recording has fewer than MIN_SAMPLES samples, or NaN or infinite ones.
        """
        if not self._num_decoded:
            raise UnsupportedAudioError(f"{self.name}: no samples")
        if self._pending or self._resampler is not None:
            self._flush(last=True)
        waveform = self._concatenated(self._blocks)
        self._require_finite(waveform)
        if self._num_taken + len(waveform) < MIN_SAMPLES:
            raise UnsupportedAudioError(
                f"{self.name}: {len(waveform)} sample(s) at 16 kHz, at least {MIN_SAMPLES} are needed"
            )
        return waveform

    def _require_finite(self, block: Waveform) -> None:
        if self._num_invalid:
            raise UnsupportedAudioError(
                f"{self.name}: {self._num_invalid:,} of {self._num_heard:,} samples are NaN or infinite"
            )
        if self._was_resampled and not np.isfinite(block).all():
            raise UnsupportedAudioError(f"{self.name}: samples too large for resampling to 16 kHz")


def check_samples(waveform: object) -> None:
    """Raises UnsupportedAudioError for anything but (N,) float32 of at least MIN_SAMPLES samples."""
    if not isinstance(waveform, np.ndarray):
        raise UnsupportedAudioError(f"samples must be an array of (N,) float32, got {type(waveform).__name__}")
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        found = f"{waveform.dtype} of shape {waveform.shape}"
        raise UnsupportedAudioError(f"samples must be an array of (N,) float32, got {found}")
    if len(waveform) < MIN_SAMPLES:
        raise UnsupportedAudioError(f"audio must have at least {MIN_SAMPLES} samples, got {len(waveform)}")
