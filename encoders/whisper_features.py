"""Waveforms -> the log-mel features that Whisper introduced, batched on the waveforms' device.

A Hann window of 25 ms every 10 ms, power spectrum, mel filters on Slaney's scale from 0 Hz to Nyquist, decimal
logarithm with a floor eight orders of magnitude below the clip's own highest value, then (x + 4) / 4. The clip is
mirrored at both ends, so that frame t is centred on sample 160 t; a clip of N samples has N // 160 frames. A clip's
features depend neither on its padding nor on the other clips.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import SAMPLE_RATE
from .upload import to_device

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
MARGIN_SAMPLES = WINDOW_SAMPLES // 2  # mirrored at both ends of a clip
MIN_SAMPLES = MARGIN_SAMPLES + 1  # a shorter clip cannot be mirrored

_POWER_FLOOR = 1e-10
_RANGE_DECADES = 8.0  # below the clip's maximum
_MAX_FRAMES_AT_ONCE = 65_536  # bounds the memory of the spectra to about 0.2 GB
_SLANEY_BREAK_HZ = 1000.0  # the scale is linear below and logarithmic above
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def num_mel_frames(num_samples: int) -> int:
    """Frames of 10 ms that a clip of `num_samples` samples has."""
    return num_samples // HOP_SAMPLES


def log_mel(waveforms: Tensor, sample_lens: Tensor, num_mels: int) -> Tensor:
    """Features of B clips.

    Args:
        waveforms: (B, N) float32, zero beyond a clip's own samples, on any device.
        sample_lens: (B,) int64 on the CPU, each in MIN_SAMPLES..N, including silence that the model shall hear.

    Returns:
        (B, num_mels, N // 160) float32, zero beyond a clip's own frames.

    Raises:
        ValueError: a length outside MIN_SAMPLES..N.
    """
    num_clips, num_samples = waveforms.shape
    shortest, longest = (int(bound) for bound in torch.aminmax(sample_lens))
    if shortest < MIN_SAMPLES or longest > num_samples:
        raise ValueError(f"lengths must be in {MIN_SAMPLES}..{num_samples} samples, got {shortest}..{longest}")
    num_frames = num_mel_frames(num_samples)
    lens = to_device(sample_lens, waveforms.device)
    features = waveforms.new_empty(num_clips, num_mels, num_frames)
    size = max(_MAX_FRAMES_AT_ONCE // max(num_frames, 1), 1)
    for start in range(0, num_clips, size):
        part = slice(start, start + size)
        features[part] = _log_mel(waveforms[part], lens[part], num_mels)
    return features


def _log_mel(waveforms: Tensor, lens: Tensor, num_mels: int) -> Tensor:
    device, num_frames = waveforms.device, num_mel_frames(waveforms.shape[1])
    rows, window = _mirrored(waveforms, lens), _hann(device)
    spectra = torch.stft(rows, WINDOW_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
    power = spectra[..., :num_frames].abs().square_()
    energies = (_mel_filters(num_mels, device) @ power).clamp_(min=_POWER_FLOOR).log10_()
    padding = torch.arange(num_frames, device=device) >= (lens // HOP_SAMPLES)[:, None, None]
    highest = energies.masked_fill(padding, -torch.inf).amax((1, 2), keepdim=True)
    return energies.maximum(highest - _RANGE_DECADES).add_(4.0).div_(4.0).masked_fill_(padding, 0.0)


def _mirrored(waveforms: Tensor, lens: Tensor) -> Tensor:
    """(B, N) and (B,) on one device -> (B, MARGIN_SAMPLES + N + MARGIN_SAMPLES), each clip mirrored at both ends."""
    steps = torch.arange(MARGIN_SAMPLES, device=waveforms.device)
    rows = F.pad(waveforms, (MARGIN_SAMPLES, MARGIN_SAMPLES))
    rows[:, :MARGIN_SAMPLES] = waveforms[:, 1 : MARGIN_SAMPLES + 1].flip(1)
    ends = lens[:, None]
    return rows.scatter_(1, MARGIN_SAMPLES + ends + steps, waveforms.gather(1, ends - 2 - steps))


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
