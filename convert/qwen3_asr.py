"""Qwen3-ASR and Qwen3-ForcedAligner: how their checkpoints are recognised and taken apart.

A checkpoint is a directory with config.json, safetensors and the tokenizer, in one of two layouts: the original one
(`thinker.*`, sizes under `thinker_config`) or that of transformers ("-hf"). Both are read under the original names. The
aligner is the same model with a head that chooses times. That head is stored with the tower, and its LLM has no head.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..encoders.qwen3_asr import Qwen3ASRTower, Qwen3ASRTowerConfig
from ..engine.errors import CheckpointError
from ..engine.hub.model_files import RepositoryFiles
from .config_file import CONFIG_NAME, model_type, read_json
from .layout import Family, Part, Plan, check_fit, split_parts
from .llm import HEAD, LLM_FILES, list_llm_files, needed_shapes, nested_llm_config, plan_without_ctc
from .llm_tokenizer import read_llm_tokenizer
from .safetensors_file import list_checkpoint_files, read_checkpoint
from .weights import plan_weights

MODEL_TYPE = "qwen3_asr"
CLASSIFIER = "classifier.weight"  # the aligner's head, stored with the tower
PREPROCESSOR_NAME = "preprocessor_config.json"
CLASS_MS = 80
END_TOKENS = ("<|im_end|>", "<|endoftext|>")  # qwen-asr ends an answer at these, whatever the files say
# Longer prefixes come first, because the first that fits is taken.
ORIGINAL_NAMES: Mapping[str, str] = {  # transformers' layout -> the original one
    "model.multi_modal_projector.linear_1.": "thinker.audio_tower.proj1.",
    "model.multi_modal_projector.linear_2.": "thinker.audio_tower.proj2.",
    "model.audio_tower.": "thinker.audio_tower.",
    "model.language_model.": "thinker.model.",
    "lm_head.": "thinker.lm_head.",
    "score.": "thinker.lm_head.",
}
NAME_TABLE: Mapping[str, tuple[Part, str]] = {
    "thinker.audio_tower.": ("acoustic", ""),
    "thinker.model.": ("llm", "model."),
    "thinker.lm_head.": ("llm", "lm_head."),
}
ALIGNER_TABLE: Mapping[str, tuple[Part, str]] = {"thinker.lm_head.weight": ("acoustic", CLASSIFIER), **NAME_TABLE}
_NO_CTC = "Qwen3-ASR has no CTC head; forced_aligner= times its words"
_FEATURES = {"feature_size": 128, "hop_length": 160, "n_fft": 400}  # the features that whisper_features.py computes


def list_sources(directory: Path) -> dict[str, Path]:
    """Every file that a conversion reads. Raises CheckpointError if one is missing."""
    files = [*list_llm_files(directory), *list_checkpoint_files(directory)]
    files += [path for path in [directory / PREPROCESSOR_NAME] if path.is_file()]
    return {path.name: path for path in files}


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of either layout, under the original names. Raises CheckpointError."""
    return {_original_name(name): tensor for name, tensor in read_checkpoint(directory).items()}


def plan(directory: Path, dtype: torch.dtype | None, *, table: Mapping[str, tuple[Part, str]]) -> Plan:
    """Plan the conversion of a checkpoint. Raises CheckpointError, which names what does not fit."""
    path = directory / CONFIG_NAME
    is_aligner = table is ALIGNER_TABLE
    whole = read_json(path)
    config = _thinker(whole)
    _check_features(directory)
    tower = _tower_config(config.get("audio_config"), path)
    text = {"model_type": "qwen3", "eos_token_id": _end_tokens(directory)}
    text = {**_mapping(config, "text_config", path), **text}
    llm_config = nested_llm_config(text, path, tied=is_aligner or bool(text.get("tie_word_embeddings", True)))
    if tower.output_dim != llm_config["hidden_size"]:
        raise CheckpointError(f"{path}: output_dim is {tower.output_dim}, the LLM is {llm_config['hidden_size']} wide")
    weights = plan_weights(read_tensors(directory), dtype, None)
    found = {name: weight.shape for name, weight in weights.items()}
    rename = "thinker.audio_tower.{}".format
    needed = needed_shapes(lambda: Qwen3ASRTower(tower), llm_config, prefix="thinker.", found=found, rename=rename)
    head = "thinker." + HEAD
    if is_aligner:  # it tells any number of classes apart
        needed[head] = (*found.get(head, (0,))[:1], llm_config["hidden_size"])
    check_fit(directory, needed=needed, found=found)
    parts = split_parts(weights, table)
    acoustic_config = asdict(tower)
    if is_aligner:
        acoustic_config |= {"num_classes": needed[head][0], "class_ms": _class_ms(whole, path)}
    return plan_without_ctc(directory, llm_config, parts, acoustic_config=acoustic_config, no_times_reason=_NO_CTC)


