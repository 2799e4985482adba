"""Verify that a converted directory holds the same model as its checkpoint.

Four things are compared anew: the source files have the digests in engine.json; copied files equal their originals;
every tensor equals its source bit for bit (after the cast, if one was asked for); and the LLM in llm/, loaded by
transformers, gives exactly the logits of a model that is built from the source tensors.
"""

import filecmp
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import logging as transformers_logging

from ..engine.errors import CheckpointError, enumerate_names
from ..engine.manifest import ACOUSTIC_NAME, CTC_VOCABULARY_NAME, LLM_DIR_NAME, EngineManifest, SourceFile
from .config_file import CONFIG_NAME, read_json
from .export import is_complete
from .families import FAMILIES
from .layout import Family, Part, Plan, destination
from .llm import EMBEDDING, HEAD, bits, transformers_model
from .safetensors_file import list_model_files
from .sources import Sources
from .weights import DTYPES, LORA_A, LORA_B

_NUM_TOKENS = 12  # in each of the two sequences for which logits are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared and found equal."""

    num_tensors: int
    num_logits: int
    dtype: torch.dtype  # in which the LLM computed the logits


def verify_conversion(checkpoint_dir: Path, converted: Path) -> Verification:
    """Compare everything. Raises CheckpointError, which names what differs, for the first kind of difference."""
    manifest = EngineManifest.read(converted)
    if manifest.family not in FAMILIES:
        raise CheckpointError(f"{converted} is of family {manifest.family!r}; known are {', '.join(FAMILIES)}")
    if not is_complete(converted, manifest):
        raise CheckpointError(f"{converted} lacks files, or has files that were cut short; convert again with --force")
    family = FAMILIES[manifest.family]
    _check_sources(checkpoint_dir, converted, family, manifest)
    plan = family.plan(checkpoint_dir, DTYPES[manifest.dtype])
    _check_manifest(converted, manifest, plan)
    _check_files(converted, plan)
    expected = _expected_tensors(checkpoint_dir, family, plan)
    num_tensors = _check_tensors(converted, expected)
    dtype = plan.llm.weights[EMBEDDING].dtype
    num_logits = _check_logits(converted / LLM_DIR_NAME, plan.llm.config, expected["llm"], dtype)
    return Verification(num_tensors=num_tensors, num_logits=num_logits, dtype=dtype)


def _check_sources(checkpoint_dir: Path, converted: Path, family: Family, manifest: EngineManifest) -> None:
    def digests(files: Mapping[str, SourceFile]) -> set[tuple[str, str]]:
        return {(name, file.sha256) for name, file in files.items()}

    now = Sources.snapshot(family.list_sources(checkpoint_dir)).records()
    changed = sorted({name for name, _ in digests(now) ^ digests(manifest.source)})
    if changed:
        raise CheckpointError(
            f"{converted} was made from other files: {enumerate_names(changed)} differ; convert again"
        )


def _check_manifest(converted: Path, manifest: EngineManifest, plan: Plan) -> None:
    pairs = {
        "acoustic": (manifest.acoustic, dict(plan.acoustic_config)),
        "frame_clock": (manifest.frame_clock, plan.frame_clock),
        "llm": (manifest.llm, plan.llm.info),
        "missing": (manifest.missing, dict(plan.missing)),
    }
    wrong = [name for name, (written, planned) in pairs.items() if written != planned]
    if wrong:
        raise CheckpointError(f"{converted}: engine.json is not what the checkpoint says in {', '.join(wrong)}")


