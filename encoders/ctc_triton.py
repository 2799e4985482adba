"""A Triton kernel for the CTC head: the log normaliser and the largest logit of each frame, without storing the logits.

With 60,515 outputs a frame, the float32 logits of half an hour of audio take 7 GB. Each program here handles some
frames and a part of the vocabulary, and keeps a running maximum and sum (Milakov and Gimelshein, "Online normalizer
calculation for softmax", 2018).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS, _DEPTH = 128, 128, 64  # of the tile that one program multiplies at a time
_PROGRAMS = 264  # enough to fill a GPU: two for each multiprocessor of an H200
_MOST_PARTS = 32  # into which the vocabulary is divided


def log_norm_and_best(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """log(sum(exp(logits))) of each row, and the index of its largest logit.

    Args:
        hidden: (M, D) bfloat16, D a multiple of 16.
        weight: (V, D) bfloat16.
        bias: (V,).

    Returns:
        (M,) float32, summed in float32, and (M,) int64.
    """
    num_rows, depth = hidden.shape
    num_columns = weight.shape[0]
    row_blocks = triton.cdiv(num_rows, _ROWS)
    num_parts = max(1, min(_PROGRAMS // row_blocks, _MOST_PARTS))
    part = triton.cdiv(triton.cdiv(num_columns, num_parts), _COLUMNS) * _COLUMNS
    num_parts = triton.cdiv(num_columns, part)
    norms, highest = (hidden.new_empty(num_parts, num_rows, dtype=torch.float32) for _ in range(2))
    places = hidden.new_empty(num_parts, num_rows, dtype=torch.int32)
    _scan[(row_blocks, num_parts)](
        hidden.contiguous(), weight, bias, norms, highest, places, num_rows, num_columns, part, depth,
        _ROWS, _COLUMNS, min(_DEPTH, depth), num_warps=8, num_stages=3,
    )  # fmt: skip
    best = places.gather(0, highest.argmax(0, keepdim=True))[0].long()
    return norms.logsumexp(0), best


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]  # compiled once for all of them
def _scan(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    hidden, weight, bias, norms, highest, places, num_rows, num_columns, part,
    depth: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr, block_depth: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = row < num_rows
    inner = tl.arange(0, block_depth)
    left = hidden + row.to(tl.int64)[:, None] * depth + inner[None, :]
    first = tl.program_id(1) * part
    most = tl.full((block_rows,), float("-inf"), tl.float32)
    total = tl.zeros((block_rows,), tl.float32)
    place = tl.zeros((block_rows,), tl.int32)
    for start in range(first, min(first + part, num_columns), block_columns):
        column = start + tl.arange(0, block_columns)
        is_column = column < num_columns
        right = weight + column.to(tl.int64)[None, :] * depth + inner[:, None]
        logits = tl.zeros((block_rows, block_columns), tl.float32)
        for k in range(0, depth, block_depth):
            is_inner = inner + k < depth
            rows = tl.load(left + k, mask=is_row[:, None] & is_inner[None, :], other=0.0)
            columns = tl.load(right + k, mask=is_column[None, :] & is_inner[:, None], other=0.0)
            logits = tl.dot(rows, columns, logits)
        logits += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
        logits = tl.where(is_column[None, :], logits, float("-inf"))
        tile_most, tile_place = tl.max(logits, 1, return_indices=True)
        place = tl.where(tile_most > most, start + tile_place, place)
        higher = tl.maximum(most, tile_most)
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        most = higher
    out = tl.program_id(1) * num_rows + row
    tl.store(norms + out, most + tl.log(total), mask=is_row)
    tl.store(highest + out, most, mask=is_row)
    tl.store(places + out, place, mask=is_row)
