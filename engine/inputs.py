"""What users pass -> AudioInput list -> waveforms. expand_inputs() reads list files, never audio; load() reads audio.

One input is
- a path (str or Path) of an audio or video file; whether it exists is found out by load()
- a list file, which stands for several inputs:
    *.scp    one `key path` per line, as Kaldi writes it; pipes (`sox ... |`) are refused, they would run commands
    *.jsonl  one object per line: "source" (required), "key", "language", "hotwords" (list of strings), "itn",
             "context", "channels"; other fields, such as "target" and "text" of FunASR's training lists, are ignored
  Empty lines are skipped; text_files.py says in which encodings they may be. A relative path is looked for beside the
  list file, then in the current directory. http, https and data URLs may stand in place of paths.
- a URL: http:, https: or data:
- bytes: the content of an audio file
- samples: an array or tensor (16 kHz), (samples, sample_rate), or (key, samples, sample_rate); see audio.as_waveform
- an AudioInput, such as those of audio_files()
A Python list of any mix of these is a list of inputs; a tuple is always one input.

A list file that cannot be understood is a ConfigError: nothing has been done yet. Anything else that cannot be
transcribed becomes an input all the same, and its load() raises an AudioError that says why, so that one bad input does
not cost the others.
"""

import base64
import binascii
import functools
import json
import os
import re
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard
from urllib.parse import unquote, unquote_to_bytes

import httpx
import numpy as np
import numpy.typing as npt

from .audio import (
    DEFAULT_LIMITS,
    SAMPLE_RATE,
    AudioLimits,
    Blocks,
    Waveform,
    as_waveform,
    decode_blocks,
    is_tensor,
)
from .audio_ffmpeg import AUDIO_SUFFIXES
from .channels import Channels, check_channels
from .errors import AudioTooLongError, ConfigError, UnsupportedAudioError
from .notes import Notes
from .text_files import read_lines

if TYPE_CHECKING:
    import torch

_LIST_SUFFIXES = (".scp", ".jsonl")
_ALLOWED = "a path, URL, bytes, samples, (samples, sample_rate) or (key, samples, sample_rate)"

HTTP_TIMEOUT_S = 20.0  # to connect, and between two pieces of an answer
DOWNLOAD_TIMEOUT_S = 600.0  # for the whole of it
MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Refused:
    """In place of a source: why it cannot be one."""

    reason: str


Samples: TypeAlias = "npt.NDArray[Any] | torch.Tensor"
Source: TypeAlias = "Path | str | bytes | Samples | Refused"  # a str is a URL


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioInput:
    """One thing to transcribe, not yet read."""

    key: str  # unique among the inputs it was expanded with; may hold any character, so it is not a file name
    source: Source
    sample_rate: int | None = None  # Hz, of samples
    language: str | None = None  # None: as the request says
    hotwords: tuple[str, ...] | None = None  # None: as the request says
    itn: bool | None = None  # None: as the request says
    context: str | None = None  # None: as the request says
    channels: Channels | None = None  # None: as the request says, by default "mix"; see channels.py
    salvage: bool | None = None  # None: as the request says, by default False; see decode_audio

    def __post_init__(self) -> None:
        """Raises ConfigError for channels that cannot be."""
        if self.channels is not None:
            check_channels(self.channels)

    @property
    def decoding(self) -> dict[str, Any]:
        """What this input says of how it is decoded, by the names of decode_blocks."""
        return {"channels": "mix" if self.channels is None else self.channels, "salvage": bool(self.salvage)}


def expand_inputs(inputs: object) -> list[AudioInput]:
    """One input, or a list of any mix of them -> AudioInputs in the same order; see the module's docstring.

    Keys are those of a list file or tuple, the stem of a path or URL, or else audio_<position>. A key that occurs again
    gets the first free of the suffixes _1, _2, ...

    Raises:
        ConfigError: a list file that does not exist or has a line that cannot be understood.
    """
    found: list[AudioInput] = []
    for item in inputs if isinstance(inputs, list) else [inputs]:
        if _is_list_file(item):
            found += _read_list_file(Path(item))
        else:
            found.append(_one_input(item, default_key=f"audio_{len(found)}"))
    return _with_unique_keys(found)


@dataclass(frozen=True, slots=True)
class Folder:
    """What was found in a folder, searched to its depths."""

    inputs: list[AudioInput]  # the key is the path in the folder without suffix
    passed_over: list[Path]  # files whose names have none of AUDIO_SUFFIXES


