"""Qwen3-ASR's audio tower: Whisper features -> embeddings for the LLM, 13 for every second.

The features of each second pass three strided convolutions on their own; a Transformer then joins the seconds, eight of
them at a time: attention never crosses such a window, as the model was trained. Frames of all clips are computed side
by side without padding; only attention sees windows, padded where a clip ends. The layout of the weights is the
published one without its prefix; `proj1` and `proj2` are the bridge to the LLM.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transformer import attend, attention_bias
from .upload import to_device
from .whisper_features import HOP_SAMPLES, SAMPLE_RATE

MIN_SAMPLES = SAMPLE_RATE // 2  # shorter clips are filled up with silence
_CHUNKS_AT_ONCE = 512  # bounds what the first convolution holds: 1.5 GB in bfloat16 at the published sizes
_CUDA_CHUNK_STEP = 64  # chunks are filled up to a multiple of it, because cuDNN makes a plan for each new number
_MAX_WAVELENGTH = 10_000.0  # of the position embeddings

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3ASRTowerConfig:
    """Sizes of a tower, under the names that its configuration gives them."""

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
    def window_chunks(self) -> int:
        return self.n_window_infer // self.chunk_frames


def halved_thrice(num_frames: Count) -> Count:
    """Frames after three convolutions of stride 2, each rounded up: ceil(n / 8)."""
    return -(-num_frames // 8)


class Qwen3ASRTower(nn.Module):
    """Convolutions, windowed Transformer and projection."""

    min_samples: int = MIN_SAMPLES
    max_samples: int | None = None

    def __init__(self, config: Qwen3ASRTowerConfig) -> None:
        super().__init__()
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

    def num_frames(self, num_samples: int) -> int:
        """Positions of the Transformer that a clip takes."""
        return self.num_tokens(num_samples)

    def num_tokens(self, num_samples: int) -> int:
        """Embeddings of a clip; one shorter than MIN_SAMPLES counts as filled up."""
        chunks, rest = divmod(max(num_samples, MIN_SAMPLES) // HOP_SAMPLES, self.config.chunk_frames)
        return chunks * self.config.chunk_tokens + halved_thrice(rest)

    def forward(self, features: Tensor, sample_lens: Tensor) -> Tensor:
        """Encode B clips.

        Args:
            features: (B, num_mel_bins, T) float32, zero beyond a clip's own frames.
            sample_lens: (B,) int64 on the CPU.

        Returns:
            (sum of the clips' num_tokens, output_dim), the clips one after the other.
        """
        layout = _Layout.of(sample_lens.clamp(min=MIN_SAMPLES) // HOP_SAMPLES, self.config)
        features = features.to(self.conv_out.weight.dtype)
        x = self._convolve(features, to_device(layout.chunks, features.device))
        x = x.flatten(0, 1)[to_device(layout.tokens, x.device)]
        windows = layout.windows_on(x.device, x.dtype)
        for layer in self.layers:
            x = layer(x, windows)
        out: Tensor = self.proj2(F.gelu(self.proj1(self.ln_post(x))))
        return out

    def _convolve(self, features: Tensor, chunks: Tensor) -> Tensor:
        """(B, mels, T) -> (at least as many as `chunks`, chunk_tokens, d_model), positions added."""
        size = self.config.chunk_frames
        features = F.pad(features, (0, -features.shape[2] % size))
        batch, mels, num_frames = features.shape
        pieces = features.view(batch, mels, num_frames // size, size).transpose(1, 2).flatten(0, 1)[chunks]
        if pieces.is_cuda:
            pieces = F.pad(pieces, (0, 0, 0, 0, 0, -len(pieces) % _CUDA_CHUNK_STEP))
        parts = []
        for piece in torch.split(pieces, _CHUNKS_AT_ONCE):
            x = F.gelu(self.conv2d1(piece[:, None]))
            x = F.gelu(self.conv2d3(F.gelu(self.conv2d2(x))))
            parts.append(self.conv_out(x.permute(0, 3, 1, 2).flatten(2)))
        x = torch.cat(parts)
        return x + position_embeddings(x.shape[1], x.shape[2], x.device).to(x.dtype)


class Qwen3AlignerTower(Qwen3ASRTower):
    """The forced aligner's tower, and the head that reads times from the LLM's hidden states."""

    def __init__(self, config: Qwen3ASRTowerConfig, num_classes: int) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.output_dim, num_classes, bias=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Where packed rows stand in the padded windows of attention."""

    slots: Tensor  # (N,) int64, flat
    shape: tuple[int, int]  # windows, positions of each
    bias: Tensor | None  # (windows, 1, 1, positions)

    def padded(self, x: Tensor) -> Tensor:
        """(N, D) -> (windows, positions, D)."""
        rows = x.new_zeros(self.shape[0] * self.shape[1], x.shape[1])
        return rows.index_copy_(0, self.slots, x).view(*self.shape, -1)

    def packed(self, x: Tensor) -> Tensor:
        """(windows, positions, D) -> (N, D)."""
        return x.flatten(0, 1)[self.slots]


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Which rows of a padded batch are real; all on the CPU."""

    chunks: Tensor  # (C,) flat places in (B, chunks of the longest clip)
    tokens: Tensor  # (N,) flat places in (C, chunk_tokens)
    slots: Tensor  # (N,) flat places in (windows, positions)
    shape: tuple[int, int]  # windows, positions

    @classmethod
    def of(cls, frame_lens: Tensor, config: Qwen3ASRTowerConfig) -> "_Layout":
        """frame_lens: (B,) mel frames of each clip, at least 1."""
        size, per_chunk = config.chunk_frames, config.chunk_tokens
        num_chunks = -(-frame_lens // size)  # (B,)
        most = int(num_chunks.max())
        index = torch.arange(most)
        real = index < num_chunks[:, None]  # (B, most)
        frames = (frame_lens[:, None] - index * size).clamp(max=size)[real]  # (C,)
        tokens = torch.arange(per_chunk) < halved_thrice(frames)[:, None]  # (C, per_chunk)
        window_chunks = min(config.window_chunks, most)
        num_windows = -(-num_chunks // window_chunks)
        first_window = num_windows.cumsum(0) - num_windows
        window = (first_window[:, None] + index // window_chunks)[real]  # (C,)
        start = window * window_chunks * per_chunk + (index % window_chunks).expand_as(real)[real] * per_chunk
        slots = (start[:, None] + torch.arange(per_chunk))[tokens]
        shape = int(num_windows.sum()), window_chunks * per_chunk
        return cls(real.flatten().nonzero()[:, 0], tokens.flatten().nonzero()[:, 0], slots, shape)

    def windows_on(self, device: torch.device, dtype: torch.dtype) -> _Windows:
        slots = to_device(self.slots, device)
        if len(self.slots) == self.shape[0] * self.shape[1]:
            return _Windows(slots, self.shape, None)
        valid = torch.zeros(self.shape, dtype=torch.bool)
        valid.view(-1)[self.slots] = True
        return _Windows(slots, self.shape, attention_bias(to_device(valid, device), dtype))


class _Layer(nn.Module):
    """Pre-norm Transformer layer."""

    def __init__(self, config: Qwen3ASRTowerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = _Attention(width, config.encoder_attention_heads)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, width)

    def forward(self, x: Tensor, windows: _Windows) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), windows)
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention inside windows."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, windows: _Windows) -> Tensor:
        query, key, value = (windows.padded(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        attended = attend(query, key, value, num_heads=self.num_heads, mask=windows.bias)
        out: Tensor = self.out_proj(windows.packed(attended))
        return out


def position_embeddings(num_positions: int, width: int, device: torch.device) -> Tensor:
    """Whisper's: (num_positions, width) float32, sines in the first half and cosines in the second."""
    step = math.log(_MAX_WAVELENGTH) / (width // 2 - 1)
    angles = torch.arange(num_positions, device=device)[:, None] * torch.exp(
        -step * torch.arange(width // 2, device=device)
    )
    return torch.cat([angles.sin(), angles.cos()], 1)