def _check_files(converted: Path, plan: Plan) -> None:
    copies = [(file, converted / LLM_DIR_NAME / file.name) for file in plan.llm.files]
    if plan.ctc_vocabulary is not None:
        copies.append((plan.ctc_vocabulary, converted / CTC_VOCABULARY_NAME))
    wrong = [copy.name for file, copy in copies if not (copy.is_file() and filecmp.cmp(file, copy, shallow=False))]
    made = {converted / LLM_DIR_NAME / name: content for name, content in plan.llm.made_files.items()}
    wrong += [p.name for p, content in made.items() if not (p.is_file() and p.read_text(encoding="utf-8") == content)]
    if read_json(converted / LLM_DIR_NAME / CONFIG_NAME) != dict(plan.llm.config):
        wrong.append(CONFIG_NAME)
    if wrong:
        raise CheckpointError(f"{converted}: {enumerate_names(wrong)} differ from the checkpoint's")


def _expected_tensors(checkpoint_dir: Path, family: Family, plan: Plan) -> dict[Part, dict[str, Tensor]]:
    """What the output must hold, from the source and the name table alone. Only LoRA merges are taken from the plan."""
    source = family.read_tensors(checkpoint_dir)
    planned = {"acoustic": plan.acoustic, "llm": plan.llm.weights}
    expected: dict[Part, dict[str, Tensor]] = {"acoustic": {}, "llm": {}}
    for name, tensor in source.items():
        target = destination(name, family.name_table)
        if target is None:
            raise CheckpointError(f"{checkpoint_dir}: {name} has no place in the output")
        part, renamed = target
        weight = planned[part].get(renamed)
        if weight is not None and weight.lora is None:
            expected[part][renamed] = tensor if weight.dtype is tensor.dtype else tensor.to(weight.dtype)
        elif weight is not None:
            expected[part][renamed] = weight.value()
        elif not (plan.llm.info.tied and renamed == HEAD) and not name.endswith((LORA_A, LORA_B)):
            raise CheckpointError(f"{checkpoint_dir}: {name} was left out of the output")
    return expected


def _check_tensors(converted: Path, expected: Mapping[Part, Mapping[str, Tensor]]) -> int:
    files: dict[Part, list[Path]] = {
        "acoustic": [converted / ACOUSTIC_NAME],
        "llm": list_model_files(converted / LLM_DIR_NAME),
    }
    for part, paths in files.items():
        with ExitStack() as stack:
            opened = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
            holders = {name: file for file in opened for name in file.keys()}  # noqa: SIM118  (no mapping)
            _compare(converted, part, expected[part], holders)
    return sum(len(tensors) for tensors in expected.values())


def _compare(converted: Path, part: Part, expected: Mapping[str, Tensor], holders: Mapping[str, Any]) -> None:
    absent, surplus = sorted(expected.keys() - holders.keys()), sorted(holders.keys() - expected.keys())
    if absent or surplus:
        raise CheckpointError(
            f"{converted}: the {part} tensors are not the checkpoint's: {len(absent)} missing "
            f"({enumerate_names(absent)}), {len(surplus)} added ({enumerate_names(surplus)})"
        )
    wrong = [name for name, tensor in expected.items() if not _equal_bits(tensor, holders[name].get_tensor(name))]
    if wrong:
        raise CheckpointError(
            f"{converted}: {len(wrong)} {part} tensors differ from the checkpoint: {enumerate_names(wrong)}"
        )


def _check_logits(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """Compare logits bit for bit: both models run the same operations on the same machine."""
    vocab_size = config["vocab_size"]
    tokens = torch.linspace(0, vocab_size - 1, 2 * _NUM_TOKENS).long().view(2, _NUM_TOKENS)
    with _no_progress_bar(), torch.inference_mode():
        llm_config, llm_class = transformers_model(config)
        model = llm_class.from_pretrained(directory, dtype=dtype, local_files_only=True)
        written: Tensor = model(tokens).logits
        del model
        reference = llm_class.from_pretrained(None, config=llm_config, state_dict=dict(tensors), dtype=dtype)
        logits: Tensor = reference(tokens).logits
    if not _equal_bits(written, logits):
        distance = float((written.float() - logits.float()).abs().max())
        raise CheckpointError(f"{directory} gives other logits than the checkpoint's tensors: by up to {distance:g}")
    return written.numel()


def _equal_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Turn off the progress bar that transformers shows for every model that it loads."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