def audio_files(folder: Path) -> Folder:
    """Search a folder for files whose names have one of AUDIO_SUFFIXES.

    Raises:
        ConfigError: there is none.
    """
    found: list[Path] = []
    passed_over: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            found.append(path)
        elif path.is_file():
            passed_over.append(path)
    if not found:
        raise ConfigError(f"{folder}: holds no audio; looked for {', '.join(sorted(AUDIO_SUFFIXES))}")
    items = (AudioInput(key=path.relative_to(folder).with_suffix("").as_posix(), source=path) for path in found)
    return Folder(_with_unique_keys(list(items)), passed_over)


def load(
    item: AudioInput,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    allow_urls: bool | Collection[str] = True,
    notes: Notes | None = None,
) -> Waveform:
    """Read and decode one input: (N,) float32, mono, 16 kHz, or (N, channels) where its channels are split.

    `allow_urls=False` refuses http and https, which let a client reach whatever this machine can reach. A collection of
    host names allows these alone, also to redirects. `notes` gets to know what was filled in, skipped or left out.

    Raises:
        AudioError: and nothing else, whatever the source is.
    """
    blocks = list(load_blocks(item, limits=limits, allow_urls=allow_urls, notes=notes))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def load_blocks(
    item: AudioInput,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    allow_urls: bool | Collection[str] = True,
    notes: Notes | None = None,
) -> Blocks:
    """`load` in pieces that joined are what it returns; files are decoded as the iteration goes on.

    Raises:
        AudioError: and nothing else, possibly after some pieces.
    """
    source, name = item.source, None
    if isinstance(source, Refused):
        raise UnsupportedAudioError(source.reason)
    if isinstance(source, str):
        source, name = _url_content(source, limits, allow_urls)
    if isinstance(source, Path | bytes):
        yield from decode_blocks(source, limits=limits, name=name, notes=notes, **item.decoding)
        return
    sample_rate = SAMPLE_RATE if item.sample_rate is None else item.sample_rate
    yield as_waveform(source, sample_rate, limits=limits, channels=item.decoding["channels"], notes=notes)


def _url_content(url: str, limits: AudioLimits, allow_urls: bool | Collection[str]) -> tuple[bytes, str]:
    """What a URL leads to, and what errors call it. Raises AudioError."""
    if _is_data_url(url):
        return _data_url_content(url, limits), "data URL"
    if not allow_urls:
        raise UnsupportedAudioError(f"{_shown(url)}: fetching URLs is off; send the audio itself")
    hosts = None if allow_urls is True else allow_urls
    return _download(url, limits, hosts), _shown(url)


def is_url(text: str) -> bool:
    """Whether a source is fetched or decoded, not opened."""
    return re.match(r"https?://|data:|[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def _is_samples(value: object) -> bool:
    return isinstance(value, np.ndarray) or is_tensor(value)


def _is_list_file(item: object) -> TypeGuard[str | Path]:
    return isinstance(item, str | Path) and not is_url(str(item)) and Path(item).suffix.lower() in _LIST_SUFFIXES


def _one_input(item: Any, *, default_key: str) -> AudioInput:
    if isinstance(item, AudioInput):
        return item
    if isinstance(item, str | Path):
        source = item if isinstance(item, str) and is_url(item) else Path(item)
        return AudioInput(key=_key_of(source) or default_key, source=source)
    if isinstance(item, bytes | bytearray | memoryview):
        return AudioInput(key=default_key, source=bytes(item))
    if _is_samples(item):
        return AudioInput(key=default_key, source=item)
    if isinstance(item, tuple):
        match item:
            case (str(key), samples, rate) if _is_samples(samples) and rate is not None:
                return AudioInput(key=key, source=samples, sample_rate=rate)
            case (samples, rate) if _is_samples(samples) and rate is not None:
                return AudioInput(key=default_key, source=samples, sample_rate=rate)
    names = [type(part).__name__ for part in item] if isinstance(item, tuple) else []
    kind = f"({', '.join(names)})" if names else type(item).__name__
    return AudioInput(key=default_key, source=Refused(f"{kind} is not an input; allowed are {_ALLOWED}"))


def _key_of(source: Path | str) -> str:
    """The stem of a path or URL; empty if there is none."""
    if isinstance(source, Path):
        return source.stem
    if _is_data_url(source):
        return ""
    _, _, path = _shown(source).partition("://")[2].partition("/")
    return PurePosixPath(unquote(path)).stem


def _with_unique_keys(items: list[AudioInput]) -> list[AudioInput]:
    taken = {item.key for item in items}  # whoever has a key first keeps it, also against suffixed ones
    seen: dict[str, int] = {}  # key -> last suffix given
    unique = []
    for item in items:
        if item.key not in seen:
            seen[item.key] = 0
            unique.append(item)
            continue
        suffix = seen[item.key] + 1
        while f"{item.key}_{suffix}" in taken:
            suffix += 1
        seen[item.key] = suffix
        taken.add(f"{item.key}_{suffix}")
        unique.append(replace(item, key=f"{item.key}_{suffix}"))
    return unique


def _read_list_file(path: Path) -> list[AudioInput]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such list file")
    parse = _scp_line if path.suffix.lower() == ".scp" else _jsonl_line
    items = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            if line:
                items.append(parse(line, path))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    return items


def _scp_line(line: str, path: Path) -> AudioInput:
    """`key path`. Raises ValueError."""
    try:
        key, target = re.split(r"[ \t]+", line, maxsplit=1)
    except ValueError:
        raise ValueError(f"needs a key and a path, got {line!r}") from None
    if target.startswith("|") or target.endswith("|"):
        raise ValueError(f"pipes are not run, a path is needed, got {target!r}")
    return AudioInput(key=key, source=_from_list_file(target, path))


def _jsonl_line(line: str, path: Path) -> AudioInput:
    """One JSON object. Raises ValueError."""
    try:
        data = json.loads(line)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError(f"needs a JSON object, got {type(data).__name__}")
    target = data.get("source")
    if not isinstance(target, str) or not target:
        raise ValueError(f'"source" must be a path or URL, got {target!r}')
    source = _from_list_file(target, path)
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
        key=key or _key_of(source) or "audio",
        source=source,
        language=language,
        hotwords=None if hotwords is None else tuple(hotwords),
        itn=itn,
        context=context,
        channels=data.get("channels"),
    )


