"""Waveforms -> log-mel filterbank features -> low frame rate (LFR) features, batched on the waveforms' device.

The steps and constants are Kaldi's, as in FunASR's WavFrontend: samples x 32768, DC removal, pre-emphasis 0.97, Hamming
window, power spectrum, 80 triangular mel filters from 20 Hz to Nyquist, natural logarithm with a floor. There are
frames only where a whole window fits. A clip shorter than one window gives one frame, with a window and an FFT of its
own size. A clip's features depend neither on its padding nor on the other clips.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from . import SAMPLE_RATE
from .upload import to_device

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
MIN_SAMPLES = 2  # shorter audio has no spectrum
NUM_MELS = 80
LFR_M = 7  # neighbouring frames that one LFR frame joins
LFR_N = 6  # frames between two LFR frames: 60 ms

_INT16_SCALE = 32_768.0  # the models were trained on the value range of 16-bit samples
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_POWER_FLOOR = torch.finfo(torch.float32).eps
_MAX_FRAMES_AT_ONCE = 32_768  # bounds the working memory: about 0.3 GB, however many clips there are


def num_fbank_frames(num_samples: int) -> int:
    """Frames of 10 ms that `num_samples` samples give. Raises ValueError below MIN_SAMPLES."""
    if num_samples < MIN_SAMPLES:
        raise ValueError(f"audio must have at least {MIN_SAMPLES} samples, got {num_samples}")
    return 1 + max(num_samples - WINDOW_SAMPLES, 0) // HOP_SAMPLES


def num_lfr_frames(num_samples: int) -> int:
    """LFR frames of 60 ms that `num_samples` samples give. Raises ValueError below MIN_SAMPLES."""
    return -(-num_fbank_frames(num_samples) // LFR_N)


def fbank_frame_lens(sample_lens: Tensor) -> Tensor:
    """`num_fbank_frames` of many clips: (B,) int64 -> (B,) int64."""
    return 1 + (sample_lens - WINDOW_SAMPLES).clamp(min=0) // HOP_SAMPLES


def lfr_frame_lens(fbank_lens: Tensor, lfr_n: int = LFR_N) -> Tensor:
    """Frames after `stack_frames`: (B,) int64 -> (B,) int64."""
    return -(-fbank_lens // lfr_n)


def log_mel_fbank(waveforms: Tensor, sample_lens: Tensor, *, dither: float = 0.0) -> tuple[Tensor, Tensor]:
    """Log-mel features of B clips.

    Args:
        waveforms: (B, N) float32 in [-1, 1], 16 kHz. Samples beyond a clip's length are ignored.
        sample_lens: (B,) int64. On the CPU they avoid a synchronisation with the device.
        dither: standard deviation, in 16-bit steps, of the noise added to every frame. FunASR adds 1.0 when it
            transcribes; 0.0 gives the same features in every run.

    Returns:
        fbank (B, T, 80) float32 with T = num_fbank_frames(N), zero beyond a clip's frames; fbank_lens (B,) int64.

    Raises:
        ValueError: a wrong shape or dtype, or a length outside 2..N.
    """
    _check_waveforms(waveforms, sample_lens)
    fbank = _of_whole_windows(waveforms, dither, _energies_by_fft)
    for clip in (sample_lens < WINDOW_SAMPLES).nonzero().flatten().tolist():
        fbank[clip, :1] = _log_mel(waveforms[clip : clip + 1, : int(sample_lens[clip])], dither)
    fbank_lens = fbank_frame_lens(sample_lens)
    if not fbank_lens.is_cuda:
        fbank_lens = to_device(fbank_lens, waveforms.device)
    return _zero_padding(fbank, fbank_lens), fbank_lens


def graph_fbank(waveforms: Tensor, sample_lens: Tensor, *, dither: float = 0.0) -> tuple[Tensor, Tensor]:
    """`log_mel_fbank` in operations that a CUDA graph can hold, for clips of at least WINDOW_SAMPLES.

    The spectrum is a matrix product, because cuFFT frees the plans that were not used for long, also one that a graph
    still uses. Of many clips the product takes longer than an FFT: a frame costs 0.4 million multiplications.

    Args:
        waveforms: (B, N) float32 in [-1, 1], 16 kHz. Samples beyond a clip's length are ignored.
        sample_lens: (B,) int64 on the device of the waveforms, in 1..N. They are not checked, because a check would
            wait for the device. A clip that is shorter than a window gives one frame, which has no meaning.
        dither: see `log_mel_fbank`.

    Returns:
        As `log_mel_fbank`.
    """
    fbank_lens = fbank_frame_lens(sample_lens)
    with _without_tf32():
        fbank = _of_whole_windows(waveforms, dither, _energies_by_product)
    return _zero_padding(fbank, fbank_lens), fbank_lens


def speaker_fbank(waveforms: Tensor) -> Tensor:
    """Features for speaker embeddings: Kaldi's defaults on samples in [-1, 1], less each clip's mean over time.

    They differ from log_mel_fbank in the window (Povey's) and in the scale, which decides where the floor lies.

    Args:
        waveforms: (B, N) float32 in [-1, 1], 16 kHz, N at least WINDOW_SAMPLES.

    Returns:
        (B, num_fbank_frames(N), 80) float32.
    """
    windows = waveforms.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
    fbank = waveforms.new_empty(*windows.shape[:2], NUM_MELS)
    for part in _parts(len(waveforms), _MAX_FRAMES_AT_ONCE // windows.shape[1]):
        fbank[part] = _log_mel(windows[part], 0.0, scale=1.0, shape=_povey)
    return fbank.sub_(fbank.mean(1, keepdim=True))


def stack_frames(fbank: Tensor, fbank_lens: Tensor, *, lfr_m: int = LFR_M, lfr_n: int = LFR_N) -> tuple[Tensor, Tensor]:
    """Low frame rate: row t joins lfr_m frames from lfr_n * t - (lfr_m - 1) // 2 on; a clip's edge frames are repeated.

    Args:
        fbank: (B, T, num_mels), one frame per 10 ms.
        fbank_lens: (B,) int64, each at least 1.

    Returns:
        (B, ceil(T / lfr_n), num_mels * lfr_m), zero beyond a clip's frames; lens (B,) int64 = ceil(fbank_lens / lfr_n).
    """
    num_clips, num_frames, _ = fbank.shape
    fbank_lens = fbank_lens.to(fbank.device, non_blocking=True)
    first = torch.arange(-(-num_frames // lfr_n), device=fbank.device) * lfr_n - (lfr_m - 1) // 2
    index = first[:, None] + torch.arange(lfr_m, device=fbank.device)
    own = index.clamp(min=0).minimum(fbank_lens[:, None, None] - 1)  # (B, rows, lfr_m)
    clips = torch.arange(num_clips, device=fbank.device)[:, None, None]
    lens = lfr_frame_lens(fbank_lens, lfr_n)
    return _zero_padding(fbank[clips, own].flatten(2), lens), lens


def _check_waveforms(waveforms: Tensor, sample_lens: Tensor) -> None:
    if waveforms.ndim != 2 or waveforms.dtype != torch.float32:
        raise ValueError(f"waveforms must be (B, N) float32, got {tuple(waveforms.shape)} {waveforms.dtype}")
    if sample_lens.shape != waveforms.shape[:1]:
        raise ValueError(f"sample_lens must be ({len(waveforms)},), got {tuple(sample_lens.shape)}")
    shortest, longest = (int(bound) for bound in torch.aminmax(sample_lens))
    if shortest < MIN_SAMPLES or longest > waveforms.shape[1]:
        raise ValueError(f"sample_lens must be in {MIN_SAMPLES}..{waveforms.shape[1]}, got {shortest}..{longest}")


def _of_whole_windows(waveforms: Tensor, dither: float, energies: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, N) -> (B, num_fbank_frames(N), 80), without values where not even one whole window fits."""
    num_clips, num_samples = waveforms.shape
    num_frames = num_fbank_frames(num_samples)
    fbank = waveforms.new_empty(num_clips, num_frames, NUM_MELS)
    if num_samples >= WINDOW_SAMPLES:
        windows = waveforms.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        for part in _parts(num_frames, _MAX_FRAMES_AT_ONCE // num_clips):
            fbank[:, part] = _log_mel(windows[:, part], dither, energies=energies)
    return fbank


def _parts(total: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    return (slice(start, start + size) for start in range(0, total, size))


def _energies_by_fft(samples: Tensor) -> Tensor:
    """(..., W) windowed samples -> (..., 80) mel energies. W determines the size of the FFT."""
    fft_size = _fft_size(samples.shape[-1])
    power: Tensor = torch.fft.rfft(samples, n=fft_size).abs().square_()
    return power @ _mel_filters(fft_size, samples.device)


def _energies_by_product(samples: Tensor) -> Tensor:
    """The same. The sum over the filters also adds the squares of the real and the imaginary parts."""
    num_samples, device = samples.shape[-1], samples.device
    parts = samples @ _fourier(num_samples, device)
    filters = _mel_filters(_fft_size(num_samples), device)[:-1]  # all but the last bin, which has no filter
    return parts.square_() @ filters.repeat(2, 1)


def _log_mel(
    windows: Tensor,
    dither: float,
    *,
    scale: float = _INT16_SCALE,
    shape: Callable[[int, torch.device], Tensor] | None = None,
    energies: Callable[[Tensor], Tensor] = _energies_by_fft,
) -> Tensor:
    """(..., W) samples in [-1, 1] -> (..., 80) log-mel energies. W determines the window."""
    samples = windows * scale
    if dither:
        samples.add_(torch.randn_like(samples), alpha=dither)
    samples.sub_(samples.mean(-1, keepdim=True))
    previous = torch.cat([samples[..., :1], samples[..., :-1]], -1)
    samples.sub_(previous, alpha=_PREEMPHASIS).mul_((shape or _hamming)(windows.shape[-1], windows.device))
    return energies(samples).clamp_(min=_POWER_FLOOR).log_()


def _fft_size(num_samples: int) -> int:
    return 1 << (num_samples - 1).bit_length()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Keep a product's inputs from being rounded to 11 bits, if the program around us allows that for its own."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if before in ("none", "ieee"):
        yield
        return
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _zero_padding(rows: Tensor, lens: Tensor) -> Tensor:
    """Set rows (B, T, D) beyond `lens` to zero, in place."""
    padding = torch.arange(rows.shape[1], device=rows.device) >= lens[:, None]
    return rows.masked_fill_(padding[..., None], 0.0)


@cache  # a table is never dropped: a CUDA graph may use it
@torch.inference_mode(False)  # it must be usable in every mode
def _hamming(size: int, device: torch.device) -> Tensor:
    return torch.hamming_window(size, periodic=False, dtype=torch.float32).to(device)


@cache
@torch.inference_mode(False)
def _povey(size: int, device: torch.device) -> Tensor:
    """A Hann window to the power of 0.85."""
    return torch.hann_window(size, periodic=False, dtype=torch.float32).pow(0.85).to(device)


@cache
@torch.inference_mode(False)
def _mel_filters(fft_size: int, device: torch.device) -> Tensor:
    """Kaldi's triangular filters, equally spaced on the mel scale: (fft_size // 2 + 1, 80) float32."""
    hz_per_bin = SAMPLE_RATE / fft_size
    low, high = _mel(_LOWEST_HZ), _mel(SAMPLE_RATE / 2)
    width = (high - low) / (NUM_MELS + 1)
    left = low + torch.arange(NUM_MELS) * width
    centre = low + (torch.arange(NUM_MELS) + 1.0) * width
    right = low + (torch.arange(NUM_MELS) + 2.0) * width
    mel = 1127.0 * (1.0 + hz_per_bin * torch.arange(fft_size // 2, dtype=torch.float32)[:, None] / 700.0).log()
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    nyquist = torch.zeros(1, NUM_MELS)  # Kaldi does not use the last bin
    return torch.cat([filters, nyquist]).to(device)


@cache
@torch.inference_mode(False)
def _fourier(num_samples: int, device: torch.device) -> Tensor:
    """Cosines and sines of all bins but the last: (num_samples, fft_size) float32."""
    size = _fft_size(num_samples)
    turns = torch.arange(num_samples)[:, None] * torch.arange(size // 2) % size
    angles = turns.double() * (2 * math.pi / size)
    return torch.cat([angles.cos(), angles.sin()], 1).float().to(device)


def _mel(hz: float) -> float:
    return 1127.0 * math.log(1.0 + hz / 700.0)
