"""What is installed is what is there: packages listed, names exported, vLLM and hosts kept where they belong."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import twostage_asr.engine

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    present = {
        "twostage_asr." + ".".join(init.parent.relative_to(ROOT).parts)
        for top in ("engine", "encoders", "convert")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(listed) == present


def test_public_names_exist() -> None:
    for name in twostage_asr.engine.__all__:
        found = getattr(twostage_asr.engine, name)
        assert getattr(found, "__name__", name) in (name, "Literal")  # unions have no name, a Literal has another


def test_only_the_vllm_decoder_imports_vllm() -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for top in ("engine", "encoders", "convert")
        for path in (ROOT / top).rglob("*.py")
        if re.search(r"^\s*(from|import) vllm\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {"engine/decoder/vllm_decoder.py", "engine/bench/peer_vllm.py"}  # the latter as a peer


def test_encoders_stand_alone() -> None:
    for path in (ROOT / "encoders").glob("*.py"):
        assert not re.search(r"from \.\.", path.read_text()), f"{path.name} reaches outside encoders/"


def test_numba_stays_out_of_the_run_time() -> None:
    code = "import sys, twostage_asr.engine.auto; print(sorted({'numba', 'librosa', 'funasr'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