def _from_list_file(target: str, list_file: Path) -> Path | str:
    """A URL as it is; a relative path beside the list file if it exists there or nowhere, else from here."""
    if is_url(target):
        return target
    beside = list_file.parent / target
    return Path(target) if os.path.exists(target) and not os.path.exists(beside) else beside


def _is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def _data_url_content(url: str, limits: AudioLimits) -> bytes:
    """data:[media type][;base64],content"""
    head, comma, text = url.partition(",")
    if not comma:
        raise UnsupportedAudioError(f"data URL without a comma before its content: {url[:40]!r}")
    if len(text) > 3 * limits.max_bytes:  # percent-encoding takes three characters for a byte, base64 fewer
        raise AudioTooLongError(f"data URL: {len(text):,} characters, at most {limits.max_bytes:,} bytes allowed")
    content = unquote_to_bytes(text.encode("utf-8", "replace"))
    if not head.lower().endswith(";base64"):
        return content
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error as error:
        raise UnsupportedAudioError(f"data URL: its content is not base64: {error}") from error


def _shown(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def _download(url: str, limits: AudioLimits, hosts: Collection[str] | None = None) -> bytes:
    """Follows redirects to http and https only, and to `hosts` only if there are any. Raises AudioError."""

    def require_host(request: httpx.Request) -> None:
        if hosts is not None and request.url.host not in hosts:
            raise UnsupportedAudioError(f"{_shown(str(request.url))}: audio is not fetched from this host")

    name, deadline = _shown(url), time.monotonic() + DOWNLOAD_TIMEOUT_S
    client = httpx.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=HTTP_TIMEOUT_S,
        verify=_ssl_context(),
        event_hooks={"request": [require_host]},
    )
    content = bytearray()
    try:
        with client, client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if not response.is_success:
                raise UnsupportedAudioError(f"{name}: HTTP status {response.status_code} {response.reason_phrase}")
            _require_size(int(response.headers.get("Content-Length", 0)), name, limits)
            for piece in response.iter_bytes():
                content += piece
                _require_size(len(content), name, limits)
                if time.monotonic() > deadline:
                    raise UnsupportedAudioError(f"{name}: not fetched within {DOWNLOAD_TIMEOUT_S:.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a host name that IDNA refuses
        raise UnsupportedAudioError(f"{name}: cannot be fetched: {str(error) or type(error).__name__}") from error
    return bytes(content)


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """Reading the certificates takes 30 ms: once is enough."""
    return httpx.create_ssl_context()


def _require_size(num_bytes: int, name: str, limits: AudioLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise AudioTooLongError(f"{name}: {num_bytes:,} bytes or more, at most {limits.max_bytes:,} allowed")
