"""Run another engine on the same clips in a process of its own: its task, and the times that it reports."""

import contextlib
import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..worker_process import receive, send, start_child

PeerName = Literal["funasr", "vllm"]
PEERS: dict[PeerName, str] = {"funasr": f"{__package__}.peer_funasr", "vllm": f"{__package__}.peer_vllm"}

END_TIMEOUT_S = 60.0

PeerClip = npt.NDArray[np.float32] | str  # 16 kHz mono, or a path


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJob:
    """Several passes over the same clips."""

    clips: Sequence[PeerClip]
    num_tokens: int | None  # number of tokens decoded for each clip; None: until the text ends
    timestamps: bool
    num_passes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTask:
    """What the process receives. It sends (index of the job, seconds) after each pass, and None at the end."""

    checkpoint: str  # directory of the published checkpoint
    device: str  # torch's name
    language: str | None
    jobs: Sequence[PeerJob]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTimes:
    """The times that the peer has reported, up to a failure if there was one."""

    version: str | None
    wall_s: list[list[float]]  # for each job, the seconds of each pass
    error: str | None


def run_peer(name: PeerName, task: PeerTask) -> PeerTimes:
    """Run all jobs. If the peer is not installed or fails, `error` says so; its own messages are on stderr."""
    wall_s: list[list[float]] = [[] for _ in task.jobs]
    if importlib.util.find_spec(name) is None:
        return PeerTimes(version=None, wall_s=wall_s, error=f"{name} is not installed")
    version = error = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
    child = start_child(PEERS[name])
    try:
        send(child.socket, task)
        while (message := receive(child.socket)) is not None:
            job, seconds = message
            wall_s[job].append(seconds)
        child.process.wait(END_TIMEOUT_S)  # it must end its own child processes first
    except (EOFError, OSError):
        error = f"the process of {name} ended early; what it printed says why"
    except subprocess.TimeoutExpired:
        error = f"the process of {name} did not end by itself"
    finally:
        child.close()
    return PeerTimes(version=version, wall_s=wall_s, error=error)
