"""Waveforms -> the log-mel features that Whisper introduced, batched on the waveforms' device.

A Hann window of 25 ms every 10 ms, power spectrum, mel filters on Slaney's scale from 0 Hz to Nyquist, decimal
logarithm with a floor eight orders of magnitude below the clip's own highest value, then (x + 4) / 4. The clip is
mirrored at both ends, so that frame t is centred on sample 160 t; a clip of N samples has N // 160 frames. A clip's
features depend neither on its padding nor on the other clips.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000  # Hz
WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
MARGIN_SAMPLES = WINDOW_SAMPLES // 2  # mirrored before and after a clip
MIN_SAMPLES = MARGIN_SAMPLES + 1  # less cannot be mirrored

_POWER_FLOOR = 1e-10
_RANGE_DECADES = 8.0  # below the clip's maximum
_MAX_FRAMES_AT_ONCE = 65_536  # bounds the spectra in memory: about 0.2 GB
_SLANEY_BREAK_HZ = 1000.0  # the scale is linear below and logarithmic above
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def num_mel_frames(num_samples: int) -> int:
    """Frames of 10 ms that a clip of `num_samples` samples has."""
    return num_samples // HOP_SAMPLES


def mirrored_batch(clips: Sequence[np.ndarray], *, pin_memory: bool = False) -> Tensor:
    """Clips as rows with mirrored margins, which `log_mel` reads.

    Args:
        clips: (N_i,) float32 each, N_i at least MIN_SAMPLES.

    Returns:
        (B, MARGIN_SAMPLES + max(N_i) + MARGIN_SAMPLES) float32 on the CPU, zero behind each clip's margin.

    Raises:
        ValueError: a clip that is too short.
    """
    shortest = min(len(clip) for clip in clips)
    if shortest < MIN_SAMPLES:
        raise ValueError(f"clips must have at least {MIN_SAMPLES} samples, got {shortest}")
    longest = max(len(clip) for clip in clips)
    rows = torch.zeros(len(clips), longest + 2 * MARGIN_SAMPLES, pin_memory=pin_memory)
    for row, clip in zip(rows.numpy(), clips, strict=True):
        end = MARGIN_SAMPLES + len(clip)
        row[MARGIN_SAMPLES:end] = clip
        row[:MARGIN_SAMPLES] = clip[MARGIN_SAMPLES:0:-1]
        row[end : end + MARGIN_SAMPLES] = clip[-2 : -2 - MARGIN_SAMPLES : -1]
    return rows


def log_mel(rows: Tensor, sample_lens: Tensor, num_mels: int) -> Tensor:
    """Features of B clips.

    Args:
        rows: (B, margin + N + margin) float32 from `mirrored_batch`, on any device.
        sample_lens: (B,) int64 on the CPU, each at most N.

    Returns:
        (B, num_mels, N // 160) float32, zero beyond a clip's own frames.
    """
    num_frames = num_mel_frames(rows.shape[1] - 2 * MARGIN_SAMPLES)
    lens = (sample_lens // HOP_SAMPLES).to(rows.device, non_blocking=True)
    features = rows.new_empty(len(rows), num_mels, num_frames)
    size = max(_MAX_FRAMES_AT_ONCE // max(num_frames, 1), 1)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        features[part] = _log_mel(rows[part], lens[part], num_mels, num_frames)
    return features


def _log_mel(rows: Tensor, lens: Tensor, num_mels: int, num_frames: int) -> Tensor:
    window = _hann(rows.device)
    spectra = torch.stft(rows, WINDOW_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
    power = spectra[..., :num_frames].abs().square_()
    energies = (_mel_filters(num_mels, rows.device) @ power).clamp_(min=_POWER_FLOOR).log10_()
    padding = torch.arange(num_frames, device=rows.device) >= lens[:, None, None]
    highest = energies.masked_fill(padding, -torch.inf).amax((1, 2), keepdim=True)
    return energies.maximum(highest - _RANGE_DECADES).add_(4.0).div_(4.0).masked_fill_(padding, 0.0)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # cached, so it must be usable in every mode
def _hann(device: torch.device) -> Tensor:
    return torch.hann_window(WINDOW_SAMPLES).to(device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _mel_filters(num_mels: int, device: torch.device) -> Tensor:
    """Triangles equally spaced on Slaney's scale, each of the same area: (num_mels, 201) float32."""
    top = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL + np.log(SAMPLE_RATE / 2 / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    edges = _mel_to_hz(np.linspace(0.0, top, num_mels + 2))[:, None]
    bins = np.linspace(0.0, SAMPLE_RATE / 2, WINDOW_SAMPLES // 2 + 1)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(min=0.0)
    return torch.from_numpy((triangles * 2.0 / (right - left)).astype(np.float32)).to(device)


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    logarithmic = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mels - break_mel))
    return np.where(mels < break_mel, _SLANEY_HZ_PER_MEL * mels, logarithmic)
