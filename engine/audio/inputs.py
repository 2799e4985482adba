"""User inputs -> AudioInputs. List files are read here; loading.py reads the audio.

One input is
- a path (str or Path) of an audio or video file; load() checks whether it exists
- a list file, which stands for several inputs:
    *.scp    one `key path` per line, as in Kaldi; pipes (`sox ... |`) are refused because they would run commands
    *.jsonl  one object per line: "source" (required), "key", "language", "hotwords" (list of strings), "itn",
             "context", "channels"; other fields, such as "target" and "text" of FunASR's training lists, are ignored
  Empty lines are skipped; text_files.py lists the allowed encodings. A relative path is looked for beside the list
  file, then in the current directory. http, https and data URLs may stand in place of paths.
- a URL: http:, https: or data:
- bytes: the content of an audio file
- a file object, such as open("a.wav", "rb") or io.BytesIO; it is read from its position to its end
- samples: an array or tensor (16 kHz), (samples, sample_rate), or (key, samples, sample_rate); see decode.as_waveform
- {"array": samples, "sampling_rate": Hz}, as in Hugging Face's datasets; "path" may give the key
- an AudioInput, such as those of audio_files()
Any iterable of these is a list of inputs: a list, a tuple that contains no number, a generator, a column of a dataset.
A tuple inside it is always one input. A list, tuple or set is expanded at once. Any other iterable is consumed as
inputs are needed, and only their keys are kept.

Errors: a malformed list file is a ConfigError, because no work has been done yet. In an iterable that is consumed as
needed, it becomes one input that is refused. Any other invalid input is kept, and load() raises an AudioError for it,
so that one bad input does not stop the others.
"""

import json
import numbers
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..text_files import read_lines
from .channels import Channels, check_channels
from .decode import is_tensor
from .ffmpeg import AUDIO_SUFFIXES
from .folders import walk
from .urls import is_data_url, is_url, shown_url
from .waveform import SAMPLE_RATE, Waveform

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

    Samples: TypeAlias = npt.NDArray[Any] | torch.Tensor
else:  # without importing torch
    Samples: TypeAlias = npt.NDArray[Any]

