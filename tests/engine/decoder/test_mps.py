"""The service that lets processes share a GPU: private, and gone with the process that began it."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.processes import is_running, wait_until
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.decoder import mps, sharing

CONTROL = """#!/bin/sh
case "$1" in
  -d) {begins}; echo started$CUDA_VISIBLE_DEVICES >> "$FOLLOWED"; exit {status} ;;
  *) cat >> "$FOLLOWED" ;;
esac
"""
SHARE = """
import os, sys
from twostage_asr.engine.decoder import mps
mps._PROBE, mps.START_TIMEOUT_S = "print({probe})", {limit_s}
print(mps.share_gpus() or os.environ["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the service is told; its control program is a stand-in that is first in PATH.

    The GPUs that the processes see are no matter of the service: it would number them anew.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FOLLOWED", str(tmp_path / "followed"))
    monkeypatch.delenv(mps.PIPE, raising=False)
    return tmp_path / "followed"


def control(followed: Path, *, begins: str = ":", status: int = 0) -> None:
    program = followed.parent / mps.CONTROL
    program.write_text(CONTROL.format(begins=begins, status=status))
    program.chmod(0o755)


def share(probe: int = 0, limit_s: float = 60.0) -> "subprocess.Popen[str]":
    """A process that shares GPUs, says what came of it, and is killed once it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", SHARE.format(probe=probe, limit_s=limit_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_the_service_ends_with_the_process_however_that_ends(followed: Path) -> None:
    control(followed)
    with share() as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        assert followed.read_text() == "started\n"
        process.communicate("\n")
        assert process.returncode == -9
    wait_until(lambda: followed.read_text() == "started\nquit -t 10\n" and not folder.exists())


def test_a_gpu_that_does_not_answer_under_the_service_is_not_shared(followed: Path) -> None:
    control(followed)
    with share(probe=805) as process:
        assert process.communicate("\n")[0] == "CUDA answers 805 under it\n"
    wait_until(lambda: "quit" in followed.read_text())


def test_a_service_that_does_not_start_is_said(followed: Path) -> None:
    control(followed, status=1)
    with share() as process:
        assert process.communicate("\n")[0] == "nvidia-cuda-mps-control did not start\n"


def test_a_service_that_never_starts_is_said_after_a_while(followed: Path) -> None:
    control(followed, begins=f"echo $$ > {followed.parent}/number; sleep 600")
    with share(limit_s=3.0) as process:
        assert process.communicate("\n")[0] == "nvidia-cuda-mps-control did not start within 3 s\n"
    number = int((followed.parent / "number").read_text())
    wait_until(lambda: not is_running(number))
    assert not followed.exists()


def test_an_administrators_service_is_used_as_it_is(followed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control(followed)
    monkeypatch.setenv(mps.PIPE, "/somewhere")
    with share() as process:
        assert process.communicate("\n")[0] == "/somewhere\n"
    assert not followed.exists()


def test_a_process_that_has_used_cuda_can_still_share_gpus_among_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(mps.shutil, "which", lambda _: "here")
    monkeypatch.setattr(mps, "COMMON_PIPE", Path("/nowhere"))
    monkeypatch.delenv(mps.PIPE, raising=False)
    monkeypatch.setattr(mps, "_start", lambda: "")
    assert mps._share_gpus.__wrapped__(False) == "this process has used CUDA before"
    assert mps._share_gpus.__wrapped__(True) == ""


def test_who_asks_meanwhile_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_answer = threading.Event(), threading.Event()
    num_asked = []

    def start() -> str:
        num_asked.append(1)
        begun.set()
        assert may_answer.wait(60)
        return "it is refused"

    monkeypatch.delenv(mps.PIPE, raising=False)
    monkeypatch.setattr(mps, "COMMON_PIPE", Path("/nowhere"))
    monkeypatch.setattr(mps.shutil, "which", lambda _: "here")
    monkeypatch.setattr(mps, "_start", start)
    monkeypatch.setattr(sharing, "installed_vllm_device", lambda: "cuda")
    mps._share_gpus.cache_clear()
    choice = EngineConfig()
    sharing.share_gpu_ahead(choice)
    assert begun.wait(60)
    with ThreadPoolExecutor(1) as other:
        later = other.submit(sharing.share_gpu, choice)
        may_answer.set()
        assert later.result(60) == "it is refused"
    assert len(num_asked) == 1
    mps._share_gpus.cache_clear()


def test_the_service_is_started_without_torch() -> None:
    """It takes a second, in which torch can be imported."""
    code = "import sys, twostage_asr.engine.decoder.sharing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
