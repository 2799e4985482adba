"""A file of frames -> the parts of it that one decoder can read in one go.

- An MP3 that was joined from several has their tags in its middle; without them it is one stream of frames.
- An Ogg may be a chain of links (ogg.py).
- What lies before the first frame of any file is left out if no decoder recognises the file with it.
"""

import functools
import io
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import UnsupportedAudioError
from .ogg import MAX_LINKS, OggLink, read_links
from .waveform import Joiner

_SEARCH_BYTES = 1 << 20  # that are read at a time, and that may lie before the first frame
_ID3 = b"ID3"
_ID3_HEADER = 10  # bytes
_MAX_TAGS = 1_000  # that are cut out; a forged file has millions
_TEXT_AND_PADDING = bytes([*range(32, 127), *b"\t\n\r\0\xff"])
_FOREIGN_SHARE = 0.85  # of bytes that are text or padding, in what is no audio; of encoded audio it is 0.4
_MAGIC = (b"fLaC", b"OggS\0\x02", b"ID3\2\0", b"ID3\3\0", b"ID3\4\0")


class Splice(io.RawIOBase):
    """Some ranges of a file, one after the other, as a file."""

    def __init__(self, file: BinaryIO, ranges: Sequence[range]) -> None:
        self._file = file
        self._ranges = [each for each in ranges if each]
        self._size = sum(map(len, self._ranges))
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Up to the end of the range that the position is in."""
        skipped = 0
        for each in self._ranges:
            first = self._position - skipped
            if first < len(each):
                self._file.seek(each[first])
                data = self._file.read(min(len(buffer), len(each) - first))
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            skipped += len(each)
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one decoder reads."""

    file: BinaryIO
    link: OggLink | None = None


def parts_of(file: BinaryIO, joiner: Joiner) -> Generator[None, None, list[Part]]:
    """The parts of a file, in order, mostly the file itself; found with some stops on the way. Raises AudioError."""
    file.seek(0)
    head = file.read(4)
    if head == b"OggS":
        links = yield from read_links(file)
        if len(links) > MAX_LINKS:
            raise UnsupportedAudioError(f"{joiner.name}: an Ogg of more than {MAX_LINKS:,} links; split it")
        for foreign in itertools.chain(*(link.foreign for link in links)):
            joiner.notes.add_skipped(len(foreign), f"from byte {foreign.start:,}")
        return [Part(_splice(file, link.pages), link) for link in links] or [Part(file)]
    is_mpeg = head[:3] == _ID3 or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")  # frames begin with eleven 1 bits
    tags = _tags_inside(file) if is_mpeg else []
    for tag in tags:
        joiner.notes.add_skipped(len(tag), f"from byte {tag.start:,}")
    edges = [0, *(edge for tag in tags for edge in (tag.start, tag.stop)), file.seek(0, io.SEEK_END)]
    return [Part(_splice(file, [range(*pair) for pair in zip(edges[::2], edges[1::2], strict=True)]))]


def is_foreign(data: bytes) -> bool:
    """Whether bytes between frames are text or padding, and not frames that were damaged."""
    return len(data.translate(None, _TEXT_AND_PADDING)) <= (1 - _FOREIGN_SHARE) * len(data)


def _splice(file: BinaryIO, ranges: Sequence[range]) -> BinaryIO:
    """These ranges of a file, or the file itself if they are all of it."""
    is_all = len(ranges) == 1 and ranges[0] == range(file.seek(0, io.SEEK_END))
    return file if is_all else io.BufferedReader(Splice(file, ranges))


def without_foreign_head(file: BinaryIO) -> tuple[int, BinaryIO] | None:
    """Where a frame or a header may begin in a file that no decoder recognises, and the file from there on."""
    file.seek(0)
    head = file.read(_SEARCH_BYTES)
    places = [place for place in map(head.find, _MAGIC) if place > 0]
    if not places:
        return None
    end = file.seek(0, io.SEEK_END)
    return min(places), _splice(file, [range(min(places), end)])


def id3_size(head: bytes) -> int:
    """How long the ID3v2 tag is that begins with these bytes; 0 if none does."""
    is_tag = len(head) == _ID3_HEADER and head[:3] == _ID3 and 2 <= head[3] <= 4 and not head[4] | head[5] & 0x0F
    if not is_tag or any(byte > 0x7F for byte in head[6:]):
        return 0
    footer = _ID3_HEADER if head[5] & 0x10 else 0
    return (
        _ID3_HEADER + footer + functools.reduce(lambda size, byte: size << 7 | byte, head[6:], 0)
    )  # four times 7 bits


def _tags_inside(file: BinaryIO) -> list[range]:
    """Where the ID3v2 tags are that do not begin the file."""
    tags: list[range] = []
    end, beginning = 0, 0  # of the last tag; of what comes after those that begin the file
    for place in _places(file, _ID3):
        if place < end:
            continue
        file.seek(place)
        size = id3_size(file.read(_ID3_HEADER))
        if size:
            end = min(place + size, file.seek(0, io.SEEK_END))
            if place == beginning:
                beginning = end
            elif tags and tags[-1].stop == place:
                tags[-1] = range(tags[-1].start, end)
            else:
                tags.append(range(place, end))
            if len(tags) == _MAX_TAGS:
                break
    return tags


def _places(file: BinaryIO, pattern: bytes) -> Iterator[int]:
    """Wherever these bytes are in a file; the caller may move in it meanwhile."""
    position, kept = 0, b""
    while True:
        file.seek(position)
        data = file.read(_SEARCH_BYTES)
        if not data:
            return
        block = kept + data
        place = block.find(pattern)
        while place >= 0:
            yield position - len(kept) + place
            place = block.find(pattern, place + 1)
        position += len(data)
        kept = block[1 - len(pattern) :]
