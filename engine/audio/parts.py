"""A file of frames -> the parts that one decoder can read in one pass.

- An MP3 that was joined from several has tags in its middle. Without the tags it is one stream of frames.
- An Ogg may be a chain of links (ogg.py), and each link is a part.
- Bytes before the first frame are skipped if no decoder recognises the file with them.
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

_SEARCH_BYTES = 1 << 20  # read at a time; also the most that may lie before the first frame
_ID3 = b"ID3"
_ID3_HEADER = 10  # bytes
_MAX_TAGS = 1_000  # tags that are cut out; a forged file could have millions
_TEXT_AND_PADDING = bytes([*range(32, 127), *b"\t\n\r\0\xff"])
_FOREIGN_SHARE = 0.85  # data with this share of text and padding bytes is not audio; encoded audio has a share of 0.4
_MAGIC = (b"fLaC", b"OggS\0\x02", b"ID3\2\0", b"ID3\3\0", b"ID3\4\0")


class Splice(io.RawIOBase):
    """A file object that presents some byte ranges of another file as one file."""

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
        """Read at most to the end of the range that holds the current position."""
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
    """A part of a file that one decoder reads."""

    file: BinaryIO
    link: OggLink | None = None  # the link that this part is, in an Ogg


def parts_of(file: BinaryIO, joiner: Joiner) -> Generator[None, None, list[Part]]:
    """Find the parts of a file, in order; most files have one. Yields while it searches. Raises AudioError."""
    file.seek(0)
    head = file.read(4)
    if head == b"OggS":
        links = yield from read_links(file)
        if len(links) > MAX_LINKS:
            raise UnsupportedAudioError(f"{joiner.name}: an Ogg of more than {MAX_LINKS:,} links; split it")
        for foreign in itertools.chain(*(link.foreign for link in links)):
            joiner.notes.add_skipped(len(foreign), f"from byte {foreign.start:,}")
        return [Part(_splice(file, link.pages), link) for link in links] or [Part(file)]
    is_mpeg = head[:3] == _ID3 or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")  # 11 sync bits
    tags = _tags_inside(file) if is_mpeg else []
    for tag in tags:
        joiner.notes.add_skipped(len(tag), f"from byte {tag.start:,}")
    edges = [0, *(edge for tag in tags for edge in (tag.start, tag.stop)), file.seek(0, io.SEEK_END)]
    return [Part(_splice(file, [range(*pair) for pair in zip(edges[::2], edges[1::2], strict=True)]))]


def is_foreign(data: bytes) -> bool:
    """Whether undecodable bytes are text or padding, as opposed to damaged frames."""
    return len(data.translate(None, _TEXT_AND_PADDING)) <= (1 - _FOREIGN_SHARE) * len(data)


def _splice(file: BinaryIO, ranges: Sequence[range]) -> BinaryIO:
    """These ranges as one file, or the file itself if they cover all of it."""
    is_all = len(ranges) == 1 and ranges[0] == range(file.seek(0, io.SEEK_END))
    return file if is_all else io.BufferedReader(Splice(file, ranges))


def without_foreign_head(file: BinaryIO) -> tuple[int, BinaryIO] | None:
    """Find a header behind foreign bytes in a file that no decoder recognises.

    Returns:
        (number of foreign bytes, the file without them), or None if no header is found.
    """
    file.seek(0)
    head = file.read(_SEARCH_BYTES)
    places = [place for place in map(head.find, _MAGIC) if place > 0]
    if not places:
        return None
    end = file.seek(0, io.SEEK_END)
    return min(places), _splice(file, [range(min(places), end)])


def id3_size(head: bytes) -> int:
    """Length in bytes of the ID3v2 tag that begins with `head`; 0 if `head` begins no tag."""
    is_tag = len(head) == _ID3_HEADER and head[:3] == _ID3 and 2 <= head[3] <= 4 and not head[4] | head[5] & 0x0F
    if not is_tag or any(byte > 0x7F for byte in head[6:]):
        return 0
    footer = _ID3_HEADER if head[5] & 0x10 else 0
    return (
        _ID3_HEADER + footer + functools.reduce(lambda size, byte: size << 7 | byte, head[6:], 0)
    )  # four times 7 bits


def _tags_inside(file: BinaryIO) -> list[range]:
    """Byte ranges of the ID3v2 tags, except those at the beginning of the file."""
    tags: list[range] = []
    end, beginning = 0, 0  # where the last tag ends, and where the tags at the file's beginning end
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
    """Yield each position of `pattern` in a file; the caller may seek in the file between two of them."""
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
