"""One tensor of the output: its source, its dtype, and a LoRA update that is merged into it.

Nothing is computed or copied before `Weight.pieces` is iterated, so planning a large model takes no memory for weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.errors import CheckpointError, enumerate_names

DTYPES: Mapping[str, torch.dtype | None] = {  # the names that users give; None keeps each tensor's own dtype
    "keep": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
LORA_A, LORA_B = ".lora_A", ".lora_B"
_PIECE_ELEMENTS = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class LoRAUpdate:
    """A low-rank update scale * b @ a with scale = alpha / r (LoRA, arXiv:2106.09685, section 4.1)."""

    a: Tensor  # (r, in_features)
    b: Tensor  # (out_features, r)
    scale: float

    def merged_into(self, weight: Tensor) -> Tensor:
        """weight (out_features, in_features) plus the update, summed in float32 and rounded to the weight's dtype."""
        return (weight.float() + self.scale * (self.b.float() @ self.a.float())).to(weight.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A source tensor, the dtype in which it is written, and its LoRA update if it has one."""

    source: Tensor
    dtype: torch.dtype
    lora: LoRAUpdate | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.shape)

    @property
    def nbytes(self) -> int:
        return self.source.numel() * self.dtype.itemsize

    def merged(self) -> Tensor:
        """The tensor with its update, in the source's dtype. Without an update it is the source itself, not a copy."""
        return self.source if self.lora is None else self.lora.merged_into(self.source)

    def pieces(self) -> Iterator[Tensor]:
        """The values to write, flat, in pieces of a few million, so that a cast does not need memory for a second copy.

        Raises CheckpointError if finite values do not fit in the dtype.
        """
        flat = self.merged().reshape(-1)
        for start in range(0, flat.numel(), _PIECE_ELEMENTS):
            piece = flat[start : start + _PIECE_ELEMENTS]
            cast = piece.to(self.dtype)
            # Only float16 has a smaller range than the dtypes a checkpoint may have.
            if self.dtype is torch.float16 and bool((cast.isinf() & ~piece.isinf()).any()):
                largest = float(piece.float().abs().max())
                raise CheckpointError(f"a weight of magnitude {largest:g} does not fit in float16; use bf16 or fp32")
            yield cast

    def value(self) -> Tensor:
        """The whole tensor in the dtype in which it is written."""
        return torch.cat(list(self.pieces())).view(self.shape)


def plan_weights(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, scale: float | None) -> dict[str, Weight]:
    """Pair `X.lora_A` and `X.lora_B` with `X.weight`. Every other tensor becomes a Weight of its own.

    Args:
        dtype: of the output; None keeps each tensor's own.
        scale: lora_alpha / r; None if the configuration does not give it.

    Raises:
        CheckpointError: half of a LoRA pair, a pair without its weight, shapes that do not fit, or an unknown scale.
    """
    updates = _pair_updates(tensors, scale)
    return {
        name: Weight(tensor, dtype or tensor.dtype, updates.get(name))
        for name, tensor in tensors.items()
        if not name.endswith((LORA_A, LORA_B))
    }


def _pair_updates(tensors: Mapping[str, Tensor], scale: float | None) -> dict[str, LoRAUpdate]:
    """Each LoRA pair as the update of its weight, by the weight's name. Raises CheckpointError."""
    adapted = sorted({n.removesuffix(LORA_A).removesuffix(LORA_B) for n in tensors if n.endswith((LORA_A, LORA_B))})
    if not adapted:
        return {}
    parts = [f"{layer}{part}" for layer in adapted for part in (LORA_A, LORA_B, ".weight")]
    missing = [name for name in parts if name not in tensors]
    if missing:
        raise CheckpointError(f"LoRA tensors without their counterparts: {enumerate_names(missing)} missing")
    if scale is None:
        raise CheckpointError(
            f"the checkpoint holds LoRA tensors ({enumerate_names(adapted)}), but config.yaml has no "
            "llm_conf.lora_conf with r and lora_alpha; take the config.yaml of the fine-tuning run"
        )
    for layer in adapted:
        a, b, weight = (tensors[layer + part] for part in (LORA_A, LORA_B, ".weight"))
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != weight.shape:
            shapes = f"lora_B {tuple(b.shape)} and lora_A {tuple(a.shape)}"
            raise CheckpointError(f"{layer}: {shapes} do not make an update of the weight {tuple(weight.shape)}")
    return {f"{x}.weight": LoRAUpdate(tensors[x + LORA_A], tensors[x + LORA_B], scale) for x in adapted}
