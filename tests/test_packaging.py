"""What is installed is what is there: packages listed, names exported; and what README.md says of installing works."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import twostage_asr.engine

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


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


def test_weights_have_their_licence_beside_them_and_are_not_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["license"] == "Apache-2.0"
    folders = {path.parent for path in (ROOT / "demos").rglob("model.pt") if "out" not in path.parts}
    assert folders
    for folder in folders:
        assert "SPDX-License-Identifier: CC-BY-SA-4.0" in (folder / "LICENSE").read_text(encoding="utf-8")
        tops = project["tool"]["setuptools"]["package-dir"].values()
        assert not any(folder.is_relative_to(ROOT / top) for top in tops)


def test_encoders_stand_alone() -> None:
    for path in (ROOT / "encoders").glob("*.py"):
        assert not re.search(r"from \.\.", path.read_text()), f"{path.name} reaches outside encoders/"


def imported(path: Path) -> Iterator[Path]:
    """The files of this package that a file imports when it is imported itself, with their packages."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            base = path.parents[statement.level - 1].joinpath(*(statement.module or "").split("."))
            for found in (base, *(base / alias.name for alias in statement.names)):
                yield from (each for each in (found.with_suffix(".py"), found / "__init__.py") if each.is_file())
                yield from (each / "__init__.py" for each in found.parents if (each / "__init__.py").is_file())


def test_what_the_converter_uses_of_the_engine_does_not_use_the_converter() -> None:
    """The engine converts a model on first use; both share errors, engine.json, tokenizers and the way to the hubs."""
    command = ROOT / "convert" / "__main__.py"  # a sub-command of the engine's command line
    reached: set[Path] = set()
    waiting = {found for path in (ROOT / "convert").glob("*.py") if path != command for found in imported(path)}
    while waiting := {each for each in waiting - reached if each.is_relative_to(ROOT / "engine")}:
        reached |= waiting
        waiting = {found for path in waiting for found in imported(path)}
        assert not [each for each in waiting if each.is_relative_to(ROOT / "convert")]
    assert ROOT / "engine" / "manifest.py" in reached


def test_files_and_functions_can_be_taken_in() -> None:
    offenders = []
    for path in (path for top in ("engine", "encoders", "convert") for path in (ROOT / top).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        offenders += [(str(path.relative_to(ROOT)), n) for n in [text.count("\n")] if n > MAX_FILE_LINES]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_lines = (node.end_lineno or 0) - node.lineno + 1
                offenders += [(f"{path.relative_to(ROOT)}: {node.name}", num_lines)] * (num_lines > MAX_FUNCTION_LINES)
    assert not offenders


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
