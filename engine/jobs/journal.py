"""A journal: the lines that one process has finished of one shard, in the order in which they were finished.

A record is one line: `<CRC-32 of the rest, 8 hex digits> <position> <1 or 0: transcribed or failed> <seconds> <JSON>`.
It is written by one call of the operating system, so kill -9 leaves it whole, absent, or cut short. A reader stops at
the first record that is cut short or does not match its sum. Since one process writes a journal, from its making to
its end, nothing is ever written after such a record.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..closing import Closing
from ..transcript import Transcript
from ..writers import encoded


@dataclass(frozen=True, slots=True)
class Record:
    """Where the line of one input lies."""

    path: Path
    position: int  # of the input in its shard
    is_ok: bool
    duration: float  # s of audio
    offset: int  # of the line in the file, in bytes
    size: int  # with the line's end, in bytes


class Journal(Closing):
    """Writes a new journal."""

    def __init__(self, path: Path) -> None:
        """Raises FileExistsError: a journal has one writer."""
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._is_open = True
        self._is_synced = True

    def append(self, position: int, transcript: Transcript) -> None:
        """Write one line, which outlives this process from here on. Raises OSError, naming the file."""
        line = encoded(transcript.to_json())
        body = b"%d %d %.3f %s" % (position, transcript.status == "ok", transcript.duration, line)
        write_all(self._file, b"%08x %s\n" % (zlib.crc32(body), body), self._path)
        self._is_synced = False

    def sync(self) -> None:
        """Let what was written outlive the machine as well. Once closed, it does nothing."""
        if self._is_open and not self._is_synced:
            self._is_synced = True
            os.fsync(self._file)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._file)


def read_journal(path: Path) -> Iterator[Record]:
    """The records up to the first that is not whole."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            total, _, body = line[:-1].partition(b" ")
            if not line.endswith(b"\n") or total != b"%08x" % zlib.crc32(body):
                return
            position, is_ok, duration, text = body.split(b" ", 3)
            size = len(text) + 1
            yield Record(path, int(position), is_ok == b"1", float(duration), end - size, size)


def write_all(file: int, content: bytes, path: Path) -> None:
    """Write to a file descriptor. Raises OSError, with the path, also if only a part can be written."""
    try:
        while content:
            content = content[os.write(file, content) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