_LIST_SUFFIXES = (".scp", ".jsonl")
_ALLOWED = (
    "a path, URL, bytes, file object, samples, (samples, sample_rate), (key, samples, sample_rate) or "
    '{"array": samples, "sampling_rate": Hz}'
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands in place of an invalid source, and says why it is invalid."""

    reason: str


Source: TypeAlias = Path | str | bytes | BinaryIO | Samples | Refused  # a str is a URL
SourceOf: TypeAlias = Callable[[str], Source]  # what a path or URL in a list names


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioInput:
    """One recording to transcribe, not yet read. The request supplies the options that are None here."""

    key: str  # unique among the inputs it was expanded with; may contain any character, so it is no safe file name
    source: Source
    sample_rate: int | None = None  # Hz, if the source is samples; None: 16 kHz
    language: str | None = None
    hotwords: tuple[str, ...] | None = None
    itn: bool | None = None
    context: str | None = None
    channels: Channels | None = None  # "mix" if the request does not say either; see channels.py
    salvage: bool | None = None  # False if the request does not say either; see decode_audio
    name: str | None = None  # the file's name in error messages; None: its path, or the number of bytes

    def __post_init__(self) -> None:
        """Raises ConfigError for invalid channels."""
        if self.channels is not None:
            check_channels(self.channels)

    @property
    def decoding(self) -> dict[str, Any]:
        """This input's keyword arguments for decode_blocks."""
        return {"channels": "mix" if self.channels is None else self.channels, "salvage": bool(self.salvage)}

    @property
    def waveform(self) -> Waveform | None:
        """The source, if it is a finished waveform: (N,) float32 at 16 kHz."""
        source, rate = self.source, self.sample_rate
        if not isinstance(source, np.ndarray) or source.ndim != 1 or source.dtype != np.float32:
            return None
        is_ready = rate is None or (isinstance(rate, int) and rate == SAMPLE_RATE)
        return source if is_ready else None

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that the source holds."""
        source = self.source
        return len(source) if isinstance(source, bytes | str) else int(getattr(source, "nbytes", 0))


Input: TypeAlias = (
    str
    | Path
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Samples
    | tuple[Samples, int]
    | tuple[str, Samples, int]
    | Mapping[str, Any]
    | AudioInput
)
Inputs: TypeAlias = Input | Iterable[Input]


def iterate_inputs(inputs: Inputs | None) -> list[AudioInput] | Iterator[AudioInput]:
    """One input, or an iterable of any mix of them -> AudioInputs in the same order; see the module's docstring.

    Keys are those of a list file or tuple, the stem of a path or URL, or else audio_<position>. A key that occurs again
    gets the first free of the suffixes _1, _2, ...

    Raises:
        ConfigError: no inputs at all (None), or a list file that does not exist or has a line that cannot be
            understood.
    """
    if inputs is None:
        raise ConfigError(f"there are no inputs, got None; allowed are {_ALLOWED}, or an iterable of these")
    if isinstance(inputs, list | tuple | set | frozenset) or _is_one_input(inputs):
        return expand_inputs(inputs)
    return with_unique_keys(_expanded(inputs, one_by_one=True), reserved=())


def expand_inputs(inputs: Inputs) -> list[AudioInput]:
    """`iterate_inputs`, all at once. A key that an input brings itself is never taken by another's suffixed key."""
    items = list(_expanded(as_list(inputs), one_by_one=False))
    return list(with_unique_keys(items, reserved={item.key for item in items}))


def as_list(inputs: Inputs) -> list[Any]:
    """One input, or an iterable of inputs -> a list of inputs."""
    return [inputs] if _is_one_input(inputs) else list(inputs)


def _is_one_input(inputs: object) -> "TypeIs[Input]":
    """Whether this is one input. A tuple that contains a number counts as samples with a rate, even if malformed."""
    if isinstance(inputs, tuple):
        return any(isinstance(part, numbers.Number) for part in inputs)
    is_whole = isinstance(inputs, str | bytes | bytearray | memoryview | Mapping) or is_samples(inputs)
    return is_whole or _is_file_object(inputs) or not isinstance(inputs, Iterable)


def _expanded(inputs: Iterable[Any], *, one_by_one: bool) -> Iterator[AudioInput]:
    """Expand list files. A malformed one is a ConfigError, or with `one_by_one` an input that is refused."""
    count = 0
    for given in inputs:
        items = [_one_input(given, default_key=f"audio_{count}")]
        if _is_list_file(given):
            try:
                items = _read_list_file(Path(given))
            except ConfigError as error:
                if not one_by_one:
                    raise
                items = [AudioInput(key=Path(given).stem, source=Refused(str(error)))]
        yield from items
        count += len(items)


@dataclass(frozen=True, slots=True)
class Folder:
    """The files found in a folder and its subfolders."""

    inputs: list[AudioInput]  # each key is the path relative to the folder, without suffix where no two differ by it
    passed_over: list[Path]  # files whose names have none of AUDIO_SUFFIXES


def audio_files(folder: Path) -> Folder:
    """Search a folder and its subfolders for files whose names have one of AUDIO_SUFFIXES.

    Raises:
        ConfigError: there is no such file.
        OSError: a folder cannot be listed.
    """
    paths = [f"{below}{name}" for below, names in walk(str(folder)) for name in names]
    found = list(inputs_of([path for path in paths if is_audio(path)], folder.joinpath))
    if not found:
        raise ConfigError(f"{folder}: holds no audio; looked for {', '.join(sorted(AUDIO_SUFFIXES))}")
    return Folder(found, [folder / path for path in paths if not is_audio(path)])


def is_audio(path: str) -> bool:
    """Whether a file's name has one of AUDIO_SUFFIXES."""
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES


def inputs_of(paths: Sequence[str], source_of: SourceOf) -> Iterator[AudioInput]:
    """Files of a folder, as paths in it. Keys are these paths, without suffix where no two differ by it alone."""
    without_suffix = [path[: -len(suffix)] if (suffix := PurePosixPath(path).suffix) else path for path in paths]
    num_alike = Counter(without_suffix)
    keys = [path if num_alike[short] > 1 else short for path, short in zip(paths, without_suffix, strict=True)]
    items = [AudioInput(key=key, source=source_of(path)) for key, path in zip(keys, paths, strict=True)]
    return with_unique_keys(items, reserved=set(keys))


def is_samples(value: object) -> "TypeIs[Samples]":
    return isinstance(value, np.ndarray) or is_tensor(value)


def _is_file_object(value: object) -> "TypeIs[BinaryIO]":
    return callable(getattr(value, "read", None))


def file_name(file: object) -> str | None:
    """The name of a file object. None if it has none, or a file descriptor's number in its place."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else None


def _is_list_file(item: object) -> TypeGuard[str | Path]:
    return isinstance(item, str | Path) and not is_url(str(item)) and Path(item).suffix.lower() in _LIST_SUFFIXES


def _one_input(item: Any, *, default_key: str) -> AudioInput:
    match item:
        case AudioInput():
            return item
        case str() if not item:
            return _refused(default_key, "'' is not an input: a path has at least one character")
        case str() | Path():
            source = item if isinstance(item, str) and is_url(item) else Path(item)
            return AudioInput(key=key_of(source) or default_key, source=source)
        case bytes() | bytearray() | memoryview():
            return AudioInput(key=default_key, source=bytes(item))
        case Mapping():
            return _from_mapping(item, default_key)
        case (str(key), samples, rate) if isinstance(item, tuple) and is_samples(samples) and rate is not None:
            return AudioInput(key=key, source=samples, sample_rate=rate)
        case (samples, rate) if isinstance(item, tuple) and is_samples(samples) and rate is not None:
            return AudioInput(key=default_key, source=samples, sample_rate=rate)
    if is_samples(item):
        return AudioInput(key=default_key, source=item)
    if _is_file_object(item):
        return AudioInput(key=Path(file_name(item) or "").stem or default_key, source=item)
    names = [type(part).__name__ for part in item] if isinstance(item, tuple) else []
    kind = f"({', '.join(names)})" if names else type(item).__name__
    return _refused(default_key, f"{kind} is not an input")


def _refused(key: str, reason: str) -> AudioInput:
    return AudioInput(key=key, source=Refused(f"{reason}; allowed are {_ALLOWED}"))


def _from_mapping(item: Mapping[str, Any], default_key: str) -> AudioInput:
    """{"array": samples, "sampling_rate": Hz, "path": their file, or None} -> one input."""
    match dict(item):
        case {"array": samples, "sampling_rate": int(rate), **rest} if is_samples(samples) and rest.keys() <= {"path"}:
            path = rest.get("path")
            key = Path(path).stem if isinstance(path, str | Path) else ""
            return AudioInput(key=key or default_key, source=samples, sample_rate=rate)
    kinds = ", ".join(f"{key!r}: {type(value).__name__}" for key, value in item.items())
    return _refused(default_key, f"{{{kinds}}} is not an input")


def key_of(source: Source) -> str:
    """The stem of a path, URL or named file; empty if there is none."""
    if not isinstance(source, str):
        return source.stem if isinstance(source, Path) else Path(file_name(source) or "").stem
    if is_data_url(source):
        return ""
    _, _, path = shown_url(source).partition("://")[2].partition("/")
    return PurePosixPath(unquote(path)).stem


def with_unique_keys(items: Iterable[AudioInput], *, reserved: Collection[str]) -> Iterator[AudioInput]:
    """Give each item a unique key.

    A suffixed key is never one of `reserved`: the first item that brings such a key itself keeps it.
    """
    taken = set(reserved)
    seen: dict[str, int] = {}  # key -> last suffix given
    for item in items:
        if item.key not in seen and (item.key in reserved or item.key not in taken):
            seen[item.key] = 0
            taken.add(item.key)
            yield item
            continue
        suffix = seen.get(item.key, 0) + 1
        while f"{item.key}_{suffix}" in taken:
            suffix += 1
        seen[item.key] = suffix
        taken.add(f"{item.key}_{suffix}")
        yield replace(item, key=f"{item.key}_{suffix}")


def _read_list_file(path: Path) -> list[AudioInput]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such list file")
    parse = scp_line if path.suffix.lower() == ".scp" else jsonl_line
    items = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            if line:
                items.append(parse(line, partial(_from_list_file, list_file=path)))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    return items


def scp_line(line: str, source_of: SourceOf) -> AudioInput:
    """`key path`; `source_of` finds what the path names. Raises ValueError."""
    try:
        key, target = re.split(r"[ \t]+", line, maxsplit=1)
    except ValueError:
        raise ValueError(f"needs a key and a path, got {line!r}") from None
    if target.startswith("|") or target.endswith("|"):
        raise ValueError(f"pipes are not run, a path is needed, got {target!r}")
    return AudioInput(key=key, source=source_of(target))


def jsonl_line(line: str, source_of: SourceOf) -> AudioInput:
    """One JSON object; `source_of` finds what its source names. Raises ValueError."""
    try:
        data = json.loads(line)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    return listed_input(data, source_of)


def listed_input(data: object, source_of: SourceOf) -> AudioInput:
    """The object of one row of a list. Raises ValueError."""
    if not isinstance(data, dict):
        raise ValueError(f"needs a JSON object, got {type(data).__name__}")
    target = data.get("source")
    if not isinstance(target, str) or not target:
        raise ValueError(f'"source" must be a path or URL, got {target!r}')
    source = source_of(target)
    key, language, hotwords = data.get("key"), data.get("language"), data.get("hotwords")
    context = data.get("context")
    for name, value in (("key", key), ("language", language), ("context", context)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name!r} must be a string, got {value!r}")
    if hotwords is not None and not (isinstance(hotwords, list) and all(isinstance(word, str) for word in hotwords)):
        raise ValueError(f'"hotwords" must be a list of strings, got {hotwords!r}')
    itn = data.get("itn")
    if itn is not None and not isinstance(itn, bool):
        raise ValueError(f'"itn" must be true or false, got {itn!r}')
    return AudioInput(
        key=key or key_of(source) or "audio",
        source=source,
        language=language,
        hotwords=None if hotwords is None else tuple(hotwords),
        itn=itn,
        context=context,
        channels=data.get("channels"),
    )


def _from_list_file(target: str, list_file: Path) -> Path | str:
    """A URL unchanged; a path from the current directory if it exists only there, otherwise beside the list file."""
    if is_url(target):
        return target
    beside = list_file.parent / target
    return Path(target) if os.path.exists(target) and not os.path.exists(beside) else beside
