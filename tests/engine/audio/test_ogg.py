"""Where the links of an Ogg file begin, and what of it cannot be read, by pages of our own."""

import io

import pytest

from twostage_asr.engine.audio.ogg import OggLink, read_links

FIRST, LAST = 0x02, 0x04
JUNK = b"junk" * 5


def checksum(page: bytes) -> int:
    """RFC 3533: the polynomial 0x04C11DB7, from 0 on, bit by bit."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = ((value << 1) ^ (0x04C1_1DB7 if value & 0x8000_0000 else 0)) & 0xFFFF_FFFF
    return value


def page(sequence: int, flags: int = 0, *, serial: bytes = b"abcd", size: int = 300) -> bytes:
    """One packet of `size` bytes."""
    lengths = bytes([255] * (size // 255) + [size % 255])
    head = b"OggS\0" + bytes([flags]) + bytes(8) + serial + sequence.to_bytes(4, "little")
    rest = bytes([len(lengths)]) + lengths + b"x" * size
    return head + checksum(head + bytes(4) + rest).to_bytes(4, "little") + rest


def links_of(content: bytes) -> list[OggLink]:
    search = read_links(io.BytesIO(content))
    while True:
        try:
            next(search)
        except StopIteration as found:
            return list(found.value)


PAGES = [page(0, FIRST), page(1), page(2, LAST)]
WHOLE = b"".join(PAGES)


def test_a_whole_file_is_one_link_of_one_range() -> None:
    (link,) = links_of(WHOLE)
    assert link.pages == [range(len(WHOLE))]
    assert (link.foreign, link.num_damaged, link.is_cut, link.is_ended) == ([], 0, False, True)


def test_each_link_begins_with_its_first_pages() -> None:
    """Those of two streams begin one link together."""
    other = page(0, FIRST, serial=b"efgh")
    first, second = links_of(PAGES[0] + other + PAGES[1] + PAGES[2] + WHOLE)
    assert first.pages == [range(len(WHOLE) + len(other))]
    assert second.pages == [range(len(WHOLE) + len(other), 2 * len(WHOLE) + len(other))]
    assert first.num_damaged == second.num_damaged == 0 and not first.foreign + second.foreign


def test_bytes_between_pages_that_follow_each_other_are_foreign() -> None:
    start = len(PAGES[0])
    (link,) = links_of(PAGES[0] + JUNK + PAGES[1] + PAGES[2])
    assert link.pages == [range(start), range(start + len(JUNK), len(WHOLE) + len(JUNK))]
    assert (link.foreign, link.num_damaged) == ([range(start, start + len(JUNK))], 0)


def test_bytes_in_the_place_of_a_page_are_damage() -> None:
    (link,) = links_of(PAGES[0] + JUNK + PAGES[2])
    assert (link.foreign, link.num_damaged) == ([], len(JUNK))


@pytest.mark.parametrize("place", [40, 100, -1])
def test_a_page_that_is_not_whole_is_damage(place: int) -> None:
    broken = bytearray(PAGES[1])
    broken[place] ^= 1
    (link,) = links_of(PAGES[0] + bytes(broken) + PAGES[2])
    assert (link.foreign, link.num_damaged, link.is_ended) == ([], len(broken), True)


def test_what_follows_the_last_page_is_foreign_and_what_follows_another_is_damage() -> None:
    (ended,) = links_of(WHOLE + JUNK)
    assert (ended.foreign, ended.num_damaged) == ([range(len(WHOLE), len(WHOLE) + len(JUNK))], 0)
    (broken_off,) = links_of(PAGES[0] + PAGES[1] + JUNK)
    assert (broken_off.foreign, broken_off.num_damaged, broken_off.is_ended) == ([], len(JUNK), False)
    between, _ = links_of(WHOLE + JUNK + WHOLE)
    assert between.foreign == [range(len(WHOLE), len(WHOLE) + len(JUNK))]


def test_a_file_that_ends_within_a_page_is_cut_and_not_damaged() -> None:
    (link,) = links_of(PAGES[0] + PAGES[1][:-1])
    assert (link.is_cut, link.num_damaged) == (True, 0)


def test_what_looks_like_a_page_far_behind_others_is_found() -> None:
    """The search goes on in blocks of 64 KiB; a page may begin at the edge of two."""
    for size in (65_535 - len(PAGES[0]), 65_536, 65_538, 200_000):
        (link,) = links_of(PAGES[0] + b"O" * size + PAGES[1] + PAGES[2])
        assert link.foreign == [range(len(PAGES[0]), len(PAGES[0]) + size)]


def test_no_page_no_link() -> None:
    assert links_of(b"") == links_of(JUNK) == links_of(page(1)) == []


def test_a_link_is_unbroken_if_no_page_is_missing_or_damaged() -> None:
    other = page(0, FIRST, serial=b"efgh")
    damaged = PAGES[1][:-1] + b"y"
    for pages, is_unbroken in ((PAGES, True), ([PAGES[0], other, *PAGES[1:]], True), (PAGES[::2], False)):
        assert links_of(b"".join(pages))[0].is_unbroken is is_unbroken
    assert not links_of(PAGES[0] + damaged + PAGES[2])[0].is_unbroken
