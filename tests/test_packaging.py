"""What is installed is what is there: packages listed, names exported; and what README.md says of installing works."""

import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import twostage_asr.engine

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    present = {
        "twostage_asr." + ".".join(init.parent.relative_to(ROOT).parts)
        for top in ("engine", "encoders", "convert")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(listed) == present | {"twostage_asr"}  # the latter is `python -m twostage_asr` alone


def test_public_names_exist() -> None:
    for name in twostage_asr.engine.__all__:
        found = getattr(twostage_asr.engine, name)
        assert getattr(found, "__name__", name) in (name, "Literal")  # unions have no name, a Literal has another


def test_the_version_is_said_in_every_place() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert twostage_asr.engine.__version__ == version
    said = subprocess.check_output([sys.executable, "-m", "twostage_asr", "--version"], text=True)
    assert said == f"twostage-asr {version}\n"


def test_encoders_stand_alone() -> None:
    for path in (ROOT / "encoders").glob("*.py"):
        assert not re.search(r"from \.\.", path.read_text()), f"{path.name} reaches outside encoders/"


def test_numba_stays_out_of_the_run_time() -> None:
    code = "import sys, twostage_asr.engine.auto; print(sorted({'numba', 'librosa', 'funasr'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_what_readme_says_of_installing_resolves(tmp_path: Path) -> None:
    """On the registry alone, for wheels alone; pip's lines without what pyproject.toml tells uv."""
    lines = re.findall(r'(uv )?pip install "\.(\[.+?\])"', (ROOT / "README.md").read_text(encoding="utf-8"))
    assert lines
    reached = resolve("packaging", tmp_path, "--no-cache")
    if reached.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no registry: {reached.stderr}")
    with ThreadPoolExecutor(len(lines)) as pool:
        done = pool.map(lambda line: resolve(f"{ROOT}{line[1]}", ROOT if line[0] else tmp_path), lines)
    assert {line: said.stderr for line, said in zip(lines, done, strict=True) if said.returncode} == {}


def resolve(requirement: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Ask uv which versions a new environment would get. It reads the pyproject.toml of `directory` if there is one."""
    command = [str(UV), "pip", "compile", "-", "--only-binary", ":all:", "--no-binary", "twostage-asr", *options]
    return subprocess.run(command, input=requirement, cwd=directory, capture_output=True, text=True, check=False)
