"""What the Transformer stacks share: masks for padded batches, attention over heads, the feed-forward layer.

Lengths (`lens`) are (B,) integer tensors on any device. On the CPU they are checked, and a batch without padding needs
no mask. On a GPU nothing may wait for them: they are taken as they are, and the mask is always made.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MASK_ALIGNMENT = 16  # elements; fused attention on CUDA copies a mask with other row strides, in every layer


def valid_frames(lens: Tensor, num_frames: int, device: torch.device) -> Tensor | None:
    """(B, num_frames) bool, true for a clip's own frames; None if `lens` are on the CPU and every frame is real.

    None lets attention run without a mask, on its fastest kernels.

    Raises:
        ValueError: a length outside 1..num_frames, if `lens` are on the CPU.
    """
    frames = torch.arange(num_frames, device=lens.device)
    if lens.is_cuda:
        return frames < lens[:, None]
    shortest, longest = (int(bound) for bound in torch.aminmax(lens))
    if shortest < 1 or longest > num_frames:
        raise ValueError(f"lengths must be in 1..{num_frames} (the padded length), got {shortest}..{longest}")
    if shortest == num_frames:
        return None
    return (frames < lens[:, None]).to(device, non_blocking=True)


def attention_bias(valid: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, T) bool -> (B, 1, 1, T) of `dtype`: 0 for real keys, -inf for padding. None stays None."""
    if valid is None:
        return None
    batch, num_frames = valid.shape
    # One more than needed: rows that end with the last frame would be another layout, and compile anew.
    aligned = (num_frames // _MASK_ALIGNMENT + 1) * _MASK_ALIGNMENT
    bias = torch.full((batch, 1, 1, aligned), float("-inf"), dtype=dtype, device=valid.device)[..., :num_frames]
    return bias.masked_fill_(valid[:, None, None, :], 0.0)


def attend(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention: three times (B, T, D), heads side by side in D -> (B, T, D)."""
    batch, num_frames, width = query.shape
    heads = (batch, num_frames, num_heads, width // num_heads)
    q, k, v = query.view(heads).transpose(1, 2), key.view(heads).transpose(1, 2), value.view(heads).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Linear, ReLU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.relu(self.w_1(x)))
        return out
