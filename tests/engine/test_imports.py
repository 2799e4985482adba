"""Each public name may be the first that a program imports: no cycle of imports needs another one before it."""

import subprocess
import sys

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
