"""The steps of FoldedCAMPPlus as Triton kernels for NVIDIA GPUs, each of them with the small steps before and after it.

In tensor operations, most of the network's time goes into reading and writing its activations: a convolution, its bias,
the sum with the shortcut, and the rectifier each pass over all of them. Here each convolution or product is one kernel.
Images are (B, channels, bands, T) with the channels last in memory. Sums are float32, and a NaN stays a NaN.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

_PLACES = 256  # of an image that one program computes
_ROWS, _COLUMNS, _DEPTH = 64, 128, 64  # of the tile that one program multiplies at a time
_LEAST_FRAMES = 16  # a matrix product on tensor cores has 16 rows or more


def first_convolution(fbank: Tensor, conv: nn.Conv2d) -> Tensor:
    """relu(conv(image)) of one channel, with 3 x 3 weights: (B, T, bands) -> (B, channels, bands, T)."""
    num_clips, num_frames, num_bands = fbank.shape
    outputs = _image(conv, num_clips, num_bands, num_frames)
    _convolve_first[_grid(outputs)](
        fbank.contiguous(), conv.weight, conv.bias, outputs, num_frames, num_bands, conv.out_channels, _PLACES
    )
    return outputs


def convolution(x: Tensor, conv: nn.Conv2d, skipped: Tensor | None = None, skip_weight: Tensor | None = None) -> Tensor:
    """relu(conv(x) + skip_weight * skipped), with 3 x 3 weights and as many channels before as after.

    Args:
        x: (B, channels, bands, T), whose bands are a multiple of the stride over them.
        skipped: an image whose bands are a multiple of those of the result, of which as many are taken.
        skip_weight: (channels, channels).
    """
    num_clips, channels, bands_before, num_frames = x.shape
    num_bands = bands_before // conv.stride[0]
    outputs = _image(conv, num_clips, num_bands, num_frames)
    skip_stride = 0 if skipped is None else skipped.shape[2] // num_bands
    _convolve[_grid(outputs)](
        x, conv.weight, conv.bias, skipped, skip_weight, outputs, num_frames, num_bands,
        conv.stride[0], skip_stride, channels, _PLACES, num_warps=4, num_stages=3,
    )  # fmt: skip
    return outputs


def clamped_linear(
    x: Tensor, bounds: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor, *, rectifies: bool
) -> Tensor:
    """clamp(x, *bounds) @ weight.T + bias, or the relu of that: (B, T, C) -> (B, T, O).

    Args:
        x: a part of the channels of a contiguous tensor.
        bounds: the least and the largest value of each channel, (C,) each.
        weight: (O, C).
    """
    num_clips, num_frames, depth = x.shape
    num_rows, width = num_clips * num_frames, len(weight)
    outputs = x.new_empty(num_clips, num_frames, width)
    _multiply[(triton.cdiv(num_rows, _ROWS), triton.cdiv(width, _COLUMNS))](
        x, *bounds, weight, bias, outputs, num_rows, x.stride(1), depth, width,
        rectifies, _ROWS, _COLUMNS, _DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    return outputs


def masked_convolution(x: Tensor, local: nn.Conv2d, first: nn.Linear, second: nn.Linear, outputs: Tensor) -> None:
    """Write local(x) * sigmoid(second(relu(first(mean of x over time)))) into `outputs`.

    Args:
        x: (B, T, C), contiguous. T is small enough for one program.
        local: three frames with a dilation, without a bias.
        outputs: (B, T, growth), a part of the channels of a contiguous tensor.
    """
    num_clips, num_frames, width = x.shape
    block = max(triton.next_power_of_2(num_frames), _LEAST_FRAMES)
    _convolve_masked[(num_clips,)](
        x, local.weight, first.weight, first.bias, second.weight, second.bias, outputs, num_frames, outputs.stride(1),
        local.dilation[1], width, first.out_features, local.out_channels, block, num_warps=4,
    )  # fmt: skip


def _image(conv: nn.Conv2d, num_clips: int, num_bands: int, num_frames: int) -> Tensor:
    shape = num_clips, conv.out_channels, num_bands, num_frames
    like = conv.weight
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _grid(image: Tensor) -> tuple[int, int]:
    return triton.cdiv(image.shape[2] * image.shape[3], _PLACES), len(image)


@triton.jit(do_not_specialize=["num_frames"])  # type: ignore[untyped-decorator]  # compiled once for all lengths
def _convolve_first(  # type: ignore[no-untyped-def]
    fbank, weight, bias, outputs, num_frames,
    num_bands: tl.constexpr, channels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    clip = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    frame, band = place // num_bands, place % num_bands  # in the order in which they are read
    exists = frame < num_frames
    channel = tl.arange(0, channels)
    bands = fbank + clip * num_frames * num_bands
    total = tl.zeros((block, channels), tl.float32) + tl.load(bias + channel).to(tl.float32)[None, :]
    for tap in tl.static_range(9):
        from_band, from_frame = band + tap // 3 - 1, frame + tap % 3 - 1
        inside = exists & (from_band >= 0) & (from_band < num_bands) & (from_frame >= 0) & (from_frame < num_frames)
        values = tl.load(bands + from_frame * num_bands + from_band, mask=inside, other=0.0).to(tl.float32)
        total += values[:, None] * tl.load(weight + channel * 9 + tap).to(tl.float32)[None, :]
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    to = (clip * num_bands + band) * num_frames + frame
    out = outputs + to[:, None] * channels + channel[None, :]
    tl.store(out, total.to(outputs.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["num_frames", "num_bands"])  # type: ignore[untyped-decorator]
def _convolve(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    images, weight, bias, skipped, skip_weight, outputs, num_frames, num_bands,
    stride: tl.constexpr, skip_stride: tl.constexpr, channels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    clip = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    frame, band = place % num_frames, place // num_frames
    exists = band < num_bands
    channel = tl.arange(0, channels)
    size = clip * num_bands * num_frames  # places of the images before this one, after the convolution
    image = images + size * stride * channels
    total = tl.zeros((block, channels), tl.float32)
    for tap in range(9):
        from_band, from_frame = band * stride + tap // 3 - 1, frame + tap % 3 - 1
        inside = exists & (from_band >= 0) & (from_band < num_bands * stride)
        inside = inside & (from_frame >= 0) & (from_frame < num_frames)
        source = (from_band * num_frames + from_frame).to(tl.int64)
        rows = tl.load(image + source[:, None] * channels + channel[None, :], mask=inside[:, None], other=0.0)
        columns = tl.load(weight + channel[None, :] * (9 * channels) + tap * channels + channel[:, None])
        total = tl.dot(rows, columns, total)
    if skip_stride > 0:
        source = size * skip_stride + band * skip_stride * num_frames + frame
        rows = tl.load(skipped + source[:, None] * channels + channel[None, :], mask=exists[:, None], other=0.0)
        total = tl.dot(rows, tl.load(skip_weight + channel[None, :] * channels + channel[:, None]), total)
    total += tl.load(bias + channel).to(tl.float32)[None, :]
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    out = outputs + (size + place)[:, None] * channels + channel[None, :]
    tl.store(out, total.to(outputs.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    x, least, most, weight, bias, outputs, num_rows, stride, depth, width,
    rectifies: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr, block_depth: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    column = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    is_row, is_column = (row < num_rows)[:, None], column < width
    inner = tl.arange(0, block_depth)
    left = x + row.to(tl.int64)[:, None] * stride + inner[None, :]
    right = weight + column[None, :] * depth + inner[:, None]
    total = tl.zeros((block_rows, block_columns), tl.float32)
    for k in range(0, depth, block_depth):
        is_inner = inner + k < depth
        rows = tl.load(left + k, mask=is_row & is_inner[None, :], other=0.0)
        low = tl.load(least + k + inner, mask=is_inner, other=0.0)[None, :]
        high = tl.load(most + k + inner, mask=is_inner, other=0.0)[None, :]
        rows = tl.maximum(rows, low, propagate_nan=tl.PropagateNan.ALL)
        rows = tl.minimum(rows, high, propagate_nan=tl.PropagateNan.ALL)
        columns = tl.load(right + k, mask=is_inner[:, None] & is_column[None, :], other=0.0)
        total = tl.dot(rows, columns, total)
    total += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    if rectifies:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    out = outputs + row.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(out, total.to(outputs.dtype.element_ty), mask=is_row & is_column[None, :])


@triton.jit(do_not_specialize=["num_frames", "dilation"])  # type: ignore[untyped-decorator]
def _convolve_masked(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    x, local, first, first_bias, second, second_bias, outputs, num_frames, stride, dilation,
    width: tl.constexpr, hidden: tl.constexpr, growth: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    clip = tl.program_id(0).to(tl.int64)
    frame = tl.arange(0, block)
    exists = frame < num_frames
    channel, unit, output = tl.arange(0, width), tl.arange(0, hidden), tl.arange(0, growth)
    clip_rows = x + clip * num_frames * width + channel[None, :]
    rows = tl.load(clip_rows + frame[:, None] * width, mask=exists[:, None], other=0.0)
    mean = tl.sum(rows.to(tl.float32), 0) / num_frames
    weights = tl.load(first + unit[:, None] * width + channel[None, :]).to(tl.float32)
    units = tl.sum(weights * mean[None, :], 1) + tl.load(first_bias + unit).to(tl.float32)
    units = tl.maximum(units, 0.0, propagate_nan=tl.PropagateNan.ALL)
    weights = tl.load(second + output[:, None] * hidden + unit[None, :]).to(tl.float32)
    mask = tl.sigmoid(tl.sum(weights * units[None, :], 1) + tl.load(second_bias + output).to(tl.float32))
    total = tl.zeros((block, growth), tl.float32)
    for tap in tl.static_range(3):
        source = frame + (tap - 1) * dilation
        inside = (source >= 0) & (source < num_frames)
        rows = tl.load(clip_rows + source[:, None] * width, mask=inside[:, None], other=0.0)
        columns = tl.load(local + output[None, :] * (3 * width) + tap * width + channel[:, None])
        total = tl.dot(rows, columns, total)
    total *= mask[None, :]
    out = outputs + (clip * num_frames + frame)[:, None] * stride + output[None, :]
    tl.store(out, total.to(outputs.dtype.element_ty), mask=exists[:, None])
