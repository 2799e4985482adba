"""The operations of one step between the matrix products, in PyTorch: for CPUs and other devices without Triton.

kernel_step.py computes the same on NVIDIA GPUs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .llm_config import LLMConfig


class PlainStep:
    """One pass of B sequences with T new positions each through all layers.

    Args:
        where: (B, >= 3) int32. Of each sequence the first new position, the row of the cache that holds its position 0,
            and the number of rows that it has there. Positions beyond those rows are padding and not kept.
        rotations: see LLMConfig.rotations.
    """

    def __init__(self, config: LLMConfig, where: Tensor, num_positions: int, rotations: Tensor) -> None:
        self._config = config
        start, base, size = where[:, 0:1].long(), where[:, 1:2].long(), where[:, 2:3].long()
        position = start + torch.arange(num_positions, device=where.device)  # (B, T)
        self._is_kept = position < size
        self._rows = (base + position)[self._is_kept]
        angles = rotations[position.clamp(max=len(rotations) - 1)][:, :, None]
        self._cos, self._sin = angles.chunk(2, dim=-1)
        last = torch.minimum(start + num_positions, size).clamp(min=1) - 1
        past = torch.arange(int(start.max()) + num_positions, device=where.device)
        # No row behind the sequence's last one is read: it may hold another sequence's NaN, which 0 does not cancel.
        self._read = base + torch.minimum(past, last)  # (B, L)
        self._mask = (past <= position[:, :, None])[:, None]  # (B, 1, T, L)

    def add_norm(self, x: Tensor | None, residual: Tensor, weight: Tensor) -> Tensor:
        """Add `x` to `residual` in place, and return the RMS norm of the sum. All (N, hidden_size)."""
        if x is not None:
            residual += x
        return self._norm(residual, weight)

    def attend(self, qkv: Tensor, cache: Tensor, q_norm: Tensor | None, k_norm: Tensor | None) -> Tensor:
        """Keep the new keys and values, and attend to all of the sequence so far.

        (N, (H + 2 K) D) queries, keys and values, and the layer's cache (2, rows, K, D) -> (N, H D).
        """
        c = self._config
        heads = qkv.view(*self._is_kept.shape, -1, c.head_dim)
        q, k, v = torch.split(heads, [c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=2)
        if q_norm is not None and k_norm is not None:
            q, k = self._norm(q, q_norm), self._norm(k, k_norm)
        q, k = self._rotated(q), self._rotated(k)
        cache[0][self._rows], cache[1][self._rows] = k[self._is_kept], v[self._is_kept]
        keys, values = (part[self._read].transpose(1, 2) for part in cache)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=self._mask, enable_gqa=c.num_heads != c.num_kv_heads
        )
        return out.transpose(1, 2).reshape(len(qkv), -1)

    def gate(self, gate_up: Tensor) -> Tensor:
        """(N, 2 I) -> (N, I)."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._config.eps)
        return weight * (wide * scale).to(x.dtype)

    def _rotated(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self._cos - second * self._sin, second * self._cos + first * self._sin], -1)
