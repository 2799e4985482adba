"""GLM-ASR-Nano: how its checkpoints are recognised and taken apart.

A checkpoint is a directory with config.json, safetensors and the tokenizer. The hub has held two layouts under the same
name: that of the model's own code (until 2025-12-27) and that of transformers. Both are read under transformers' names.
In the older layout rotary positions rotate neighbouring dimensions of queries and keys; in the newer one, dimensions
that are half the rotated width apart. The rows of the older projections are reordered, so that the results are equal.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from ..engine.errors import CheckpointError
from .config_file import CONFIG_NAME, model_type, read_json
from .layout import Family, Part, Plan, check_fit, split_parts
from .llm import LLM_FILES, list_llm_files, needed_shapes, nested_llm_config, plan_without_ctc
from .safetensors_file import list_checkpoint_files, read_checkpoint
from .weights import plan_weights

MODEL_TYPES = ("glmasr", "Glmasr")
NAME_TABLE: Mapping[str, tuple[Part, str]] = {
    "audio_tower.": ("acoustic", ""),
    "multi_modal_projector.": ("acoustic", ""),
    "language_model.": ("llm", ""),
}
_NEWER_NAMES: tuple[tuple[str, str], ...] = (  # patterns for the older layout's names, applied in this order
    (r"^audio_encoder\.whisper\.", "audio_tower."),
    (r"^audio_encoder\.layer_norm\.", "audio_tower.norm."),
    (r"^audio_encoder\.adapting\.0\.", "multi_modal_projector.linear_1."),
    (r"^audio_encoder\.adapting\.2\.", "multi_modal_projector.linear_2."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
    (r"\.self_attn_layer_norm\.", ".input_layernorm."),
    (r"\.final_layer_norm\.", ".post_attention_layernorm."),
    (r"^(audio_tower\.layers\.\d+\.)(fc[12]\.)", r"\1mlp.\2"),
    (r"^(model\.|lm_head\.)", r"language_model.\1"),
)
# Tensors of the older layout that its code never uses: position embeddings, a projection, and marker tokens.
_UNUSED = re.compile(r"audio_encoder\.(whisper\.embed_positions\.weight|proj\..*|audio_bos_eos_token\.weight)")
_ROTATED = re.compile(r"audio_tower\.layers\.\d+\.self_attn\.(q_proj\.(weight|bias)|k_proj\.weight)")
_TWICE = "language_model.model.model."  # what transformers 5.19 saves for language_model.model.
_UNPERMUTED = "audio_tower.layer_norm.weight"  # only a conversion that kept the older order of rows has it
_ROTARY_SHARE = 0.5  # share of a head's dimensions that are rotated, where config.json gives none
_NO_CTC = "GLM-ASR-Nano has no CTC head; forced_aligner= times its words"


def list_sources(directory: Path) -> dict[str, Path]:
    """Every file that a conversion reads. Raises CheckpointError if one is missing."""
    return {path.name: path for path in (*list_llm_files(directory), *list_checkpoint_files(directory))}


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of either layout, with transformers' names and order of rows. Raises CheckpointError."""
    stored = read_checkpoint(directory)
    if _UNPERMUTED in stored:
        raise CheckpointError(
            f"{directory} holds {_UNPERMUTED}: an early conversion whose queries and keys are in the wrong order; "
            "fetch the model again"
        )
    if not any(name.startswith("audio_encoder.") for name in stored):
        return {name.replace(_TWICE, "language_model.model."): tensor for name, tensor in stored.items()}
    config = _tower_config(read_json(directory / CONFIG_NAME), directory / CONFIG_NAME)
    tensors = {_newer_name(name): tensor for name, tensor in stored.items() if not _UNUSED.fullmatch(name)}
    return {name: _half_split(t, config) if _ROTATED.fullmatch(name) else t for name, t in tensors.items()}


