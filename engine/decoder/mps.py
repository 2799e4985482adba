"""NVIDIA's Multi-Process Service (MPS), which lets several processes compute on one GPU at the same time.

Without it the GPU gives each process a slice of time, and engines in processes of their own wait for each other. A
process decides when it first uses CUDA, so `share_gpus` comes before that. The service is private: its pipe lies in a
folder of its own, and a shell that waits for the end of this process stops it, however this process ends.
https://docs.nvidia.com/deploy/mps/
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ..worker_process import wait_readable

CONTROL = "nvidia-cuda-mps-control"
PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
COMMON_PIPE = Path("/tmp/nvidia-mps")  # where the driver looks if PIPE is not set
START_TIMEOUT_S = 20.0

# Standard input ends when the last process that holds it has ended. A server leaves when its clients have.
_KEEPER = f'{CONTROL} -d >&2 || exit 1; echo started; read _; echo "quit -t 10" | {CONTROL}; rm -rf "$1"'
# The driver speaks to the service when a context is made. A process that meets an error there cannot use CUDA any more.
_PROBE = (
    "import ctypes; cuda = ctypes.CDLL('libcuda.so.1'); context = ctypes.c_void_p(); "
    "print(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))"
)


def share_gpus(*, in_children: bool = False) -> str:
    """Let this process and its children compute on a GPU together, from now to the end of this process.

    `in_children`: only the children will, so that it does not matter whether this process has used CUDA.

    Returns why that is not possible, or "". A service that an administrator runs is used as it is. A call that comes
    while another thread's is at work waits for its answer.
    """
    with _ASKING:
        return _share_gpus(in_children)


@functools.cache
def _share_gpus(in_children: bool) -> str:
    if PIPE in os.environ or (COMMON_PIPE / "control").exists():
        return ""
    if shutil.which(CONTROL) is None:
        return f"{CONTROL} is not installed"
    if not in_children and _has_used_cuda():
        return "this process has used CUDA before"
    return _start()


def _has_used_cuda() -> bool:
    """Whether this process has a context of torch; while torch is being imported, it has none."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return bool(getattr(cuda, "is_initialized", bool)())


def _start() -> str:
    folder = tempfile.mkdtemp(prefix="twostage-mps-")
    names = {PIPE: folder, LOG: folder}
    keeper = subprocess.Popen(
        ["sh", "-c", _KEEPER, "sh", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # The service would number the GPUs of this variable anew, and processes that have it would miss them.
        env={name: value for name, value in os.environ.items() if name != VISIBLE_GPUS} | names,
        start_new_session=True,  # the terminal's Ctrl-C is this process's affair
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    is_answered = wait_readable([keeper.stdout.fileno()], START_TIMEOUT_S)
    if not is_answered or not keeper.stdout.readline():
        os.killpg(keeper.pid, signal.SIGKILL)  # it is not yet reaped, so that the number is still its own
        keeper.wait()
        shutil.rmtree(folder, ignore_errors=True)
        return f"{CONTROL} did not start" + ("" if is_answered else f" within {START_TIMEOUT_S:g} s")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=os.environ | names,
            timeout=START_TIMEOUT_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        answer = probe.stdout.strip()
        failure = "" if answer == "0" else f"CUDA answers {answer or 'nothing'} under it"
    except subprocess.TimeoutExpired:
        failure = f"CUDA did not answer within {START_TIMEOUT_S:.0f} s under it"
    if failure:
        keeper.stdin.close()
    else:
        os.environ.update(names)
        _keepers.append(keeper)
    return failure


_ASKING = threading.Lock()
_keepers: list["subprocess.Popen[bytes]"] = []  # an object that is collected would close the pipe
