"""The sizes and variants of an LLM, from the config.json that the converter wrote."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..hub.model_files import read_text

CONFIG_NAME = "config.json"
# Where config.json says nothing, each architecture has its own default, as in transformers.
_QWEN3_HEAD_DIM = 128
_DEFAULT_EPS, _DEFAULT_THETA = 1e-6, 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMConfig:
    """One of the decoders that llm.py runs: Qwen3, Qwen2 or Llama."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float  # of the RMS norms
    rope: Mapping[str, Any]  # "rope_theta", "rope_type" and, where it is scaled, how
    has_qk_norm: bool  # queries and keys are normalised per head
    has_qkv_bias: bool
    has_output_bias: bool  # of attention
    has_mlp_bias: bool
    is_tied: bool  # the output layer is the embedding table

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read config.json. Raises CheckpointError for anything that llm.py does not compute."""
        path = directory / CONFIG_NAME
        config = json.loads(read_text(path))
        rope = _rope(config)
        for name, value, known in (
            ("model_type", config.get("model_type"), ("qwen3", "qwen2", "llama")),
            ("hidden_act", config.get("hidden_act", "silu"), ("silu",)),
            ("use_sliding_window", config.get("use_sliding_window") or False, (False,)),
            ("partial_rotary_factor", rope.get("partial_rotary_factor", 1), (1,)),
            ("rope_type", rope["rope_type"], ("default", "linear", "llama3")),
        ):
            if value not in known:
                raise CheckpointError(f"{path}: {name} is {value!r}; backend='torch' computes {known} only")
        return cls.of(config)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The sizes and variants that a config.json states, whether llm.py computes them or not."""
        kind, num_heads = config["model_type"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or (
            _QWEN3_HEAD_DIM if kind == "qwen3" else config["hidden_size"] // num_heads
        )
        has_bias = bool(config.get("attention_bias"))
        return cls(
            num_layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            num_heads=num_heads,
            num_kv_heads=config["num_key_value_heads"],
            head_dim=head_dim,
            eps=config.get("rms_norm_eps", _DEFAULT_EPS),
            rope=_rope(config),
            has_qk_norm=kind == "qwen3",
            has_qkv_bias=kind == "qwen2" or has_bias,
            has_output_bias=kind != "qwen2" and has_bias,
            has_mlp_bias=kind == "llama" and bool(config.get("mlp_bias")),
            is_tied=bool(config.get("tie_word_embeddings")),
        )

    def rotations(self, num_positions: int, dtype: torch.dtype) -> Tensor:
        """(num_positions, head_dim): the cosines, then the sines, of every position's rotations (arXiv 2104.09864)."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        frequencies = _scaled(1.0 / self.rope["rope_theta"] ** exponents, self.rope)
        angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], 1).to(dtype)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding's parameters, which are in one place since transformers 5 and were in several before."""
    found = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = found.get("rope_theta") or config.get("rope_theta") or _DEFAULT_THETA
    kind = found.get("rope_type") or found.get("type") or "default"
    partial = found.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1
    return {**found, "rope_theta": float(theta), "rope_type": kind, "partial_rotary_factor": partial}


def _scaled(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """The frequencies of a model whose training was continued on longer texts.

    "linear" divides all of them. "llama3" divides those whose wave is longer than the first training's texts, keeps
    those of short waves, and interpolates between (the Llama 3.1 release, 2024).
    """
    if rope["rope_type"] == "default":
        return frequencies
    if rope["rope_type"] == "linear":
        return frequencies / float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    before, factor = int(rope["original_max_position_embeddings"]), float(rope["factor"])
    num_waves = before * frequencies / (2 * math.pi)
    kept = ((num_waves - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)
