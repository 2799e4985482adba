"""LLMASR: how checkpoints of FunASR's Whisper + adaptor + LLM recipes are recognised and taken apart.

A checkpoint is a directory with config.yaml and model.pt (`audio_encoder.*`, `audio_adaptor.*`, `llm.*`). The LLM's
configuration and tokenizer, and its weights if model.pt has none, come from llm_conf.init_param_path. This is a
directory, which may be inside the checkpoint, or a model on a hub.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from ..encoders.llm_asr import AdaptorKind, LLMASRTower, LLMASRTowerConfig
from ..engine.errors import CheckpointError
from ..engine.hub.model_files import RepositoryFiles
from ..engine.hub.resolve import HubName, resolve_model
from .checkpoint import read_state_dict
from .config_file import CONFIG_NAME, CONFIG_YAML, ConfigFile, model_class
from .layout import Family, Part, Plan, check_fit, split_parts
from .llm import LLM_FILES, list_llm_files, needed_shapes, plan_without_ctc, read_llm_config
from .safetensors_file import list_checkpoint_files, read_checkpoint
from .weights import plan_weights

MODEL_CLASSES = ("LLMASR", "LLMASR2")
MODEL_PT = "model.pt"
NAME_TABLE: Mapping[str, tuple[Part, str]] = {
    "audio_encoder.": ("acoustic", "audio_encoder."),
    "audio_adaptor.": ("acoustic", "audio_adaptor."),
    "llm.": ("llm", ""),
}
_UNUSED = re.compile(  # RoPE frequencies in older LLaMA checkpoints, which follow from config.json
    r"llm\.model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
)
_HUBS: Mapping[str, HubName] = {"hf": "hf", "ms": "ms"}
_DOWNSAMPLE_RATES = {"Linear": 5, "Transformer": 2, "QFormer": 5}  # defaults where config.yaml gives none
_NO_CTC = "LLMASR has no CTC head; forced_aligner= times its words"


def list_sources(directory: Path) -> dict[str, Path]:
    """Every file that a conversion reads. Raises CheckpointError if one is missing."""
    if not (directory / MODEL_PT).is_file():
        raise CheckpointError(f"{directory} has no {MODEL_PT}; the download may be incomplete")
    has_llm = _has_llm(read_state_dict(directory / MODEL_PT))
    llm_directory = _llm_directory(directory, with_weights=not has_llm)
    llm_files = [*list_llm_files(llm_directory)]
    if not has_llm:
        llm_files += list_checkpoint_files(llm_directory)
    own = {path.name: path for path in (directory / CONFIG_YAML, directory / MODEL_PT)}
    return own | {f"{llm_directory.name}/{path.name}": path for path in llm_files}


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of model.pt, and those of the LLM from its directory if model.pt has none. Raises CheckpointError."""
    tensors = read_state_dict(directory / MODEL_PT)
    if not _has_llm(tensors):
        stored = read_checkpoint(_llm_directory(directory, with_weights=True))
        tensors |= {f"llm.{name}": tensor for name, tensor in stored.items()}
    return {name: tensor for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}


def plan(directory: Path, dtype: torch.dtype | None) -> Plan:
    """Plan the conversion of a checkpoint. Raises CheckpointError, which names what does not fit."""
    llm_directory = _llm_directory(directory, with_weights=False)
    llm_config = read_llm_config(llm_directory)
    weights = plan_weights(read_tensors(directory), dtype, None)
    found = {name: weight.shape for name, weight in weights.items()}
    tower = _tower_config(ConfigFile.read(directory / CONFIG_YAML), found, llm_config["hidden_size"])
    needed = needed_shapes(lambda: LLMASRTower(tower), llm_config, prefix="llm.", found=weights)
    check_fit(directory / MODEL_PT, needed=needed, found=found)
    parts = split_parts(weights, NAME_TABLE)
    return plan_without_ctc(llm_directory, llm_config, parts, acoustic_config=asdict(tower), no_times_reason=_NO_CTC)


def _has_llm(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("llm.") for name in tensors)


def _llm_directory(directory: Path, *, with_weights: bool) -> Path:
    """A directory inside the checkpoint or elsewhere, or a model of the hub that llm_conf.hub names.

    The weights of a model on a hub are fetched only if model.pt does not hold them.
    """
    config = ConfigFile.read(directory / CONFIG_YAML)
    name = config.get("llm_conf.init_param_path", str)
    for candidate in (directory / name, Path(name)):
        if (candidate / CONFIG_NAME).is_file():
            return candidate
    hub = config.get("llm_conf.hub", str, "hf")
    if hub not in _HUBS:
        raise CheckpointError(f"{config.path}: llm_conf.hub is {hub!r}; one of {', '.join(_HUBS)} is needed")
    return resolve_model(name, hub=_HUBS[hub], files=LLM_FILES if with_weights else replace(LLM_FILES, weights=()))


def _tower_config(config: ConfigFile, found: Mapping[str, tuple[int, ...]], llm_dim: int) -> LLMASRTowerConfig:
    """Sizes of the encoder come from its tensors, since config.yaml gives only its name; FunASR does the same."""
    positions, conv = (found.get(f"audio_encoder.{name}", ()) for name in ("positional_embedding", "conv1.weight"))
    if len(positions) != 2 or len(conv) != 3:
        raise CheckpointError(
            f"{config.path}: {MODEL_PT} holds no Whisper encoder (audio_encoder.conv1.weight and "
            "audio_encoder.positional_embedding), the one that is implemented for this class"
        )
    layers = {name.split(".")[2] for name in found if name.startswith("audio_encoder.blocks.")}
    kind: AdaptorKind | None = next((k for k in get_args(AdaptorKind) if k == config.find("audio_adaptor")), None)
    if kind is None:
        named, known = config.find("audio_adaptor"), ", ".join(get_args(AdaptorKind))
        raise CheckpointError(f"{config.path}: audio_adaptor is {named!r}; one of {known} is needed")
    try:
        return LLMASRTowerConfig(
            num_mels=conv[1],
            encoder_dim=conv[0],
            num_layers=len(layers),
            num_positions=positions[0],
            adaptor=kind,
            llm_dim=llm_dim,
            ffn_dim=config.get("audio_adaptor_conf.ffn_dim", int, 2048),
            downsample_rate=config.get("audio_adaptor_conf.downsample_rate", int, _DOWNSAMPLE_RATES[kind]),
            n_layer=config.get("audio_adaptor_conf.n_layer", int, 2) if kind == "Transformer" else 0,
            attention_heads=config.get("audio_adaptor_conf.attention_heads", int, 8),
        )
    except ValueError as error:
        raise CheckpointError(f"{config.path} describes a model that is not implemented: {error}") from error


FAMILY = Family(
    name="llm_asr",
    examples=("your own checkpoints of FunASR's LLMASR recipes",),
    sign=f"{CONFIG_YAML} says model: {' or '.join(MODEL_CLASSES)}",
    recognises=lambda directory: model_class(directory) in MODEL_CLASSES,
    files=RepositoryFiles(  # the LLM, with its weights, may be a sub-directory
        always=(CONFIG_YAML, *(f"*/{pattern}" for pattern in (*LLM_FILES.always, *LLM_FILES.weights))),
        weights=(MODEL_PT,),
    ),
    read_tensors=read_tensors,
    name_table=NAME_TABLE,
    list_sources=list_sources,
    plan=plan,
)
