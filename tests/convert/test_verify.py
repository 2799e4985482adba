"""Verification: passes for honest conversions of every dtype, and names whatever was tampered with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.checkpoints import EditCheckpoint, State
from tests.paths import CHECKPOINTS
from twostage_asr.convert import verify
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.engine.errors import CheckpointError

LOW = CHECKPOINTS["low_frame_rate"]


@pytest.fixture
def copy(converted_dirs: dict[Path, Path], tmp_path: Path) -> Path:
    """A conversion to tamper with."""
    return Path(shutil.copytree(converted_dirs[LOW], tmp_path / "copy"))


def test_a_conversion_is_bit_equal(checkpoint: Path, converted_dirs: dict[Path, Path]) -> None:
    proof = verify_conversion(checkpoint, converted_dirs[checkpoint])
    assert proof.num_tensors == 228 and proof.num_logits == 24 * 2368 and proof.dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_conversion_to_another_dtype_is_equal_after_the_cast(tmp_path: Path, dtype: str) -> None:
    converted = ensure_converted(LOW, output=tmp_path / "out", dtype=dtype, progress=False)
    verify_conversion(LOW, converted)
    expected = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    source = torch.load(LOW / "model.pt", weights_only=True)["state_dict"]
    for name, tensor in load_file(converted / "acoustic.safetensors").items():
        assert torch.equal(tensor, source[name].to(expected)) and tensor.dtype is expected


def change_tensors(path: Path, change: Callable[[State], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "acoustic.safetensors",
            lambda t: t["ctc.ctc_lo.bias"].view(torch.int16)[7:8].bitwise_xor_(1),
            r"1 acoustic tensors differ from the checkpoint: ctc\.ctc_lo\.bias",
        ),
        (
            "llm/model.safetensors",
            lambda t: t["model.layers.2.mlp.up_proj.weight"].view(torch.int16)[5, 5:6].bitwise_xor_(1),
            r"1 llm tensors differ from the checkpoint: model\.layers\.2\.mlp\.up_proj\.weight",
        ),
        (
            "llm/model.safetensors",
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"].float()}),
            r"llm tensors differ .*model\.norm\.weight",
        ),
        (
            "acoustic.safetensors",
            lambda t: t.update({"audio_encoder.x": t.pop("audio_encoder.tp_norm.bias")}),
            r"1 missing \(audio_encoder\.tp_norm\.bias\), 1 added \(audio_encoder\.x\)",
        ),
    ],
)
def test_tampered_tensors_are_named(copy: Path, name: str, change: Callable[[State], object], message: str) -> None:
    change_tensors(copy / name, change)
    with pytest.raises(CheckpointError, match=message):
        verify_conversion(LOW, copy)


@pytest.mark.parametrize("name", ["llm/tokenizer.json", "llm/generation_config.json", "ctc.tiktoken"])
def test_tampered_copies_are_named(copy: Path, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(CheckpointError, match=f"{path.name} differ from the checkpoint's"):
        verify_conversion(LOW, copy)


def test_a_tampered_llm_configuration_is_named(copy: Path) -> None:
    path = copy / "llm" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 10_000.0}))
    with pytest.raises(CheckpointError, match=r"config\.json differ"):
        verify_conversion(LOW, copy)


def test_equal_tensors_under_another_configuration_give_other_logits(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof by logits stands on its own."""
    path = copy / "llm" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 10_000.0}))
    monkeypatch.setattr(verify, "_check_files", lambda *_: None)
    with pytest.raises(CheckpointError, match="gives other logits than the checkpoint's tensors: by up to"):
        verify_conversion(LOW, copy)


@pytest.mark.parametrize(("key", "value"), [("acoustic", {}), ("missing", {"ctc": "lost"})])
def test_a_tampered_engine_json_is_named(copy: Path, key: str, value: object) -> None:
    path = copy / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=rf"engine\.json is not what the checkpoint says in {key}"):
        verify_conversion(LOW, copy)


def test_a_conversion_of_another_checkpoint_is_refused(edited: EditCheckpoint, copy: Path) -> None:
    checkpoint = edited(config=lambda config: config.update(ctc_weight=0.5))
    with pytest.raises(CheckpointError, match=r"was made from other files: config\.yaml differ"):
        verify_conversion(CHECKPOINTS["full_rate"], copy)
    with pytest.raises(CheckpointError, match=r"was made from other files: config\.yaml differ"):
        verify_conversion(checkpoint, copy)


def test_a_truncated_conversion_is_refused(copy: Path) -> None:
    (copy / "llm" / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="cut short"):
        verify_conversion(LOW, copy)
