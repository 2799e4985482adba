"""What a user names -> the inputs of a job, one after another.

| named | inputs |
|---|---|
| a folder | the audio files in it and below, by their names; the key is the path in the folder (audio/inputs.py) |
| a pattern with `*`, `?`, `[` or `**` | the files that match it; the key is the path below the part without wildcards |
| `.scp`, `.jsonl` | one a line, as audio/inputs.py describes |
| `.parquet` | one a row: columns with the names of the fields of `.jsonl`, of which `source` is required |
| anything else | one file or URL |

Each may lie on this machine or anywhere that fsspec reaches (`s3://`, `gs://`, `hdfs://`), and so may the files that a
list names. Folders are searched depth first, files before folders, both sorted by name, so that the same files give
the same order. Memory holds the names of one folder, or one line of a list, at a time.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import fsspec

from ..audio.folders import walk
from ..audio.inputs import AudioInput, Source, inputs_of, is_audio, jsonl_line, key_of, listed_input, scp_line
from ..audio.urls import is_url
from ..errors import ConfigError
from ..text_files import LINE_END, encoding_of

_WILDCARD = re.compile(r"[*?\[]")
_FETCHED = ("http://", "https://", "data:")  # audio/urls.py reads these
_PARQUET_ROWS = 1024  # that are read at a time


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that fsspec reaches, opened when it is read."""

    name: str  # its URL

    def read(self, size: int) -> bytes:
        """The first `size` bytes. Raises OSError, or what the file system's library raises."""
        with fsspec.open(self.name, "rb") as file:
            content: bytes = file.read(size)
            return content


class Listing:
    """The inputs that some names stand for, found while it is iterated."""

    def __init__(self, named: Sequence[str]) -> None:
        self._named = named
        self.num_passed_over = 0  # files of folders that, by their names, are not audio

    def __iter__(self) -> Iterator[AudioInput]:
        """Raises ConfigError for a malformed list or an unknown kind of URL, and OSError for what cannot be listed."""
        for name in self._named:
            try:
                yield from self._inputs(name)
            except ConfigError:
                raise
            except (ImportError, ValueError) as error:  # fsspec's for URLs, and pyarrow's for files that are no Parquet
                raise ConfigError(f"{name}: {error}") from error

    def _inputs(self, name: str) -> Iterator[AudioInput]:
        if name.startswith(_FETCHED):
            return iter([AudioInput(key=key_of(name) or "audio", source=name)])
        if _WILDCARD.search(name) and (is_url(name) or not os.path.exists(name)):
            fixed, pattern = _split_pattern(name)
            return self._folder(fixed, re.compile(fsspec.utils.glob_translate(pattern)).match)
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in (".scp", ".jsonl"):
            return _listed_lines(name, scp_line if suffix == ".scp" else jsonl_line)
        if suffix == ".parquet":
            return _listed_rows(name)
        if _is_folder(name):
            return self._folder(name, is_audio)
        source = source_of(name)
        return iter([AudioInput(key=key_of(source) or "audio", source=source)])

    def _folder(self, folder: str, is_wanted: Callable[[str], object]) -> Iterator[AudioInput]:
        """The files whose paths relative to the folder are wanted."""
        for below, files in walk(folder):
            paths = [f"{below}{name}" for name in files]
            wanted = [path for path in paths if is_wanted(path)]
            self.num_passed_over += len(paths) - len(wanted)
            yield from inputs_of(wanted, lambda path: source_of(f"{folder}/{path}"))


def source_of(name: str) -> Source:
    """The source that a path or URL names."""
    if not is_url(name):
        return Path(name)
    return name if name.startswith(_FETCHED) else RemoteFile(name)  # type: ignore[return-value]


def _split_pattern(name: str) -> tuple[str, str]:
    """`a/b/*/c*.wav` -> the folder `a/b` and the pattern `*/c*.wav`."""
    parts = name.split("/")
    first = next(i for i, part in enumerate(parts) if _WILDCARD.search(part))
    return "/".join(parts[:first]) or ("/" if name.startswith("/") else "."), "/".join(parts[first:])


def _is_folder(name: str) -> bool:
    if not is_url(name):
        return os.path.isdir(name)
    system, path = fsspec.url_to_fs(name)
    return bool(system.isdir(path))


def _listed_lines(name: str, parse: Callable[[str, Callable[[str], Source]], AudioInput]) -> Iterator[AudioInput]:
    place, number = partial(_beside, name), 0
    with fsspec.open(name, "rb") as raw:
        try:
            for line in _text_lines(raw):
                number += 1
                if line.strip():
                    yield parse(line.strip(), place)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}, after line {number}: {error}; save the file as UTF-8") from error
        except ValueError as error:
            raise ConfigError(f"{name}, line {number}: {error}") from error


def _text_lines(raw: IO[bytes]) -> Iterator[str]:
    mark, encoding = encoding_of(raw.read(4))
    raw.seek(len(mark))
    if encoding != "utf-8":
        yield from io.TextIOWrapper(raw, encoding)
        return
    for line in raw:  # by itself, so that an error of decoding names its line; "\r" alone ends a line as well
        yield from LINE_END.split(line.removesuffix(b"\n").removesuffix(b"\r").decode())


def _listed_rows(name: str) -> Iterator[AudioInput]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(f'{name}: lists in Parquet need pip install "twostage-asr[batch]"') from error

    place, number = partial(_beside, name), 0
    with fsspec.open(name, "rb") as raw:
        for rows in ParquetFile(raw).iter_batches(batch_size=_PARQUET_ROWS):
            for row in rows.to_pylist():
                number += 1
                try:
                    yield listed_input(row, place)
                except ValueError as error:
                    raise ConfigError(f"{name}, row {number}: {error}") from error


def _beside(list_name: str, target: str) -> Source:
    """A URL or an absolute path as it is; any other path beside the list, or, if it exists only there, here."""
    if is_url(target) or os.path.isabs(target):
        return source_of(target)
    beside = f"{list_name.rpartition('/')[0] or '.'}/{target}"
    if not is_url(list_name) and os.path.exists(target) and not os.path.exists(beside):
        return Path(target)
    return source_of(beside)


def to_line(item: AudioInput) -> bytes:
    """An input of a listing as a line of a `.jsonl` list, which `from_line` reads; its path is absolute."""
    source = item.source
    where = os.path.abspath(source) if isinstance(source, Path) else getattr(source, "name", source)
    fields = {
        "key": item.key,
        "source": where,
        "language": item.language,
        "hotwords": item.hotwords,
        "itn": item.itn,
        "context": item.context,
        "channels": item.channels,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode() + b"\n"


def from_line(line: bytes) -> AudioInput:
    return jsonl_line(line.decode(), source_of)
