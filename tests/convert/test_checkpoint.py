"""Reading model.pt: every layout that trainers write, and nothing that runs code or holds anything but weights."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twostage_asr.convert.checkpoint import read_state_dict
from twostage_asr.engine.errors import CheckpointError

TENSORS = {"llm.a": torch.arange(6.0).view(2, 3), "ctc.b": torch.ones(2, dtype=torch.bfloat16)}


def _same(read: dict[str, Tensor]) -> bool:
    return list(read) == list(TENSORS) and all(torch.equal(read[n], t) for n, t in TENSORS.items())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model_state_dict",), ("model",), ("state_dict", "model")])
def test_wrappers_and_ddp_prefix_change_nothing(tmp_path: Path, keys: tuple[str, ...], prefix: str) -> None:
    saved: Any = OrderedDict((prefix + name, tensor) for name, tensor in TENSORS.items())
    for key in reversed(keys):
        saved = {"epoch": 3, key: saved, "optimizer": {"lr": 0.1}}
    torch.save(saved, tmp_path / "model.pt")
    assert _same(read_state_dict(tmp_path / "model.pt"))


def test_torchs_old_file_format_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert _same(read_state_dict(tmp_path / "model.pt"))


def test_a_prefix_on_some_names_is_part_of_those_names(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model.pt")
    assert set(read_state_dict(tmp_path / "model.pt")) == {"module.a", "b"}


class _Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_the_pickle_is_named_and_never_run(tmp_path: Path, new_format: bool) -> None:
    path, proof = tmp_path / "model.pt", tmp_path / "was_run"
    torch.save({**TENSORS, "x": _Touch(proof)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"model\.pt is refused: unpickling it would run \w+\.mkdir"):
        read_state_dict(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the trap does not work, so this test proves nothing"


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (3, "int"),
        ("text", "str"),
        (torch.ones(2, dtype=torch.int64), "tensor of int64"),
        (torch.ones(2, dtype=torch.float64), "tensor of float64"),
        (torch.eye(2).to_sparse(), "sparse_coo"),
    ],
)
def test_a_value_that_is_no_weight_is_named(tmp_path: Path, value: object, description: str) -> None:
    torch.save({**TENSORS, "llm.steps": value}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=rf"llm\.steps \(.*{description}"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Entry not found", "damaged"),
        (pickle.dumps([1, 2], protocol=2), "damaged"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize("saved", [[torch.ones(2)], {}, {"state_dict": {}}])
def test_a_file_without_named_weights_is_refused(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"dict of named tensors|no weights"):
        read_state_dict(tmp_path / "model.pt")


def test_compressed_entries_are_refused_because_mapping_would_misread_them(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as old, zipfile.ZipFile(tmp_path / "model.pt", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed entries"):
        read_state_dict(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "model.pt"
    torch.save({"state_dict": TENSORS}, path)
    return path.read_bytes()


@settings(max_examples=150)
@given(data=st.data())
def test_damage_gives_a_checkpoint_error_or_weights(
    saved_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(saved_bytes)
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))]
    path = tmp_path_factory.mktemp("damaged") / "model.pt"
    path.write_bytes(damaged)
    try:
        read = read_state_dict(path)
    except CheckpointError:
        return
    assert all(isinstance(tensor, Tensor) and tensor.clone().shape == tensor.shape for tensor in read.values())
