"""The two micro checkpoints, converted once, and a way to make faulty or unusual variants of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.convert.checkpoints import EditCheckpoint, State
from tests.paths import CHECKPOINTS, CONVERSIONS
from twostage_asr.convert.export import ensure_converted


@pytest.fixture(params=sorted(CHECKPOINTS))
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Each of the two checkpoints; do not write there."""
    return CHECKPOINTS[request.param]


@pytest.fixture(scope="session")
def converted_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Checkpoint -> its conversion; do not write there."""
    base = tmp_path_factory.mktemp("converted")
    return {path: ensure_converted(path, output=base / name, progress=False) for name, path in CHECKPOINTS.items()}


@pytest.fixture
def edited(tmp_path: Path) -> EditCheckpoint:
    """Copy the low-frame-rate checkpoint and change it.

    `state` gets the tensors, changes them in place or returns what to save instead; `config` does so with config.yaml.
    """

    def edit(
        *,
        state: Callable[[State], object] | None = None,
        config: Callable[[dict[str, Any]], object] | None = None,
    ) -> Path:
        directory = tmp_path / "checkpoint"
        shutil.copytree(CHECKPOINTS["low_frame_rate"], directory, ignore=CONVERSIONS)
        if state is not None:
            tensors = torch.load(directory / "model.pt", weights_only=True)["state_dict"]
            replaced = state(tensors)
            torch.save({"state_dict": tensors} if replaced is None else replaced, directory / "model.pt")
        if config is not None:
            values = yaml.safe_load((directory / "config.yaml").read_text())
            config(values)
            (directory / "config.yaml").write_text(yaml.safe_dump(values))
        return directory

    return edit
