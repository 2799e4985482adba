"""Types and readers that the tests of the converter share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]


class EditCheckpoint(Protocol):
    """The fixture `edited`."""

    def __call__(
        self,
        *,
        state: Callable[[State], object] | None = None,
        config: Callable[[dict[str, Any]], object] | None = None,
    ) -> Path: ...


def read_tensors(converted: Path) -> State:
    """Every tensor of a converted directory."""
    return {**load_file(converted / "acoustic.safetensors"), **load_file(converted / "llm" / "model.safetensors")}
