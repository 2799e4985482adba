"""The FSMN memory and the sums around it in one kernel for NVIDIA GPUs.

A depthwise convolution reads each value once for every tap. A program here has a tile of frames and channels, whose
values stay in its cache meanwhile. A compiler that joins the convolution with the norm after it gives a program whole
frames, and too few of them to meet a value twice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_FRAMES, _CHANNELS = 32, 128  # of the tile of one program


def add_memory(
    value: Tensor, weight: Tensor, padding: Tensor, projected: Tensor, residual: Tensor | None, frames_back: int
) -> Tensor:
    """residual + projected + value + memory, summed up in float32.

    The memory of a frame is the sum over taps k of weight[:, k] * value[frame + k - frames_back].

    Args:
        value: (B, T, D), frames of one clip evenly spaced in memory, clips without gaps, channels side by side.
        weight: (D, taps), contiguous.
        padding: (B, T) bool, contiguous: frames that count as zeros.
        projected: (B, T, D), contiguous.
        residual: the same, or None for zeros.
        frames_back: taps before a frame's own.

    Returns:
        (B, T, D) in the dtype of `projected`.
    """
    num_frames, width = value.shape[1:]
    out = torch.empty_like(projected)
    num_rows = value.shape[0] * num_frames
    grid = (triton.cdiv(num_rows, _FRAMES), triton.cdiv(width, _CHANNELS))
    _add_memory[grid](
        value, weight, padding, projected, projected if residual is None else residual, out,
        num_rows, num_frames, width, value.stride(1), frames_back,
        weight.shape[1], residual is not None, _FRAMES, _CHANNELS, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _add_memory(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    value, weight, padding, projected, residual, out, num_rows, num_frames, width, value_stride, frames_back,
    taps: tl.constexpr, has_residual: tl.constexpr, block_frames: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * block_frames + tl.arange(0, block_frames)  # of all clips' frames
    channel = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    is_channel = channel < width
    is_out = (row < num_rows)[:, None] & is_channel[None, :]
    at = row.to(tl.int64)[:, None] * width + channel[None, :]
    frame = row % num_frames
    own = (row < num_rows) & (tl.load(padding + row, mask=row < num_rows, other=1) == 0)
    values = value + channel[None, :]
    total = tl.load(projected + at, mask=is_out, other=0.0).to(tl.float32)
    total += tl.load(values + row.to(tl.int64)[:, None] * value_stride, mask=is_out & own[:, None], other=0.0)
    if has_residual:
        total += tl.load(residual + at, mask=is_out, other=0.0)
    for tap in range(taps):
        there = row + (tap - frames_back)
        is_there = (frame + tap >= frames_back) & (frame + tap - frames_back < num_frames) & (row < num_rows)
        is_there &= tl.load(padding + there, mask=is_there, other=1) == 0
        mask = is_there[:, None] & is_channel[None, :]
        seen = tl.load(values + there.to(tl.int64)[:, None] * value_stride, mask=mask, other=0.0)
        total += seen.to(tl.float32) * tl.load(weight + channel * taps + tap, mask=is_channel, other=0.0)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=is_out)
