"""How output files are written: in UTF-8, and as a whole, so that a reader sees the old content or the new one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, *, part: Path | None = None, is_durable: bool = False) -> Iterator[BinaryIO]:
    """A new file, which takes the place of `path` at the end of the block unless that raises.

    Args:
        part: where it is until then; by default beside `path`, which may then have one writer at a time.
        is_durable: whether it is to outlive the machine and not this process alone, which takes a disk milliseconds.

    Raises:
        OSError: the file cannot be written; the error names one even where the system does not, as for a full disk.
    """
    part = part or path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text; an existing file is replaced once the new one is complete. Raises OSError."""
    with replacing(path) as file:
        file.write(encoded(text))


def encoded(text: str) -> bytes:
    """A text in UTF-8. A key from a file name that is not UTF-8 has lone surrogates, which are written as \\udcxx."""
    return text.encode(errors="backslashreplace")
