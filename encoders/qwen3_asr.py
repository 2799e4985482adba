"""Qwen3-ASR's audio tower: Whisper features -> embeddings for the LLM, 13 for every second.

Each second of features passes three strided convolutions separately. A Transformer then attends within windows of eight
seconds and never across them, as in training. The seconds of all clips form one batch, and only a clip's last second is
padded. The layout of the weights is the published one without its prefix; `proj1` and `proj2` project to the LLM.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import SAMPLE_RATE
from .transformer import LayerStack, PaddedKeys, attend, attend_rows, attention_bias, is_half_on_gpu, valid_frames
from .upload import to_device
from .whisper_features import HOP_SAMPLES

MIN_SAMPLES = SAMPLE_RATE // 2  # shorter clips are padded with silence
_CHUNKS_AT_ONCE = 512  # bounds the memory of the first convolution: 1.5 GB in bfloat16 at the published sizes
_CUDA_CHUNK_STEP = 64  # larger numbers of chunks are rounded up to a multiple: cuDNN plans for each new number
_MAX_WAVELENGTH = 10_000.0  # of the position embeddings

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3ASRTowerConfig:
    """Sizes of a tower, by the names of its configuration. Raises ValueError if they do not fit together."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    output_dim: int  # the LLM's width
    downsample_hidden_size: int = 480  # channels of the convolutions
    num_mel_bins: int = 128
    n_window: int = 50  # half the mel frames of what one convolution sees
    n_window_infer: int = 800  # mel frames of one attention window

    def __post_init__(self) -> None:
        if self.d_model % self.encoder_attention_heads or self.d_model % 2:
            raise ValueError(f"d_model must be even and a multiple of {self.encoder_attention_heads} heads")
        if self.n_window_infer % self.chunk_frames:
            raise ValueError(f"n_window_infer must be a multiple of {self.chunk_frames}, got {self.n_window_infer}")

    @property
    def chunk_frames(self) -> int:
        """Mel frames that are convolved together: one second."""
        return 2 * self.n_window

    @property
    def chunk_tokens(self) -> int:
        return halved_thrice(self.chunk_frames)

    @property
    def window_tokens(self) -> int:
        """Positions of one attention window."""
        return self.n_window_infer // self.chunk_frames * self.chunk_tokens


