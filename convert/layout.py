"""What each model family tells the converter: which checkpoints belong to it, what is read, and what is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..engine.errors import CheckpointError, enumerate_names
from ..engine.hub.model_files import RepositoryFiles
from ..engine.manifest import FrameClock, LLMInfo
from .weights import Weight

Part = Literal["acoustic", "llm"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMPlan:
    """The contents of the directory llm/."""

    config: Mapping[str, Any]  # the config.json to write
    weights: Mapping[str, Weight]
    files: tuple[Path, ...]  # copied unchanged: tokenizer and generation_config.json
    made_files: Mapping[str, str]  # name -> text: tokenizer.json where the checkpoint has it in another form
    info: LLMInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One conversion: what will be written. Nothing has been written yet."""

    acoustic: Mapping[str, Weight]
    acoustic_config: Mapping[str, Any]
    frame_clock: FrameClock | None  # None if encoder frames cannot time words
    ctc_vocabulary: Path | None
    llm: LLMPlan
    missing: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def copied_files(self) -> tuple[Path, ...]:
        return self.llm.files if self.ctc_vocabulary is None else (*self.llm.files, self.ctc_vocabulary)

    @property
    def weight_bytes(self) -> int:
        return sum(weight.nbytes for weight in (*self.acoustic.values(), *self.llm.weights.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family. `plan` takes the checkpoint's directory and the dtype of the output (None: each tensor's own)."""

    name: str  # in engine.json
    examples: tuple[str, ...]  # published models; if there are none, a description
    sign: str  # what its checkpoints are recognised by, for messages
    recognises: Callable[[Path], bool]  # from config.yaml or config.json, which are fetched first
    files: RepositoryFiles
    read_tensors: Callable[[Path], dict[str, Tensor]]  # of any layout, under the names of one layout
    name_table: Mapping[str, tuple[Part, str]]  # prefix of a tensor's name -> part of the output, prefix there
    list_sources: Callable[[Path], dict[str, Path]]  # every file that a conversion reads, by relative name
    plan: Callable[[Path, torch.dtype | None], Plan]


def destination(name: str, table: Mapping[str, tuple[Part, str]]) -> tuple[Part, str] | None:
    """The part and the name that a source tensor gets in the output; None if the family has no such tensor."""
    for prefix, (part, renamed) in table.items():
        if name.startswith(prefix):
            return part, renamed + name.removeprefix(prefix)
    return None


def check_fit(source: Path, *, needed: Shapes, found: Shapes) -> None:
    """Raises CheckpointError unless the checkpoint has exactly the tensors that its configuration calls for."""
    missing = sorted(needed.keys() - found.keys())
    unknown = sorted(found.keys() - needed.keys())
    misshapen = [
        f"{name} is {found[name]} and should be {needed[name]}"
        for name in sorted(needed.keys() & found.keys())
        if needed[name] != found[name]
    ]
    faults = {"missing": missing, "not used by any part of the model": unknown, "of another shape": misshapen}
    described = [f"{len(names)} {fault}: {enumerate_names(names)}" for fault, names in faults.items() if names]
    if described:
        raise CheckpointError(f"{source} does not fit its configuration: tensors {'; '.join(described)}")


def split_parts(weights: Mapping[str, Weight], table: Mapping[str, tuple[Part, str]]) -> dict[Part, dict[str, Weight]]:
    """Divide weights that passed `check_fit` among the parts of the output, under their names there."""
    parts: dict[Part, dict[str, Weight]] = {"acoustic": {}, "llm": {}}
    for name, weight in weights.items():
        target = destination(name, table)
        assert target is not None, f"{name} passed check_fit"
        parts[target[0]][target[1]] = weight
    return parts
