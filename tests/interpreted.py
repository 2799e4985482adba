"""Runs a script whose Triton kernels run in Triton's interpreter, on any machine.

The script has a process of its own, because the interpreter changes all of Triton.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any


def interpret(script: Path, *arguments: Path) -> str:
    """What the script writes; it must end without an error."""
    command = [sys.executable, __file__, script, *arguments]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-5000:]
    return ran.stdout


def mend_loops() -> None:
    """Let a loop of a kernel end at an argument.

    Triton 3.6's interpreter makes such an argument, an array of one number, an int in a way that NumPy 2.4 refuses.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda number: number.handle.data.item())

    interpreter._patch_lang_tensor = patch_and_mend


if __name__ == "__main__":
    mend_loops()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
