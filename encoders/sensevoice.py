"""SenseVoice's audio encoder: pre-norm self-attention with an FSMN memory (SANM), full context.

LFR features (B, T, 560) float32 -> encoder_out (B, T, output_dim), one frame per 60 ms, in the weights' dtype.
The layout of the weights is FunASR's `SenseVoiceEncoderSmall`, without the prefix `audio_encoder.`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transformer import FeedForward, LayerStack, Mask, attend, key_mask, valid_frames

_LONGEST_WAVELENGTH = 10_000.0  # of the positional encoding, in frames / 2 pi
_MOST_UNROLLED_TAPS = 31  # of the FSMN memory; the published models have 11
# Frames. oneDNN compiles one kernel for each shape that it convolves and caches them, so lengths are rounded up.
_LENGTH_STEP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SenseVoiceConfig:
    """Sizes of the encoder; FunASR's names where they differ are input_size and output_size."""

    input_dim: int = 560
    output_dim: int
    attention_heads: int
    linear_units: int  # width of the feed-forward layers
    num_blocks: int  # layers before `after_norm`, the first of which maps input_dim to output_dim
    tp_blocks: int  # layers after it
    kernel_size: int  # of the FSMN memory, in frames
    memory_shift: int = 0  # frames by which the memory looks further back than ahead

    def __post_init__(self) -> None:
        if self.output_dim % self.attention_heads:
            raise ValueError(
                f"output_dim must be a multiple of attention_heads ({self.attention_heads}), got {self.output_dim}"
            )
        if self.input_dim % 2 or self.input_dim < 4 or self.input_dim == self.output_dim:
            raise ValueError(
                f"input_dim must be even, at least 4, and not output_dim ({self.output_dim}), got {self.input_dim}"
            )
        if self.num_blocks < 1 or self.tp_blocks < 0 or self.kernel_size < 1:
            raise ValueError(
                "num_blocks and kernel_size must be at least 1, tp_blocks at least 0, "
                f"got {self.num_blocks}, {self.kernel_size}, {self.tp_blocks}"
            )
        if not 0 <= self.memory_shift <= self.kernel_size // 2:
            raise ValueError(
                f"memory_shift must be in 0..{self.kernel_size // 2} (half of kernel_size), got {self.memory_shift}"
            )


class SenseVoiceEncoder(LayerStack):
    """Stack of `num_blocks` + `tp_blocks` SANM layers with a LayerNorm after each of the two groups."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__(_SANMLayer)
        self.config = config
        width = config.output_dim
        self.encoders0 = nn.ModuleList([_SANMLayer(config, config.input_dim)])
        self.encoders = nn.ModuleList([_SANMLayer(config, width) for _ in range(config.num_blocks - 1)])
        self.tp_encoders = nn.ModuleList([_SANMLayer(config, width) for _ in range(config.tp_blocks)])
        self.after_norm = nn.LayerNorm(width)
        self.tp_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, lens: Tensor) -> Tensor:
        """Encode a padded batch. `features` is not modified.

        Args:
            features: (B, T, input_dim) float32 LFR features; padding may hold any finite value.
            lens: (B,) frames of each clip, also those of the output.

        Returns:
            (B, T, output_dim) in the weights' dtype. Rows beyond a clip's length are finite but have no meaning.
        """
        valid = valid_frames(lens, features.shape[1], features.device)
        mask = key_mask(lens, features.shape[1], self.after_norm.weight)
        padding = None if valid is None else ~valid[..., None]
        # Raw log-mel energies are large, so they stay float32 until the first LayerNorm.
        x = features.float() * math.sqrt(self.config.output_dim)
        x += _positional_encoding(features.shape[1], self.config.input_dim, features.device)
        x = self.after_norm(self.run_layers((*self.encoders0, *self.encoders), x, mask, padding))
        encoder_out: Tensor = self.tp_norm(self.run_layers(self.tp_encoders, x, mask, padding))
        return encoder_out


class _InputNorm(nn.LayerNorm):
    """LayerNorm computed in float32. The result has the weights' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        return F.layer_norm(x, self.normalized_shape, weight.float(), bias.float(), self.eps).to(weight.dtype)


class _SANMLayer(nn.Module):
    """x + SANM(norm1(x)), then x + feed_forward(norm2(x)). Where the width changes, the first sum is left out."""

    def __init__(self, config: SenseVoiceConfig, input_dim: int) -> None:
        super().__init__()
        self.is_first = input_dim != config.output_dim
        self.norm1 = _InputNorm(input_dim) if self.is_first else nn.LayerNorm(input_dim)
        self.self_attn = _SANM(config, input_dim)
        self.norm2 = nn.LayerNorm(config.output_dim)
        self.feed_forward = FeedForward(config.output_dim, config.linear_units)

    def forward(self, x: Tensor, mask: Mask, padding: Tensor | None) -> Tensor:
        attended = self.self_attn(self.norm1(x), mask, padding)
        x = attended if self.is_first else x + attended
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class _SANM(nn.Module):
    """Multi-head self-attention. A depthwise convolution over the values is added to its output."""

    def __init__(self, config: SenseVoiceConfig, input_dim: int) -> None:
        super().__init__()
        width = config.output_dim
        self.num_heads = config.attention_heads
        self.linear_q_k_v = nn.Linear(input_dim, 3 * width)
        self.linear_out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, config.kernel_size, groups=width, bias=False)
        frames_back = (config.kernel_size - 1) // 2 + config.memory_shift
        self._reach = (frames_back, config.kernel_size - 1 - frames_back)

    def forward(self, x: Tensor, mask: Mask, padding: Tensor | None) -> Tensor:
        q, k, value = self.linear_q_k_v(x).chunk(3, dim=-1)
        context = attend(q, k, value, num_heads=self.num_heads, mask=mask)
        out: Tensor = self.linear_out(context) + self._memory(value, padding)
        return out

    def _memory(self, value: Tensor, padding: Tensor | None) -> Tensor:
        """FSMN: each frame's value plus a learned sum of its neighbours', (B, T, width)."""
        if padding is not None:
            value = value.masked_fill(padding, 0.0)
        if torch.compiler.is_compiling() and self.fsmn_block.kernel_size[0] <= _MOST_UNROLLED_TAPS:
            return self._unrolled_memory(value)
        num_frames, (frames_back, frames_ahead) = value.shape[1], self._reach
        columns = F.pad(value.transpose(1, 2), (frames_back, frames_ahead + -num_frames % _LENGTH_STEP))
        memory: Tensor = self.fsmn_block(columns)[..., :num_frames].transpose(1, 2)
        return memory + value

    def _unrolled_memory(self, value: Tensor) -> Tensor:
        """The same as a sum of shifted frames, which torch.compile fuses with the operations around it."""
        frames_back, frames_ahead = self._reach
        padded = F.pad(value, (0, 0, frames_back, frames_ahead)).float()
        memory = value.float()
        for tap, weight in enumerate(self.fsmn_block.weight[:, 0].float().unbind(1)):
            memory = memory + padded[:, tap : tap + value.shape[1]] * weight
        return memory.to(value.dtype)


def _positional_encoding(num_frames: int, width: int, device: torch.device) -> Tensor:
    """(num_frames, width) float32: sines, then cosines, of positions 1..num_frames."""
    count = width // 2
    step = math.log(_LONGEST_WAVELENGTH) / (count - 1)
    frequency = torch.exp(torch.arange(count, device=device, dtype=torch.float32) * -step)
    angle = torch.arange(1, num_frames + 1, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
