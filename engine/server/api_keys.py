"""API keys: how they are written, which client they belong to, and the file that holds them.

A key is written as `KEY` or `NAME:KEY`: one per line in a file, separated by white space in the environment. Logs and
quotas know the client by the name. A key without one is named after its position, "key-2". Keys with the same name
belong to one client, so that an old key stays valid while its successor is handed out.
"""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..text_files import read_lines

RECHECK_S = 1.0  # least time between two checks whether the file has changed

log = logging.getLogger("twostage_asr.server")

_NAMED = re.compile(r"([\w.-]{1,64}):(.*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. Only digests of it are kept."""

    name: str
    digests: tuple[bytes, ...] = field(repr=False)  # SHA-256 of each byte string that clients may send for it

    @classmethod
    def parse(cls, text: str, place: int) -> "ApiKey":
        """`NAME:KEY` or `KEY`; `place` counts from 1. Raises ConfigError, which does not show the key."""
        named = _NAMED.fullmatch(text.strip())
        name, key = (named[1], named[2].strip()) if named else (f"key-{place}", text.strip())
        if not key:
            raise ConfigError(f"API key {place} is empty; keys are written as KEY or NAME:KEY")
        sent = {key.encode()}
        if all(ord(character) < 256 for character in key):  # HTTP headers have no encoding: clients use either one
            sent.add(key.encode("latin-1"))
        return cls(name, tuple(hashlib.sha256(content).digest() for content in sent))


def parse_keys(texts: Sequence[str]) -> tuple[ApiKey, ...]:
    """Raises ConfigError for an empty key."""
    return tuple(ApiKey.parse(text, place) for place, text in enumerate(texts, 1))


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file, at least one; empty lines are skipped. Raises ConfigError."""
    try:
        lines = read_lines(path)
    except OSError as error:
        raise ConfigError(f"the API keys cannot be read: {error}") from error
    keys = parse_keys([line for line in lines if line])
    if not keys:
        raise ConfigError(f"{path} holds no API key; write one a line, as KEY or NAME:KEY")
    return keys


class ApiKeys:
    """The keys of one server. A key file is read again when it has changed."""

    def __init__(self, texts: Sequence[str], file: Path | None = None) -> None:
        """`file` takes the place of `texts`. Raises ConfigError."""
        self._file = file
        self._version = None if file is None else _version(file)
        self._checked = time.monotonic()
        self._keys = parse_keys(texts) if file is None else read_keys(file)

    @property
    def are_needed(self) -> bool:
        return bool(self._keys)

    def name_of(self, sent: str | None) -> str | None:
        """The name of the client whose key this is; None if no key matches. `sent` is a header, decoded as Latin-1.

        The comparison takes constant time and covers every key.
        """
        self._read_again()
        if sent is None or any(ord(character) > 255 for character in sent):
            return None
        digest = hashlib.sha256(sent.encode("latin-1")).digest()
        names = [key.name for key in self._keys for known in key.digests if hmac.compare_digest(digest, known)]
        return names[0] if names else None

    def _read_again(self) -> None:
        """Read a changed file. If it is empty or unreadable, the old keys stay: it may be half written."""
        if self._file is None or time.monotonic() < self._checked + RECHECK_S:
            return
        self._checked = time.monotonic()
        version = _version(self._file)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = read_keys(self._file)
        except ConfigError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("the API keys were read again: %s", ", ".join(sorted({key.name for key in self._keys})))


def _version(path: Path) -> tuple[int, ...] | None:
    """A value that changes when the file is written or replaced; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
