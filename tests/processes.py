"""Processes that this one has started, as Linux lists them."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def processes() -> set[int]:
    """Those that this one started and that have not ended."""
    listed = ""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended by now
            listed += (task / "children").read_text()
    return {int(pid) for pid in listed.split() if is_running(int(pid))}


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The first thread may have ended before the others, and nobody can wait for the process until all have.
        return stat.rpartition(")")[2].split()[0] != "Z" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def wait_until(holds: Callable[[], object], what: str = "it never happened", timeout_s: float = 300.0) -> None:
    """Fails with `what` if it does not hold in a time that only a failure takes, however busy the machine is."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