def _class_ms(config: Mapping[str, Any], path: Path) -> int:
    """Milliseconds of one class of the aligner's head. Transformers' config.json does not give it; it is 80 there."""
    value = config.get("timestamp_segment_time", CLASS_MS)
    if value != int(value) or value < 1:
        raise CheckpointError(f"{path}: timestamp_segment_time is {value!r}; a whole number of milliseconds is needed")
    return int(value)


def _original_name(name: str) -> str:
    for prefix, original in ORIGINAL_NAMES.items():
        if name.startswith(prefix):
            return original + name.removeprefix(prefix)
    return name


def _thinker(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that describes the model, in either layout."""
    thinker = config.get("thinker_config")
    return thinker if isinstance(thinker, Mapping) else config


def is_aligner(directory: Path) -> bool:
    """Whether a checkpoint of model_type qwen3_asr is a forced aligner."""
    config = read_json(directory / CONFIG_NAME)
    named = [_thinker(config).get("model_type"), *(config.get("architectures") or [])]
    return any(str(name).endswith(("forced_aligner", "ForTokenClassification")) for name in named)


def _recognises(directory: Path, *, aligner: bool) -> bool:
    return model_type(directory) == MODEL_TYPE and is_aligner(directory) is aligner


def _mapping(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: {key} is {value!r}; an object is needed")
    return value


def _tower_config(config: object, path: Path) -> Qwen3ASRTowerConfig:
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{path}: audio_config is {config!r}; an object is needed")
    names = [field.name for field in fields(Qwen3ASRTowerConfig)]
    wrong = [f"{name} {config.get(name)!r}" for name in names if type(config.get(name)) is not int or config[name] < 1]
    if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
        wrong.append("another activation_function than gelu, or scale_embedding")
    if wrong:
        raise CheckpointError(f"{path}: audio_config cannot be used: {', '.join(wrong)}")
    try:
        return Qwen3ASRTowerConfig(**{name: config[name] for name in names})
    except ValueError as error:
        raise CheckpointError(f"{path}: audio_config describes a model that is not implemented: {error}") from error


def _check_features(directory: Path) -> None:
    """Raises CheckpointError if the checkpoint needs other features than those that are computed here."""
    path = directory / PREPROCESSOR_NAME
    stated = read_json(path) if path.is_file() else {}
    wrong = [f"{key} {stated[key]!r}" for key, value in _FEATURES.items() if stated.get(key, value) != value]
    if wrong:
        raise CheckpointError(f"{path}: {', '.join(wrong)}; only {_FEATURES} is implemented")


def _end_tokens(directory: Path) -> list[int]:
    tokenizer = read_llm_tokenizer(directory)
    ids = [token_id for token in END_TOKENS if (token_id := tokenizer.token_to_id(token)) is not None]
    if len(ids) < len(END_TOKENS):
        raise CheckpointError(f"{directory}: its tokenizer lacks one of {', '.join(END_TOKENS)}")
    return ids


def _family(name: str, examples: tuple[str, ...], sign: str, *, aligner: bool) -> Family:
    table = ALIGNER_TABLE if aligner else NAME_TABLE
    planned: Callable[[Path, torch.dtype | None], Plan] = partial(plan, table=table)
    return Family(
        name=name,
        examples=examples,
        sign=f"{CONFIG_NAME} says model_type {MODEL_TYPE}{sign}",
        recognises=partial(_recognises, aligner=aligner),
        files=RepositoryFiles(always=(PREPROCESSOR_NAME, *LLM_FILES.always), weights=LLM_FILES.weights),
        read_tensors=read_tensors,
        name_table=table,
        list_sources=list_sources,
        plan=planned,
    )


FAMILY = _family(
    "qwen3_asr",
    ("Qwen/Qwen3-ASR-0.6B", "Qwen/Qwen3-ASR-1.7B", "Qwen/Qwen3-ASR-0.6B-hf", "Qwen/Qwen3-ASR-1.7B-hf"),
    "",
    aligner=False,
)
ALIGNER = _family(
    "qwen3_forced_aligner",
    ("Qwen/Qwen3-ForcedAligner-0.6B", "Qwen/Qwen3-ForcedAligner-0.6B-hf"),
    " and a class of forced aligners",
    aligner=True,
)
