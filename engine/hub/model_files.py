"""Reads a model's files, and recognises what a failed download leaves in their place.

All readers of a model's files go through this module, so that a git-lfs pointer or a proxy's web page is reported as
such for any file. Only the reader of a format can tell whether a file of that format is truncated.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

_GIT_LFS = b"version https://git-lfs"
_WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(<(?:!doctype|!--|\?xml|html|head|body)[^\n]{0,60})", re.IGNORECASE)
_LOOKED_AT = 512  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFiles:
    """The files needed of a repository on a hub, as patterns of paths. An asterisk also matches slashes."""

    always: tuple[str, ...]  # every file that matches any of these is needed
    weights: tuple[str, ...]  # the files of the first of these patterns that matches any file


def check_file(path: Path) -> None:
    """Raises CheckpointError if a file cannot be opened, is empty, a git-lfs pointer or a web page."""
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not start:
        raise CheckpointError(f"{path} is empty: its download was broken off; fetch it again")
    if start.startswith(_GIT_LFS):
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` beside it")
    if page := _WEB_PAGE.match(start):
        raise CheckpointError(
            f"{path} is a web page ({page[1].decode('ascii', 'replace')!r}), which a proxy or a login sent in place of "
            "the file; fetch it again"
        )


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises CheckpointError, see `check_file`."""
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def cut_short(content: bytes | str) -> str:
    """A hint for error messages about files of lines: the file may be truncated, if its last line has no end. Or ""."""
    is_whole = content.endswith((b"\n", b"\r")) if isinstance(content, bytes) else content.endswith(("\n", "\r"))
    return "" if is_whole else "; its last line has no end, so the file may be cut short: fetch it again"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises CheckpointError, see `check_file`, or if it is not valid UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        fault = "is cut short" if error.reason == "unexpected end of data" else "is not UTF-8"
        raise CheckpointError(f"{path} {fault}: {error}") from error
