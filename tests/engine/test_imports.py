"""What is imported when: each public name may be the first, and a program begins what takes long before torch."""

import subprocess
import sys
from pathlib import Path

import pytest

CLIP = Path(__file__).parents[2] / "demos" / "micro" / "clips" / "en_volume.flac"

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


def test_each_public_name_may_be_imported_first() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=300, check=False)
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
