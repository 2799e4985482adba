"""The command: what it prints, and its exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.convert.checkpoints import EditCheckpoint
from tests.paths import CHECKPOINTS
from twostage_asr.convert.weights import DTYPES
from twostage_asr.engine.cli import main


def test_it_converts_verifies_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    command = ["convert", "--model", str(CHECKPOINTS["full_rate"]), "--output", str(output), "--verify"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{output}: fun_asr_nano, dtype keep",
        "verified: 228 tensors and 56832 logits (bfloat16) are bit-equal",
    ]


def test_it_says_what_is_missing_and_what_was_decided(
    edited: EditCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = edited(state=lambda s: {n: t for n, t in s.items() if not n.startswith("ctc")})
    assert main(["convert", "--model", str(checkpoint), "--dtype", "fp16"]) == 0
    _, missing, note = capsys.readouterr().out.splitlines()
    assert missing.startswith("missing ctc: model.pt holds no ctc_decoder.*")
    assert note.startswith("note: Qwen3 decoders are known to degenerate in float16")


def test_tampering_makes_verification_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "--model", str(CHECKPOINTS["full_rate"]), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    acoustic = tmp_path / "out" / "acoustic.safetensors"
    content = bytearray(acoustic.read_bytes())
    content[-1] ^= 1
    acoustic.write_bytes(content)
    assert main([*command, "--verify"]) == 1
    assert "1 acoustic tensors differ from the checkpoint: ctc_decoder.linear2.weight" in capsys.readouterr().err
    assert main([*command, "--force", "--verify"]) == 0


def test_an_error_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--model", str(tmp_path / "nowhere")]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("twostage-asr: ") and captured.err.count("\n") == 1
    assert "does not exist" in captured.err


def test_wrong_usage_is_status_2_and_names_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "--model", "x", "--dtype", "int8"])
    assert f"(choose from {', '.join(map(repr, DTYPES))})" in capsys.readouterr().err


def test_the_package_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "twostage_asr.convert"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "see twostage-asr convert --help" in done.stderr
