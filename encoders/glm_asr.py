"""GLM-ASR-Nano's audio encoder: Whisper features of 30 s -> embeddings for the LLM, 12.5 for every second.

It always hears 30 s. As in training, a shorter clip is followed by silence, which its frames attend to. Four
neighbouring frames make one embedding; the first embeddings belong to the clip. The layout of the weights is that of
transformers' checkpoints, without their prefixes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import SAMPLE_RATE
from .transformer import LayerStack, attend
from .whisper_features import HOP_SAMPLES

WINDOW_SAMPLES = 30 * SAMPLE_RATE
MERGED_FRAMES = 4  # encoder frames in one embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class GLMASRTowerConfig:
    """Sizes of an encoder. Raises ValueError if they do not fit together."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    llm_dim: int
    num_mel_bins: int = 128
    rotary_dim: int  # so many of each head's dimensions, the first ones, are rotated
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size must be a multiple of {self.num_attention_heads}, got {self.hidden_size}")
        if (self.hidden_size // self.num_attention_heads) % self.rotary_dim or self.rotary_dim % 2:
            raise ValueError(f"rotary_dim must be even and divide a head's dimensions, got {self.rotary_dim}")
        if self.intermediate_size != MERGED_FRAMES * self.hidden_size:
            raise ValueError(
                f"intermediate_size must be {MERGED_FRAMES} times hidden_size ({self.hidden_size}), "
                f"got {self.intermediate_size}"
            )


class GLMASRTower(LayerStack):
    """Convolutions, a Transformer with rotary positions, and a projection. Its units are windows of 30 s."""

    min_samples: int = WINDOW_SAMPLES
    max_samples: int | None = WINDOW_SAMPLES
    few_units = 8

    def __init__(self, config: GLMASRTowerConfig) -> None:
        super().__init__(_Layer, fixed_frames=True)
        self.config = config
        self.num_mels = config.num_mel_bins
        width = config.hidden_size
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(MERGED_FRAMES * width, 2 * config.llm_dim)
        self.linear_2 = nn.Linear(2 * config.llm_dim, config.llm_dim)

    def num_tokens(self, num_samples: int) -> int:
        """Number of embeddings of a clip of up to 30 s: one for four convolved frames, and at least one."""
        mel_frames = -(-num_samples // HOP_SAMPLES)
        return max(-(-mel_frames // 2) // MERGED_FRAMES, 1)

    def units(self, features: Tensor, sample_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns its arguments, because each clip is one unit."""
        return features, sample_lens

    def forward(self, units: Tensor, lens: Tensor) -> Tensor:
        """Encode U clips of up to 30 s.

        Args:
            units: (U, num_mel_bins, 3000) float32.
            lens: (U,) int64. They are not used, because the silence after a clip is encoded as well.

        Returns:
            (U, 375, llm_dim).
        """
        x = F.gelu(self.conv1(units.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2).contiguous()
        x = self.run_layers(
            self.layers, x, *(turn.to(x.dtype) for turn in rotations(x.shape[1], self.config, x.device))
        )
        x = self.norm(x).view(len(x), -1, MERGED_FRAMES * x.shape[2])
        out: Tensor = self.linear_2(F.gelu(self.linear_1(x)))
        return out


class _Layer(nn.Module):
    """Pre-norm Transformer layer."""

    def __init__(self, config: GLMASRTowerConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size)
        self.self_attn = _Attention(config.hidden_size, config.num_attention_heads)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size)
        self.mlp = _FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class _FeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention; queries and keys are rotated by their position."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        query, key = (self._rotated(proj(x), cos, sin) for proj in (self.q_proj, self.k_proj))
        out: Tensor = self.o_proj(attend(query, key, self.v_proj(x), num_heads=self.num_heads, mask=None))
        return out

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, D), heads side by side, rotated by `rotations`. Without slices it compiles to one kernel."""
        planes = x.view(*x.shape[:2], self.num_heads, *cos.shape[2:])
        return (planes * cos + planes.flip(-2) * sin).flatten(2)


def rotations(num_positions: int, config: GLMASRTowerConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rotary positions (RoPE) for the first rotary_dim dimensions of a head; i and i + rotary_dim / 2 form a plane.

    Returns:
        cos, the factor of each dimension, and sin, that of the other dimension of its plane: both float32
        (num_positions, 1, head_dim / rotary_dim, 2, rotary_dim / 2).
    """
    width = config.rotary_dim
    speeds = config.rope_theta ** -(torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    angles = torch.arange(num_positions, dtype=torch.float32, device=device)[:, None] * speeds
    groups = config.hidden_size // config.num_attention_heads // width
    cos = torch.ones(num_positions, 1, groups, 2, width // 2, device=device)
    sin = torch.zeros_like(cos)
    cos[:, 0, 0] = angles.cos()[:, None]
    sin[:, 0, 0] = torch.stack([-angles.sin(), angles.sin()], 1)
    return cos, sin
