"""The LLM itself: Qwen3, Qwen2 and Llama blocks over a cache of keys and values that is allocated once.

The three differ in biases, in the norm of queries and keys, and in sizes; LLMConfig says how. A pass takes T new
positions of B sequences, as prompt embeddings or as tokens, and gives the most probable token of each position. The
cache holds rows of positions; a sequence has consecutive rows, which its first PLACE_COLUMNS numbers tell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from .base import LLMSource
from .llm_config import LLMConfig
from .plain_step import PlainStep

# Columns of `ints` before the tokens: first new position, first row, number of rows, position to be read.
PLACE_COLUMNS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A matrix product, several of the checkpoint's in one where they share their input."""

    weight: Tensor  # (out, in)
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weights of one block."""

    input_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True, eq=False)
class LLMOutput:
    """What one pass has found."""

    best: Tensor  # (2, B, R) int32: the most probable tokens, and the bits of their float32 log-probabilities
    logits: Tensor  # (B, V) float32, of the first of the R positions that were read


class Step(Protocol):
    """The operations of one pass between the matrix products; see PlainStep."""

    def add_norm(self, x: Tensor | None, residual: Tensor, weight: Tensor) -> Tensor: ...
    def attend(self, qkv: Tensor, cache: Tensor, q_norm: Tensor | None, k_norm: Tensor | None) -> Tensor: ...
    def gate(self, gate_up: Tensor) -> Tensor: ...


class LLM:
    """The LLM of a converted model on one device."""

    def __init__(self, source: LLMSource, device: torch.device, num_rows: int) -> None:
        """Load the weights; `num_rows` is the size of the cache. Raises CheckpointError."""
        config = self.config = LLMConfig.read(source.directory)
        self.device, self.dtype = device, source.dtype
        weights = _Weights(source, device)
        self._embedding = weights.take("model.embed_tokens.weight")
        self._layers = [_layer(weights, config, f"model.layers.{number}.") for number in range(config.num_layers)]
        self._norm = weights.take("model.norm.weight")
        self._head = self._embedding if config.is_tied else weights.take("lm_head.weight")
        weights.require_empty()
        self._rotations = config.rotations(source.max_model_len, source.dtype).to(device)
        shape = config.num_layers, 2, num_rows, config.num_kv_heads, config.head_dim
        self._cache = torch.zeros(shape, dtype=source.dtype, device=device)
        self.step: Callable[..., Step] = step_for(device)

    @torch.inference_mode()
    def run(self, ints: Tensor, embeds: Tensor | None = None) -> LLMOutput:
        """One pass.

        Args:
            ints: (B, PLACE_COLUMNS + T) int32: the place, then the tokens, which are absent with `embeds`.
            embeds: (B, T, hidden_size) of a prompt. Of it one position is read; of tokens, all.
        """
        num_sequences = len(ints)
        if embeds is None:
            residual = F.embedding(ints[:, PLACE_COLUMNS:].flatten(), self._embedding)
            num_positions = ints.shape[1] - PLACE_COLUMNS
        else:
            residual = embeds.flatten(0, 1).clone()
            num_positions = embeds.shape[1]
        hidden = self._through_layers(residual, ints, num_positions).view(num_sequences, num_positions, -1)
        if embeds is not None:
            hidden = hidden[torch.arange(num_sequences, device=ints.device), ints[:, 3].long()][:, None]
        logits = F.linear(hidden, self._head).float()
        highest, best = logits.max(-1)
        log_probs = highest - logits.logsumexp(-1)
        return LLMOutput(torch.stack([best.int(), log_probs.view(torch.int32)]), logits[:, 0].contiguous())

    def _through_layers(self, residual: Tensor, where: Tensor, num_positions: int) -> Tensor:
        step = self.step(self.config, where, num_positions, self._rotations)
        x: Tensor | None = None
        for layer, cache in zip(self._layers, self._cache, strict=True):
            normed = step.add_norm(x, residual, layer.input_norm)
            x = layer.output(step.attend(layer.qkv(normed), cache, layer.q_norm, layer.k_norm))
            normed = step.add_norm(x, residual, layer.mlp_norm)
            x = layer.down(step.gate(layer.gate_up(normed)))
        return step.add_norm(x, residual, self._norm)


def step_for(device: torch.device) -> Callable[..., Step]:
    """What computes the operations between the matrix products on this device."""
    if device.type != "cuda":
        return PlainStep
    from .kernel_step import KernelStep

    return KernelStep


class _Weights:
    """The checkpoint's tensors, each of which is to be taken once."""

    def __init__(self, source: LLMSource, device: torch.device) -> None:
        self._directory, self._device, self._dtype = source.directory, device, source.dtype
        self._left: dict[str, Tensor] = {}
        for path in sorted(source.directory.glob("*.safetensors")):
            try:
                self._left |= load_file(path)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} is cut short or damaged; convert the model again: {error}") from error

    def take(self, *names: str) -> Tensor:
        """The tensors, one below the other."""
        missing = [name for name in names if name not in self._left]
        if missing:
            raise CheckpointError(f"{self._directory}: no tensor {missing[0]}; convert the model again")
        parts = [self._left.pop(name).to(self._device, self._dtype) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def linear(self, *names: str, has_bias: bool) -> Linear:
        weight = self.take(*(f"{name}.weight" for name in names))
        return Linear(weight, self.take(*(f"{name}.bias" for name in names)) if has_bias else None)

    def require_empty(self) -> None:
        """Raises CheckpointError if a tensor is left. Old Llama files keep frequencies, which follow from the sizes."""
        left = sorted(name for name in self._left if not name.endswith("rotary_emb.inv_freq"))
        if left:
            raise CheckpointError(f"{self._directory}: {len(left)} tensors have no place in this LLM: {left[:3]}")


def _layer(weights: _Weights, config: LLMConfig, prefix: str) -> Layer:
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    return Layer(
        input_norm=weights.take(f"{prefix}input_layernorm.weight"),
        qkv=weights.linear(*(f"{attention}{part}_proj" for part in "qkv"), has_bias=config.has_qkv_bias),
        q_norm=weights.take(f"{attention}q_norm.weight") if config.has_qk_norm else None,
        k_norm=weights.take(f"{attention}k_norm.weight") if config.has_qk_norm else None,
        output=weights.linear(f"{attention}o_proj", has_bias=config.has_output_bias),
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight"),
        gate_up=weights.linear(f"{mlp}gate_proj", f"{mlp}up_proj", has_bias=config.has_mlp_bias),
        down=weights.linear(f"{mlp}down_proj", has_bias=config.has_mlp_bias),
    )
