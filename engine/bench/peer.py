"""Another engine on the same clips, in a process of its own: what it is asked, and what it answers."""

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
    """All clips, several times."""

    clips: Sequence[PeerClip]
    num_tokens: int | None  # that every clip decodes; None: until its text ends
    timestamps: bool
    num_passes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTask:
    """What the process reads. It writes (index of a job, seconds of one pass) after every pass, and None at the end."""

    checkpoint: str  # directory, as it was published
    device: str  # torch's name
    language: str | None
    jobs: Sequence[PeerJob]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTimes:
    """What it answered; where it failed, what it had answered before."""

    version: str | None
    wall_s: list[list[float]]  # of each pass of each job
    error: str | None


def run_peer(name: PeerName, task: PeerTask) -> PeerTimes:
    """Never raises because of the peer, which may be absent or fail; then its own words are on stderr."""
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
        child.process.wait(END_TIMEOUT_S)  # it has processes of its own to end
    except (EOFError, OSError):
        error = f"the process of {name} ended early; what it printed says why"
    except subprocess.TimeoutExpired:
        error = f"the process of {name} did not end by itself"
    finally:
        child.close()
    return PeerTimes(version=version, wall_s=wall_s, error=error)
