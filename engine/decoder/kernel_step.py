"""The operations of one step between the matrix products, as Triton kernels for NVIDIA GPUs: four for each layer.

A step of few sequences takes as long as its kernels take to start, so that there should be few of them. What they
compute is in plain_step.py. Values are rounded to the model's dtype where transformers rounds them, except inside the
rotation and the attention. The kernels read where a sequence stands from the GPU's memory, so that a CUDA graph serves
sequences of any length. A prompt of another length needs no other kernel.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .llm_config import LLMConfig

_MOST_ROWS, _LEAST_ROWS = 64, 16  # queries of one program; a matrix product on tensor cores has 16 rows or more
_KEYS = 64  # that a program reads at a time


class KernelStep:
    """See PlainStep."""

    def __init__(self, config: LLMConfig, where: Tensor, num_positions: int, rotations: Tensor) -> None:
        self._config, self._where, self._num_positions, self._rotations = config, where, num_positions, rotations

    def add_norm(self, x: Tensor | None, residual: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(residual)
        width = residual.shape[1]
        _add_norm[(len(residual),)](
            residual if x is None else x, residual, weight, out, width, self._config.eps,
            x is not None, triton.next_power_of_2(width), num_warps=4,
        )  # fmt: skip
        return out

    def attend(self, qkv: Tensor, cache: Tensor, q_norm: Tensor | None, k_norm: Tensor | None) -> Tensor:
        c, where = self._config, self._where
        group, dim = c.num_heads // c.num_kv_heads, c.head_dim
        q = qkv.new_empty(len(qkv), c.num_heads * dim)
        has_norm = q_norm is not None
        _rotate_and_keep[(len(qkv), c.num_heads + 2 * c.num_kv_heads)](
            qkv, q, cache[0], cache[1], q_norm if has_norm else qkv, k_norm if has_norm else qkv,
            self._rotations, where, where.stride(0), len(self._rotations), self._num_positions, c.eps,
            c.num_heads, c.num_kv_heads, dim, has_norm, triton.next_power_of_2(dim // 2), num_warps=1,
        )  # fmt: skip
        out = torch.empty_like(q)
        num_queries = self._num_positions * group
        block = min(max(triton.next_power_of_2(num_queries), _LEAST_ROWS), _MOST_ROWS)
        _attend[(len(where), c.num_kv_heads, triton.cdiv(num_queries, block))](
            q, cache[0], cache[1], out, where, where.stride(0), self._num_positions, dim**-0.5,
            c.num_kv_heads, group, dim, block, _KEYS, max(triton.next_power_of_2(dim), 16), num_warps=4,
        )  # fmt: skip
        return out

    def gate(self, gate_up: Tensor) -> Tensor:
        num_rows, width = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty(num_rows, width)
        block = 1024
        _gate[(num_rows, triton.cdiv(width, block))](gate_up, out, width, block, num_warps=4)
        return out


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(  # type: ignore[no-untyped-def]
    x, residual, weight, out, width, eps, adds: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, block)
    exists = at < width
    place = tl.program_id(0) * width + at
    total = tl.load(residual + place, mask=exists, other=0.0)
    if adds:
        total = (total.to(tl.float32) + tl.load(x + place, mask=exists, other=0.0).to(tl.float32)).to(total.dtype)
        tl.store(residual + place, total, mask=exists)
    wide = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    normed = (wide * scale).to(total.dtype).to(tl.float32)
    tl.store(
        out + place, (normed * tl.load(weight + at, mask=exists, other=0.0).to(tl.float32)).to(total.dtype), mask=exists
    )


@triton.jit(do_not_specialize=["stride", "num_positions"])  # type: ignore[untyped-decorator]
def _rotate_and_keep(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0915 - a kernel has no objects
    qkv, queries, keys, values, q_norm, k_norm, rotations, where, stride, num_rotations,
    num_positions, eps, num_heads: tl.constexpr, num_kv_heads: tl.constexpr, dim: tl.constexpr,
    has_norm: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One head of one position: normalise and rotate it, and put a key or a value into the cache."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    sequence = row // num_positions
    position = tl.load(where + sequence * stride) + row % num_positions
    base = tl.load(where + sequence * stride + 1)
    is_kept = position < tl.load(where + sequence * stride + 2)
    half = dim // 2
    at = tl.arange(0, block)
    exists = at < half
    source = qkv + (row * (num_heads + 2 * num_kv_heads) + head) * dim + at
    first = tl.load(source, mask=exists, other=0.0)
    second = tl.load(source + half, mask=exists, other=0.0)
    kept_at = (base + position).to(tl.int64) * num_kv_heads * dim + at
    if head >= num_heads + num_kv_heads:
        target = values + kept_at + (head - num_heads - num_kv_heads) * dim
        tl.store(target, first, mask=exists & is_kept)
        tl.store(target + half, second, mask=exists & is_kept)
    else:
        a = first.to(tl.float32)
        b = second.to(tl.float32)
        if has_norm:
            scale = tl.rsqrt((tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / dim + eps)
            weight = q_norm + at
            if head >= num_heads:
                weight = k_norm + at
            a = (a * scale).to(first.dtype).to(tl.float32) * tl.load(weight, mask=exists, other=0.0).to(tl.float32)
            b = (b * scale).to(first.dtype).to(tl.float32) * tl.load(weight + half, mask=exists, other=0.0).to(
                tl.float32
            )
            a = a.to(first.dtype).to(tl.float32)
            b = b.to(first.dtype).to(tl.float32)
        angle = rotations + tl.minimum(position, num_rotations - 1) * dim + at
        cos = tl.load(angle, mask=exists, other=0.0).to(tl.float32)
        sin = tl.load(angle + half, mask=exists, other=0.0).to(tl.float32)
        turned = (a * cos - b * sin).to(first.dtype)
        turned_half = (b * cos + a * sin).to(first.dtype)
        if head < num_heads:
            target = queries + (row * num_heads + head) * dim + at
            tl.store(target, turned, mask=exists)
            tl.store(target + half, turned_half, mask=exists)
        else:
            target = keys + kept_at + (head - num_heads) * dim
            tl.store(target, turned, mask=exists & is_kept)
            tl.store(target + half, turned_half, mask=exists & is_kept)


@triton.jit(do_not_specialize=["stride", "num_positions"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel has no objects
    queries, keys, values, out, where, stride, num_positions, scale,
    num_kv_heads: tl.constexpr, group: tl.constexpr, dim: tl.constexpr,
    block: tl.constexpr, num_keys: tl.constexpr, dim_block: tl.constexpr,
):  # fmt: skip
    """A block of one sequence's queries that share a head of keys: all heads of the group at some of the positions."""
    sequence = tl.program_id(0)
    kv_head = tl.program_id(1)
    row = tl.program_id(2) * block + tl.arange(0, block)
    at = tl.arange(0, dim_block)
    start = tl.load(where + sequence * stride)
    base = tl.load(where + sequence * stride + 1).to(tl.int64)
    offset = row // group
    is_row = offset < num_positions
    head = kv_head * group + row % group
    place = ((sequence * num_positions + offset) * num_kv_heads * group + head)[:, None] * dim + at[None, :]
    exists = is_row[:, None] & (at < dim)[None, :]
    q = tl.load(queries + place, mask=exists, other=0.0)
    position = start + offset
    last = tl.minimum(start + (tl.program_id(2) * block + block - 1) // group, start + num_positions - 1)
    # A position that was not kept, because it is padding, has no row of its own: nothing is read behind the others.
    last = tl.minimum(last, tl.maximum(tl.load(where + sequence * stride + 2), 1) - 1)
    best = tl.full([block], float("-inf"), tl.float32)
    total = tl.zeros([block], tl.float32)
    mixed = tl.zeros([block, dim_block], tl.float32)
    for first in range(0, last + 1, num_keys):
        key = first + tl.arange(0, num_keys)
        kept = (base + key)[:, None] * num_kv_heads * dim + kv_head * dim + at[None, :]
        is_key = (key <= last)[:, None] & (at < dim)[None, :]
        k = tl.load(keys + kept, mask=is_key, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        score = tl.where((key[None, :] <= position[:, None]) & (key[None, :] <= last), score, float("-inf"))
        top = tl.maximum(best, tl.max(score, axis=1))
        weight = tl.exp(score - top[:, None])
        shrink = tl.exp(best - top)
        v = tl.load(values + kept, mask=is_key, other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weight, axis=1)
        best = top
    tl.store(out + place, (mixed / total[:, None]).to(q.dtype), mask=exists)


@triton.jit  # type: ignore[untyped-decorator]
def _gate(gate_up, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    at = tl.program_id(1) * block + tl.arange(0, block)
    exists = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=exists, other=0.0)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=exists, other=0.0)
    wide = gate.to(tl.float32)
    active = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    tl.store(out + row * width + at, (active.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=exists)
