"""The output folder of a long job, which can be resumed after an interruption.

The format `jsonl` is one file, transcripts.jsonl, which gets a line as each transcript finishes, failures included. Any
other format is one file per transcript, named after its key, in a sub-folder where the key has one. Such a file is
written only if the input could be transcribed, and appears only when it is complete.

So an input is done if it has all its files, and a line of status "ok" if there is a JSONL file. Nothing else is stored
between runs: a resumed job must be given the same inputs again, because their keys identify them.
"""

import fcntl
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..closing import Closing
from ..errors import ConfigError, InternalError
from ..isolation import alone
from ..transcript import Transcript
from ..writers import WRITERS, JsonlWriter, SubtitleShape, replacing, write_file
from ..writers.names import file_name

JSONL_NAME = "transcripts.jsonl"
_PROBE_BYTES = 64 << 10  # more than most transcripts take


class OutputFolder(Closing):
    """Writes the transcripts of one job."""

    def __init__(
        self,
        directory: Path,
        formats: Sequence[str],
        keys: Iterable[str],
        *,
        resume: bool,
        shape: SubtitleShape | None = None,
    ) -> None:
        """Make the folder. Without `resume`, the files of an earlier run are replaced one by one.

        Args:
            formats: names in WRITERS.
            keys: the unique keys of all inputs.
            shape: how subtitles are cut and shown.

        Raises:
            ConfigError: a format is unknown, or none is given; or the directory is a file; or another run writes its
                JSONL file.
            OSError: the folder cannot be made, or nothing can be written to it.
        """
        unknown = [name for name in formats if name not in WRITERS]
        if unknown or not formats:
            given = f"unknown format {', '.join(unknown)}" if unknown else "no format is given"
            raise ConfigError(f"{given}; allowed: {', '.join(WRITERS)}")
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"{directory} is a file, and transcripts need a folder; name another one")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._require_room()
        self._suffixes = [name for name in formats if name != "jsonl"]
        self._names = file_names(keys)
        self._done_lines: set[str] | None = None  # keys in the JSONL file of the earlier run; None without that format
        self._jsonl: JsonlWriter | None = None
        self._lock: int | None = None  # a file descriptor, while this run alone writes the JSONL file
        if "jsonl" in formats:
            path = directory / JSONL_NAME
            self._lock = _locked(directory)
            self._done_lines = _keep_done_lines(path) if resume else set()
            self._jsonl = JsonlWriter(path, append=resume)
        self.is_resumed = resume
        self._shape = shape

    def is_done(self, key: str) -> bool:
        """Whether an earlier run has written everything for this input."""
        if not self.is_resumed or (self._done_lines is not None and key not in self._done_lines):
            return False
        return all(path.is_file() for path in self.paths(key))

    @property
    def has_others(self) -> bool:
        """Whether an earlier run has written anything."""
        written = (path for suffix in self._suffixes for path in self._directory.rglob(f"*.{suffix}"))
        return bool(self._done_lines) or next(written, None) is not None

    def paths(self, key: str) -> list[Path]:
        """The files of one transcript, without the JSONL file."""
        return [self._directory / f"{self._names[key]}.{suffix}" for suffix in self._suffixes]

    def picture_path(self, key: str) -> Path:
        """The path for a plot of the transcript."""
        return self._directory / f"{self._names[key]}.png"

    def write(self, transcript: Transcript) -> Transcript:
        """Write one transcript in every format. For a failed one, files of an earlier run are removed instead.

        Returns:
            The transcript, or one of status "error" if a writer fails for it.

        Raises:
            OSError: nothing can be written any more, for example because the disk is full.
        """
        refused = alone("write", transcript.key, partial(self._attempt, transcript), recover=self._require_room)
        if refused is None:
            return transcript
        if isinstance(refused, OSError):
            self._require_room()
            refused = InternalError(f"write failed for {transcript.key}: {refused}")
        failed = Transcript.failed(transcript.key, refused, duration=transcript.duration)
        self._write(failed)
        return failed

    def _attempt(self, transcript: Transcript) -> OSError | None:
        """Write a transcript; returns what the file system refuses, since a full disk ends the run with one line."""
        try:
            self._write(transcript)
        except OSError as error:
            return error
        return None

    def _require_room(self) -> None:
        """Raises OSError if nothing can be written to the folder."""
        probe = self._directory / ".room.part"
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        except OSError as error:
            error.filename = error.filename or str(self._directory)
            raise
        finally:
            probe.unlink(missing_ok=True)

    def _write(self, transcript: Transcript) -> None:
        folder = self.picture_path(transcript.key).parent
        if transcript.status == "ok" and folder != self._directory:
            folder.mkdir(parents=True, exist_ok=True)
        for path in self.paths(transcript.key):
            if transcript.status == "ok":
                write_file(transcript, path, self._shape)
            elif not path.is_dir():  # a folder of that name is not ours
                path.unlink(missing_ok=True)
        if self._jsonl is not None:
            self._jsonl.write(transcript)

    def close(self) -> None:
        if self._jsonl is not None:
            self._jsonl.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(directory: Path) -> int:
    """A lock on the folder, as a file descriptor. Raises ConfigError if another run has it.

    Two runs that write one JSONL file would overwrite each other's lines.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"another run writes {directory / JSONL_NAME}; wait for its end, or name another folder"
        ) from None
    except OSError:  # a file system without locks
        pass
    return descriptor


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """Key -> file name without suffix. Names that differ in case alone get numbers, since some systems see one name."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = stem = file_name(key)
        number = 0
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[key] = name
    return names


def _keep_done_lines(path: Path) -> set[str]:
    """Rewrite the file without failures and incomplete lines, and return the keys of the lines that are left."""
    keys: set[str] = set()
    if not path.is_file():
        return keys
    with path.open("rb") as old, replacing(path) as new:
        for line in old:
            key = _key_if_done(line)
            if key is not None and key not in keys:
                keys.add(key)
                new.write(line)
    return keys


def _key_if_done(line: bytes) -> str | None:
    try:
        transcript = Transcript.from_json(line.decode())
    except (ValueError, TypeError, KeyError):  # an incomplete line, or not a transcript
        return None
    return transcript.key if transcript.status == "ok" and line.endswith(b"\n") else None
