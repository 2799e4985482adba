"""Replace a directory in one step: take a lock, fill a hidden directory beside it, and rename that.

These may exist beside `output`:
    .<output>.lock      is never removed; the operating system frees the lock when its holder dies
    .<output>.partial   is being filled
    .<output>.old       is the version that is being replaced
If a process is killed, the next one removes the last two under the lock.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..engine.errors import ConfigError

logger = logging.getLogger(__name__)


def is_writable(output: Path) -> bool:
    """Whether `output` can be created or replaced: its nearest existing ancestor is writable."""
    ancestor = next(parent for parent in output.parents if parent.exists())
    return os.access(ancestor, os.W_OK | os.X_OK)


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Hold the lock on `output`, and remove what killed processes left behind."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(output, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is converting into %s; waiting for it", output)
        lock.acquire()
    try:
        _remove_leftovers(output)
        yield
    finally:
        lock.release()


def sweep(output: Path) -> None:
    """Remove what killed processes left beside a finished `output`, unless another process holds the lock."""
    if not any(leftover.exists() for leftover in _leftovers(output)) or not is_writable(output):
        return
    with contextlib.suppress(Timeout), FileLock(_beside(output, "lock"), timeout=0):
        _remove_leftovers(output)


def publish(output: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` fill an empty directory, and make that `output`. Call it inside `exclusive`.

    `output` stays as it was until the rename, and if `fill` fails.
    """
    partial, old = _leftovers(output)
    partial.mkdir()
    try:
        fill(partial)
        _flush(partial)
        if output.exists():
            output.rename(old)
        partial.rename(output)
    finally:  # what is left of a conversion that failed, or was interrupted
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not output.exists():
            old.rename(output)
    _flush_directory(output.parent)
    if old.exists():
        shutil.rmtree(old)


def replace_file(output: Path, name: str, write: Callable[[Path], None]) -> None:
    """Let `write` write the file `name` in an empty directory, and move it to `output`. Call it inside `exclusive`."""
    partial = _beside(output, "partial")
    partial.mkdir()
    write(partial)
    _flush(partial)
    (partial / name).replace(output / name)
    partial.rmdir()


def check_free_space(output: Path, needed_bytes: int) -> None:
    """Raises ConfigError if the file system of `output` has too little free space."""
    free_bytes = shutil.disk_usage(output.parent).free
    if free_bytes < needed_bytes:
        raise ConfigError(
            f"{output} needs {needed_bytes / 1e9:.2f} GB of free space, but its disk has {free_bytes / 1e9:.2f} GB; "
            "free some, or name another --output"
        )


def _leftovers(output: Path) -> tuple[Path, Path]:
    return _beside(output, "partial"), _beside(output, "old")


def _remove_leftovers(output: Path) -> None:
    for leftover in _leftovers(output):
        if leftover.exists():
            shutil.rmtree(leftover)


def _beside(output: Path, kind: str) -> Path:
    return output.parent / f".{output.name}.{kind}"


def _flush(directory: Path) -> None:
    """Flush the directory and everything in it to the disk."""
    for root, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_directory(Path(root))


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
