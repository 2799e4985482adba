"""The bridge from the audio encoder to the LLM: two linear layers and a few pre-norm Transformer blocks.

encoder_out (B, T, encoder_dim) -> (B, ceil(T / downsample_rate), llm_dim), in the weights' dtype. The CTC head's
decoder has the same structure. The layout of the weights is FunASR's adaptor `Transformer`, without its prefix.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from .transformer import FeedForward, Mask, attend, key_mask, valid_frames

_NORM_EPS = 1e-12  # as in training; the encoder's is 1e-5
Count = TypeVar("Count", int, Tensor)


def audio_token_count(num_frames: Count) -> Count:
    """LLM positions that `num_frames` LFR frames take in a low-frame-rate model: three halvings, each rounded up.

    FunASR's training and inference compute `o = 1 + (L - 3 + 2) // 2; o = 1 + (o - 3 + 2) // 2; (o - 1) // 2 + 1`,
    which equals ceil(L / 8) for every L >= 1. FunASR's guide prints `((((L - 3 + 2) // 2 - 3 + 2) // 2) - 1) // 2 + 1`;
    this lacks two `1 +`, gives one position too few for three lengths in four, and none for L <= 6.
    """
    return -(-num_frames // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptorConfig:
    """Sizes of an adaptor, or of a CTC decoder, whose `llm_dim` is the width of the CTC head. Raises ValueError."""

    encoder_dim: int
    llm_dim: int
    ffn_dim: int  # between the two linear layers; the blocks have feed-forward layers of llm_dim // 4
    n_layer: int
    downsample_rate: int = 1  # encoder frames joined into one
    attention_heads: int = 8

    def __post_init__(self) -> None:
        if self.llm_dim % self.attention_heads:
            raise ValueError(
                f"llm_dim must be a multiple of attention_heads ({self.attention_heads}), got {self.llm_dim}"
            )
        if self.downsample_rate < 1 or self.n_layer < 0:
            raise ValueError(
                f"downsample_rate must be at least 1 and n_layer at least 0, got {self.downsample_rate}, {self.n_layer}"
            )


class TransformerAdaptor(nn.Module):
    """Joins `downsample_rate` frames, maps them to `llm_dim`, and lets all frames of a clip attend to each other."""

    def __init__(self, config: AdaptorConfig) -> None:
        super().__init__()
        self.config = config
        self.linear1 = nn.Linear(config.encoder_dim * config.downsample_rate, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, config.llm_dim)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.n_layer)])

    def forward(self, encoder_out: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map a padded batch.

        Args:
            encoder_out: (B, T, encoder_dim), any float dtype; padding may hold any finite value.
            lens: (B,) frames of each clip.

        Returns:
            (B, ceil(T / downsample_rate), llm_dim) and its lens, (B,). Rows beyond a clip's length have no meaning.
        """
        rate = self.config.downsample_rate
        x = encoder_out.to(self.linear1.weight.dtype)
        if rate > 1:
            x = _join_frames(x, lens, rate)
        out_lens = -(-lens // rate)
        x = self.linear2(F.relu(self.linear1(x)))
        mask = key_mask(out_lens, x.shape[1], self.linear1.weight)
        for block in self.blocks:
            x = block(x, mask)
        return x, out_lens


class _Block(nn.Module):
    """Pre-norm Transformer block without dropout."""

    def __init__(self, config: AdaptorConfig) -> None:
        super().__init__()
        width = config.llm_dim
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.self_attn = _Attention(width, config.attention_heads)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.feed_forward = FeedForward(width, width // 4)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        x = x + self.self_attn(self.norm1(x), mask)
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        query, key, value = self.linear_q(x), self.linear_k(x), self.linear_v(x)
        out: Tensor = self.linear_out(attend(query, key, value, num_heads=self.num_heads, mask=mask))
        return out


def _join_frames(x: Tensor, lens: Tensor, rate: int) -> Tensor:
    """(B, T, D) -> (B, ceil(T / rate), rate * D). An incomplete last group of a clip is filled with zeros."""
    valid = valid_frames(lens, x.shape[1], x.device)
    if valid is not None:
        x = x.masked_fill(~valid[..., None], 0.0)
    x = F.pad(x, (0, 0, 0, -x.shape[1] % rate))
    return x.reshape(x.shape[0], -1, rate * x.shape[2])
