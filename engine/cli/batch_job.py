"""A folder of transcripts: what a long job has written, and what is still to do when it is run again.

`jsonl` is one file, transcripts.jsonl, a line as each transcript is there, failures included. Every other format is a
file a transcript, named after its key; it appears whole, and only for what could be transcribed. So what has all its
files, and a line of status "ok" if there is a JSONL file, is done. Nothing else is remembered between two runs: the
same inputs must be given again, because their keys stand for them.
"""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..closing import Closing
from ..errors import ASRError, ConfigError
from ..isolation import alone
from ..transcript import Transcript
from ..writers import WRITERS, JsonlWriter, SubtitleShape, write_file

JSONL_NAME = "transcripts.jsonl"
_NOT_IN_NAMES = '/\\:*?"<>|'  # on one system or another
_PROBE_BYTES = 64 << 10  # more than most transcripts take
_MAX_NAME_BYTES = 200  # most file systems allow 255, of which suffixes take some


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
        """Make the folder; without `resume`, files of an earlier run are replaced as this one goes on.

        Args:
            formats: names in WRITERS.
            keys: of all inputs, unique.
            shape: of subtitles.

        Raises:
            ConfigError: an unknown format, or none. OSError: the folder cannot be made.
        """
        unknown = [name for name in formats if name not in WRITERS]
        if unknown or not formats:
            raise ConfigError(f"unknown format {unknown}; allowed: {', '.join(WRITERS)}")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._suffixes = [name for name in formats if name != "jsonl"]
        self._names = file_names(keys)
        self._done_lines: set[str] | None = None  # keys of the JSONL file's lines, if there is to be one
        self._jsonl: JsonlWriter | None = None
        if "jsonl" in formats:
            path = directory / JSONL_NAME
            self._done_lines = _keep_done_lines(path) if resume else set()
            self._jsonl = JsonlWriter(path, append=resume)
        self._resume = resume
        self._shape = shape

    def is_done(self, key: str) -> bool:
        """Whether an earlier run has written everything for this input."""
        if not self._resume or (self._done_lines is not None and key not in self._done_lines):
            return False
        return all(path.is_file() for path in self.paths(key))

    def paths(self, key: str) -> list[Path]:
        """The files of one transcript, the JSONL file aside."""
        return [self._directory / f"{self._names[key]}.{suffix}" for suffix in self._suffixes]

    def picture_path(self, key: str) -> Path:
        """Where a picture of the transcript goes."""
        return self._directory / f"{self._names[key]}.png"

    def write(self, transcript: Transcript) -> Transcript:
        """Write one transcript in every format; one that failed has no files, and loses those of an earlier run.

        Returns:
            The transcript, or one of status "error" where a writer fails for it.

        Raises:
            OSError: nothing can be written any more, as when the disk is full.
        """
        written = alone("write", transcript.key, partial(self._write, transcript), recover=self._require_room)
        if not isinstance(written, ASRError):
            return transcript
        failed = Transcript.failed(transcript.key, written, duration=transcript.duration)
        self._write(failed)
        return failed

    def _require_room(self) -> None:
        """Raises OSError if the folder takes no more."""
        probe = self._directory / ".room.part"
        probe.write_bytes(bytes(_PROBE_BYTES))
        probe.unlink()

    def _write(self, transcript: Transcript) -> None:
        for path in self.paths(transcript.key):
            if transcript.status == "ok":
                write_file(transcript, path, self._shape)
            else:
                path.unlink(missing_ok=True)
        if self._jsonl is not None:
            self._jsonl.write(transcript)

    def close(self) -> None:
        if self._jsonl is not None:
            self._jsonl.close()


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """A name for each key's files, without suffix: the key where it can be one, no two alike, never a path.

    The same keys in the same order get the same names.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        plain = key.encode("utf-8", "backslashreplace").decode()  # lone surrogates
        plain = "".join("_" if char in _NOT_IN_NAMES or not char.isprintable() else char for char in plain)
        stem = plain.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        stem = "_" + stem[1:] if stem.startswith(".") else stem or "_"
        name, number = stem, 0
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[key] = name
    return names


def _keep_done_lines(path: Path) -> set[str]:
    """Drop the lines of failures, and one that was torn, and return the keys of the others."""
    keys: set[str] = set()
    if not path.is_file():
        return keys
    part = path.with_name(f"{path.name}.part")
    with path.open("rb") as old, part.open("wb") as new:
        for line in old:
            key = _key_if_done(line)
            if key is not None and key not in keys:
                keys.add(key)
                new.write(line)
    os.replace(part, path)
    return keys


def _key_if_done(line: bytes) -> str | None:
    try:
        transcript = Transcript.from_json(line.decode())
    except (ValueError, TypeError, KeyError):  # torn, or not a transcript
        return None
    return transcript.key if transcript.status == "ok" and line.endswith(b"\n") else None
