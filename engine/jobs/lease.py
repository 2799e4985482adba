"""Leases: which process works on which shard, on a file system that processes of several machines share.

A lease on a name is a file `<name>.<number>`, made with O_EXCL. The highest number holds. Its owner touches it every
BEAT_S seconds. Whoever finds it over makes the next number, which succeeds for one of them. A lease is over

- on the machine of its owner, as soon as that process has ended: the owner keeps an flock on the file;
- elsewhere, once it was not touched for EXPIRY_S seconds, by the clock of the file system.

This assumes of the file system that O_EXCL is exclusive and that a new file and its time are seen elsewhere within
EXPIRY_S, as on local disks, NFS from version 3 on, Lustre, CephFS and the clouds' file services. An owner that was
stopped for longer than EXPIRY_S, on another machine, may find its lease taken. Then a shard is transcribed twice, and
still written once, because a shard's file appears as a whole.
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

from ..closing import Closing

BEAT_S = 5.0
EXPIRY_S = 60.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> bytes:
    """What tells this machine, since it was last started, from all others."""
    return _BOOT_ID.read_bytes().strip() if _BOOT_ID.exists() else platform.node().encode()


class Lease(Closing):
    """A lease that this process holds until it closes it or ends."""

    def __init__(self, path: Path) -> None:
        """Raises FileExistsError if another process was faster."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._is_open = True
        with contextlib.suppress(OSError):  # without locks, the lease is over by its age alone
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._file, this_machine())

    def beat(self) -> None:
        """Say that the owner is alive. Once closed, it does nothing: another file may have the descriptor by then."""
        if self._is_open:
            os.utime(self._file)

    @property
    def is_held(self) -> bool:
        """Whether nobody has taken the shard over."""
        name, _, number = self._path.name.rpartition(".")
        return self._path.exists() and not self._path.with_name(f"{name}.{int(number) + 1}").exists()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            if self.is_held:
                self._path.unlink(missing_ok=True)
            os.close(self._file)


def take_lease(folder: Path, name: str, *, expiry_s: float = EXPIRY_S) -> Lease | None:
    """Take the lease on a name; None if another process holds it."""
    numbers = _numbers(os.listdir(folder), name)
    if numbers and not _is_over(folder / f"{name}.{max(numbers)}", expiry_s):
        return None
    try:
        lease = Lease(folder / f"{name}.{max(numbers, default=-1) + 1}")
    except FileExistsError:
        return None
    for number in numbers:
        (folder / f"{name}.{number}").unlink(missing_ok=True)
    return lease


def _numbers(files: Iterable[str], name: str) -> list[int]:
    numbers = [file.removeprefix(f"{name}.") for file in files if file.startswith(f"{name}.")]
    return [int(number) for number in numbers if number.isdecimal()]


def _is_over(path: Path, expiry_s: float) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # just ended
        return False
    try:
        if os.read(file, 100) == this_machine():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
        return _now(path.parent) - os.fstat(file).st_mtime > expiry_s
    finally:
        os.close(file)


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may differ from this machine's."""
    path = folder / f".clock-{os.getpid()}-{time.monotonic_ns()}"
    path.touch()
    now = path.stat().st_mtime
    path.unlink()
    return now