def plan(directory: Path, dtype: torch.dtype | None) -> Plan:
    """Plan the conversion of a checkpoint. Raises CheckpointError, which names what does not fit."""
    path = directory / CONFIG_NAME
    config = read_json(path)
    tower = _tower_config(config, path)
    tied = bool(config.get("tie_word_embeddings", True))
    llm_config = nested_llm_config(
        {**_part(config, path, "text_config", "lm_config"), "model_type": "llama"}, path, tied=tied
    )
    weights = plan_weights(read_tensors(directory), dtype, None)
    needed = needed_shapes(
        lambda: GLMASRTower(tower), llm_config, prefix="language_model.", found=weights, rename=_name_in_checkpoint
    )
    check_fit(directory, needed=needed, found={name: weight.shape for name, weight in weights.items()})
    parts = split_parts(weights, NAME_TABLE)
    return plan_without_ctc(directory, llm_config, parts, acoustic_config=asdict(tower), no_times_reason=_NO_CTC)


def _name_in_checkpoint(name: str) -> str:
    part = "multi_modal_projector" if name.startswith(("linear_1.", "linear_2.")) else "audio_tower"
    return f"{part}.{name}"


def _newer_name(name: str) -> str:
    for pattern, replacement in _NEWER_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _half_split(tensor: Tensor, config: GLMASRTowerConfig) -> Tensor:
    """Reorder rows (heads x head_dim, ...): pairs of neighbours become pairs that are half the rotated width apart."""
    rows = tensor.view(config.num_attention_heads, -1, *tensor.shape[1:])
    turned = config.rotary_dim
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, rows.shape[1])]
    return rows[:, order].flatten(0, 1)


def _part(config: Mapping[str, Any], path: Path, *names: str) -> Mapping[str, Any]:
    for name in names:
        if isinstance(config.get(name), Mapping):
            part: Mapping[str, Any] = config[name]
            return part
    raise CheckpointError(f"{path} has none of {', '.join(names)}; it needs one as an object")


def _tower_config(config: Mapping[str, Any], path: Path) -> GLMASRTowerConfig:
    """The sizes, read under transformers' names or Whisper's. Raises CheckpointError."""
    audio = _part(config, path, "audio_config", "whisper_config")
    llm = _part(config, path, "text_config", "lm_config")

    def size(*names: str) -> int:
        value = next((audio[name] for name in names if name in audio), None)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{path}: {names[0]} of the audio encoder is {value!r}; a positive number is needed")
        return value

    width, heads = size("hidden_size", "d_model"), size("num_attention_heads", "encoder_attention_heads")
    if audio.get("num_key_value_heads", heads) != heads:
        raise CheckpointError(
            f"{path}: num_key_value_heads is {audio['num_key_value_heads']}, not {heads}: not implemented"
        )
    if config.get("merge_factor", 4) != 4 or config.get("adapter_type", "mlp") != "mlp":
        raise CheckpointError(f"{path}: only merge_factor 4 and adapter_type 'mlp' are implemented")
    rope = audio.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", audio.get("partial_rotary_factor", _ROTARY_SHARE))
    try:
        return GLMASRTowerConfig(
            hidden_size=width,
            intermediate_size=size("intermediate_size", "encoder_ffn_dim"),
            num_hidden_layers=size("num_hidden_layers", "encoder_layers"),
            num_attention_heads=heads,
            num_mel_bins=size("num_mel_bins"),
            llm_dim=llm["hidden_size"],
            rotary_dim=int(width // heads * share),
            rope_theta=float(rope.get("rope_theta", 10_000.0)),
        )
    except ValueError as error:
        raise CheckpointError(f"{path} describes an encoder that is not implemented: {error}") from error


FAMILY = Family(
    name="glm_asr",
    examples=("zai-org/GLM-ASR-Nano-2512", "ZhipuAI/GLM-ASR-Nano-2512"),
    sign=f"{CONFIG_NAME} says model_type {MODEL_TYPES[0]}",
    recognises=lambda directory: model_type(directory) in MODEL_TYPES,
    files=LLM_FILES,
    read_tensors=read_tensors,
    name_table=NAME_TABLE,
    list_sources=list_sources,
    plan=plan,
)
