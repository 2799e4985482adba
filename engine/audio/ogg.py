"""The pages of an Ogg file: where its links begin, and what of it cannot be read (RFC 3533).

A chain of links is several Ogg files in a row, each with headers, a sample rate and a clock of its own. FFmpeg reads a
chain as one stream, and gives up where the sample rate changes. It says nothing of pages that it cannot find, or whose
checksum is wrong.
"""

import io
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

_CAPTURE = b"OggS\0"  # and the version
_HEADER = 27  # bytes: capture 4, version 1, flags 1, granule position 8, serial 4, sequence 4, checksum 4, lengths 1
_FIRST, _LAST = 0x02, 0x04  # flags: of a stream
_SEARCH_BYTES = 1 << 16
_PAGES_A_STEP = 1024
_MAX_GAPS = 1_000  # between the pages of a link, that are cut out; a forged file has millions
MAX_LINKS = 10_000  # a month of radio has as many
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(slots=True, eq=False)
class OggLink:
    """One link of a chain; mostly the whole file."""

    pages: list[range] = field(default_factory=list)  # bytes of pages that touch each other
    foreign: list[range] = field(default_factory=list)  # bytes between whole pages that follow each other
    num_damaged: int = 0  # bytes in the place of pages that are not there or not whole
    is_cut: bool = False  # the file ends within the last page
    is_ended: bool = False  # the last page says so
    _next_sequence: dict[bytes, int] = field(default_factory=dict)  # by the stream's serial number

    def add(self, page: "_Page") -> None:
        """Add the next page, and account for the bytes before it."""
        before = range(self.pages[-1].stop if self.pages else page.start, page.start)
        may_split = len(self.pages) < _MAX_GAPS
        if before and may_split and page.sequence == self._next_sequence.get(page.serial, page.sequence):
            self.foreign.append(before)
        else:
            self.num_damaged += len(before)
        if not page.is_whole and not page.is_cut:
            self.num_damaged += page.stop - page.start
        if self.pages and not (before and may_split):
            self.pages[-1] = range(self.pages[-1].start, page.stop)
        else:
            self.pages.append(range(page.start, page.stop))
        self._next_sequence[page.serial] = page.sequence + 1
        self.is_cut, self.is_ended = page.is_cut, bool(page.flags & _LAST)

    def end(self, stop: int) -> None:
        """Account for the bytes between the last page and where the next link begins, or the file ends."""
        after = range(self.pages[-1].stop, stop)
        if after and self.is_ended:
            self.foreign.append(after)
        else:
            self.num_damaged += len(after)


@dataclass(frozen=True, slots=True)
class _Page:
    start: int  # bytes
    stop: int  # at most the file's end
    flags: int
    serial: bytes  # of its stream
    sequence: int  # number in its stream
    is_cut: bool
    is_whole: bool


def read_links(file: BinaryIO) -> Generator[None, None, list[OggLink]]:
    """The links of an Ogg file, in order, found with a stop after every few pages; nothing is decoded.

    The search ends when there are more than MAX_LINKS.
    """
    file_end = file.seek(0, io.SEEK_END)
    links: list[OggLink] = []
    was_first = False
    for number, page in enumerate(_pages(file, file_end)):
        is_first = page.is_whole and bool(page.flags & _FIRST)
        if is_first and not was_first:
            if links:
                links[-1].end(page.start)
            links.append(OggLink())
            if len(links) > MAX_LINKS:
                return links
        if links:
            links[-1].add(page)
        was_first = is_first
        if not number % _PAGES_A_STEP:
            yield
    if links:
        links[-1].end(file_end)
    return links


def _pages(file: BinaryIO, end: int) -> Iterator[_Page]:
    """Every page; bytes between two of them are passed over."""
    position = 0
    while position + _HEADER <= end:
        file.seek(position)
        page = file.read(_HEADER + 255)
        if page[:5] != _CAPTURE:
            position = _next_capture(file, position + 1, end)
            continue
        num_lengths = page[_HEADER - 1]
        size = _HEADER + num_lengths + sum(page[_HEADER : _HEADER + num_lengths])
        page = page[:size] + file.read(max(0, size - len(page)))
        yield _Page(
            start=position,
            stop=position + len(page),
            flags=page[5],
            serial=page[14:18],
            sequence=int.from_bytes(page[18:22], "little"),
            is_cut=len(page) < size,
            is_whole=_checksum(page[:22] + bytes(4) + page[26:]) == page[22:26],
        )
        position += size


def _checksum(page: bytes) -> bytes:
    """CRC-32 with the polynomial 0x04C11DB7, from 0 on and not inverted, of bits in the order opposite to zlib's."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return mirrored.to_bytes(4, "little").translate(_MIRRORED)[::-1]


def _next_capture(file: BinaryIO, position: int, end: int) -> int:
    """The next place where a page may begin, or the end."""
    while position < end:
        file.seek(position)
        block = file.read(_SEARCH_BYTES)
        place = block.find(_CAPTURE)
        if place >= 0:
            return position + place
        position += max(1, len(block) - len(_CAPTURE) + 1)
    return end
