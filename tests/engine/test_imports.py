"""What is imported when: each public name may be the first, and a program begins what takes long before torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

CLIP = ROOT / "demos" / "micro" / "clips" / "en_volume.flac"

CHECK = """
import os, sys, traceback
import torch, transformers  # which takes seconds, and has no part in this
from twostage_asr import engine

failed = []
for module, name in {module: name for name, module in engine._HOMES.items()}.items():
    child = os.fork()
    if not child:
        try:
            getattr(engine, name)
        except ImportError:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(module)
sys.exit(f"not importable first: {failed}" if failed else 0)
"""


# What of the engine the converter may import: how a model's files are named, read and refused.
FILES_OF_A_MODEL = {
    *("errors", "manifest", "text", "hub.model_files", "words.tokenizer", "decoder.llm_config"),
    "hub.resolve",  # LLMASR's checkpoints name an LLM on a hub
}


def imported_by(path: Path) -> set[str]:
    """The modules that a file imports by relative names, within functions as well, as `engine.x` or `convert.x`."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            found.add(".".join([*package[: len(package) - node.level + 1], node.module]))
    return found


def test_the_converter_imports_only_what_says_how_files_are_read() -> None:
    files = [path for path in (ROOT / "convert").glob("*.py") if path.name != "__main__.py"]
    of_the_engine = {name for path in files for name in imported_by(path) if name.startswith("engine")}
    assert of_the_engine == {f"engine.{name}" for name in FILES_OF_A_MODEL}
    for name in FILES_OF_A_MODEL - {"hub.resolve"}:
        path = ROOT / "engine" / f"{name.replace('.', '/')}.py"
        assert not [one for one in imported_by(path) if one.startswith("convert")]


def test_each_public_name_may_be_imported_first() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("transcribe", [str(CLIP), "--output-dir", "."]), ("serve", ["--port", "0", "--front-ends", "0"])],
)
def test_a_program_asks_for_a_shared_gpu_before_it_imports_torch(
    command: str, arguments: list[str], tmp_path: Path
) -> None:
    """Each takes seconds, and waits for other processes or for the disk meanwhile."""
    code = (
        f"import sys\nfrom twostage_asr.engine import cli\nfrom twostage_asr.engine.cli import {command} as command\n"
    )
    code += "command.share_gpu_ahead = lambda choice: sys.exit(f'torch: {\"torch\" in sys.modules}')\n"
    code += f"cli.main({[command, '--model', 'any', *arguments]})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "torch: False"


def test_a_gpu_is_not_kept_waiting_for_what_aligns_on_a_cpu() -> None:
    code = "import sys, twostage_asr.engine.auto; sys.exit('torchaudio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