def halved_thrice(num_frames: Count) -> Count:
    """Frames after three convolutions of stride 2, each rounded up: ceil(n / 8)."""
    return -(-num_frames // 8)


class Qwen3ASRTower(LayerStack):
    """Convolutions, windowed Transformer and projection. Its units are chunks of one second."""

    min_samples: int = MIN_SAMPLES
    max_samples: int | None = None
    few_units = _CUDA_CHUNK_STEP

    def __init__(self, config: Qwen3ASRTowerConfig) -> None:
        super().__init__(_Layer)
        self.config = config
        self.num_mels = config.num_mel_bins
        channels, width = config.downsample_hidden_size, config.d_model
        self.conv2d1 = nn.Conv2d(1, channels, 3, 2, padding=1)
        self.conv2d2 = nn.Conv2d(channels, channels, 3, 2, padding=1)
        self.conv2d3 = nn.Conv2d(channels, channels, 3, 2, padding=1)
        self.conv_out = nn.Linear(channels * halved_thrice(config.num_mel_bins), width, bias=False)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.encoder_layers)])
        self.ln_post = nn.LayerNorm(width)
        self.proj1 = nn.Linear(width, width)
        self.proj2 = nn.Linear(width, config.output_dim)

    def num_tokens(self, num_samples: int) -> int:
        """Number of embeddings of a clip. One shorter than MIN_SAMPLES is padded to it first."""
        return self._token_count(max(num_samples, MIN_SAMPLES) // HOP_SAMPLES)

    def _token_count(self, mel_frames: Count) -> Count:
        size = self.config.chunk_frames
        return mel_frames // size * self.config.chunk_tokens + halved_thrice(mel_frames % size)

    def units(self, features: Tensor, sample_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Cut clips into chunks.

        Args:
            features: (B, num_mel_bins, T) float32, zero beyond a clip's own frames.
            sample_lens: (B,) int64 on the CPU.

        Returns:
            The chunks of all clips, (U, num_mel_bins, chunk_frames); and the number of tokens of each attention
            window, (U,) int64 on the CPU, with zeros after the last window. On a GPU empty chunks may follow.
        """
        config, size = self.config, self.config.chunk_frames
        mel_frames = sample_lens.clamp(min=MIN_SAMPLES) // HOP_SAMPLES
        features = F.pad(features, (0, -features.shape[2] % size))
        # (B, chunks of the longest clip, mels, size)
        chunks = features.view(*features.shape[:2], -1, size).transpose(1, 2)
        real = torch.arange(chunks.shape[1]) * size < mel_frames[:, None]
        units = chunks.flatten(0, 1)[to_device(real.flatten().nonzero()[:, 0], features.device)]
        tokens = self._token_count(mel_frames)[:, None]
        before = torch.arange(0, int(tokens.max()), config.window_tokens)
        windows = (tokens - before).clamp(max=config.window_tokens)[before < tokens]
        if units.is_cuda and len(units) > _CUDA_CHUNK_STEP:
            empty = -len(units) % _CUDA_CHUNK_STEP
            units = F.pad(units, (0, 0, 0, 0, 0, empty))
            windows = F.pad(windows, (0, empty), value=1)
        return units, F.pad(windows, (0, len(units) - len(windows)))

    def forward(self, units: Tensor, lens: Tensor) -> Tensor:
        """Encode chunks.

        Args:
            units: (U, num_mel_bins, chunk_frames) float32.
            lens: (U,) int64, as `units` returns it.

        Returns:
            (U, chunk_tokens, output_dim). Rows beyond the tokens of a window have no meaning.
        """
        x = self._convolve(units.to(self.conv_out.weight.dtype)).flatten(0, 1)
        x = self.run_layers(self.layers, x, self._windows(lens, x))
        out: Tensor = self.proj2(F.gelu(self.proj1(self.ln_post(x))))
        return out.view(len(units), -1, out.shape[1])

    def _convolve(self, chunks: Tensor) -> Tensor:
        """(U, mels, frames) -> (U, chunk_tokens, d_model), with position embeddings added."""
        parts = []
        for part in torch.split(chunks, _CHUNKS_AT_ONCE):
            x = F.gelu(self.conv2d1(part[:, None]))
            x = F.gelu(self.conv2d3(F.gelu(self.conv2d2(x))))
            parts.append(self.conv_out(x.permute(0, 3, 1, 2).flatten(2)))
        x = torch.cat(parts)
        return x + position_embeddings(x.shape[1], x.shape[2], x.device).to(x.dtype)

    def _windows(self, lens: Tensor, rows: Tensor) -> "PaddedKeys | _PaddedWindows":
        """Where the tokens of each window are among the rows (N, D) of all chunks."""
        if not lens.is_cuda:
            lens = lens[lens > 0]
        size = self.config.chunk_tokens
        row_lens = -(-lens // size) * size  # rounded up to whole chunks
        starts = F.pad(row_lens.cumsum(0), (1, 0))
        if is_half_on_gpu(rows):
            return PaddedKeys(starts.int(), lens.int())
        longest = self.config.window_tokens if lens.is_cuda else int(row_lens.max())
        row = torch.arange(len(rows), device=lens.device)
        window = torch.searchsorted(starts, row, right=True) - 1
        places = (starts[:-1, None] + torch.arange(longest, device=lens.device)).clamp(max=len(rows) - 1)
        bias = attention_bias(valid_frames(lens, longest, rows.device), rows.dtype)
        return _PaddedWindows(places, window * longest + row - starts[window], bias)


class Qwen3AlignerTower(Qwen3ASRTower):
    """The forced aligner's tower, with the head that turns the LLM's hidden states into times."""

    def __init__(self, config: Qwen3ASRTowerConfig, num_classes: int) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.output_dim, num_classes, bias=False)


class _PaddedWindows(NamedTuple):
    """Windows as a padded batch, for attention without PaddedKeys."""

    places: Tensor  # (W, T) int64: the row of each position
    slots: Tensor  # (N,) int64: the position of each row among all W * T
    bias: Tensor | None  # (W, 1, 1, T)


class _Layer(nn.Module):
    """Pre-norm Transformer layer."""

    def __init__(self, config: Qwen3ASRTowerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = _Attention(config)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, width)

    def forward(self, x: Tensor, windows: PaddedKeys | _PaddedWindows) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), windows)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention within windows."""

    def __init__(self, config: Qwen3ASRTowerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.num_heads = config.encoder_attention_heads
        self.longest = config.window_tokens
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, windows: PaddedKeys | _PaddedWindows) -> Tensor:
        parts = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if isinstance(windows, PaddedKeys):
            heads = (part.view(part.shape[0], self.num_heads, -1) for part in parts)
            attended = attend_rows(*heads, keys=windows, longest=self.longest).flatten(1)
        else:
            padded = (part[windows.places] for part in parts)
            attended = attend(*padded, num_heads=self.num_heads, mask=windows.bias).flatten(0, 1)[windows.slots]
        out: Tensor = self.out_proj(attended)
        return out


def position_embeddings(num_positions: int, width: int, device: torch.device) -> Tensor:
    """Whisper's position embeddings, (num_positions, width) float32: sines in the first half, cosines in the second."""
    step = math.log(_MAX_WAVELENGTH) / (width // 2 - 1)
    angles = torch.arange(num_positions, device=device)[:, None] * torch.exp(
        -step * torch.arange(width // 2, device=device)
    )
    return torch.cat([angles.sin(), angles.cos()], 1)
