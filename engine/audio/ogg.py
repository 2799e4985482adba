"""The pages of an Ogg file (RFC 3533): where its links begin, and which bytes cannot be read.

A chained Ogg is several Ogg files in a row, called links. Each link has its own headers, sample rate and clock. FFmpeg
reads a chain as one stream and fails where the sample rate changes. It does not report pages that are missing or have a
wrong checksum, so they are found here.
"""

import io
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

_CAPTURE = b"OggS\0"  # capture pattern and version
_HEADER = 27  # bytes: capture 4, version 1, flags 1, granule position 8, serial 4, sequence 4, checksum 4, lengths 1
_FIRST, _LAST = 0x02, 0x04  # flags of a stream's first and last page
_SEARCH_BYTES = 1 << 16
_PAGES_A_STEP = 1024
_MAX_GAPS = 1_000  # gaps between pages that are cut out of a link; a forged file could have millions
MAX_LINKS = 10_000  # about as many as a month of radio has
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(slots=True, eq=False)
class OggLink:
    """One link of a chain; in most files the only one."""

    pages: list[range] = field(default_factory=list)  # byte ranges of adjacent pages
    foreign: list[range] = field(default_factory=list)  # byte ranges between pages with consecutive sequence numbers
    num_damaged: int = 0  # bytes in place of missing pages, and of pages with a wrong checksum
    is_cut: bool = False  # the file ends within the last page
    is_ended: bool = False  # the last page has the flag of a stream's end
    is_unbroken: bool = True  # no page is missing, by the sequence numbers, or has a wrong checksum
    _next_sequence: dict[bytes, int] = field(default_factory=dict)  # keyed by the stream's serial number

    def add(self, page: "_Page") -> None:
        """Add the next page, and classify the bytes before it as foreign or damaged."""
        before = range(self.pages[-1].stop if self.pages else page.start, page.start)
        may_split = len(self.pages) < _MAX_GAPS
        is_next = page.sequence == self._next_sequence.get(page.serial, page.sequence)
        self.is_unbroken = self.is_unbroken and is_next and page.is_whole
        if before and may_split and is_next:
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
        """Classify the bytes between the last page and `stop`, where the next link begins or the file ends."""
        after = range(self.pages[-1].stop, stop)
        if after and self.is_ended:
            self.foreign.append(after)
        else:
            self.num_damaged += len(after)


@dataclass(frozen=True, slots=True)
class _Page:
    start: int  # first byte in the file
    stop: int  # the byte after it, at most the file's end
    flags: int
    serial: bytes  # identifies the page's stream
    sequence: int  # number of the page in its stream
    is_cut: bool  # the file ends within it
    is_whole: bool  # its checksum is right


def read_links(file: BinaryIO) -> Generator[None, None, list[OggLink]]:
    """Find the links of an Ogg file, in order, without decoding; yields after every _PAGES_A_STEP pages.

    The search ends when more than MAX_LINKS are found.
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
    """Yield every page; bytes between pages are skipped."""
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
    """CRC-32 with polynomial 0x04C11DB7, initial value 0, no final inversion, and the bit order opposite to zlib's."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return mirrored.to_bytes(4, "little").translate(_MIRRORED)[::-1]


def _next_capture(file: BinaryIO, position: int, end: int) -> int:
    """The next position where a page may begin, or `end`."""
    while position < end:
        file.seek(position)
        block = file.read(_SEARCH_BYTES)
        place = block.find(_CAPTURE)
        if place >= 0:
            return position + place
        position += max(1, len(block) - len(_CAPTURE) + 1)
    return end
