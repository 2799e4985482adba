"""decode_audio and what lies between frames: tags, padding, other text, and the links of a chained Ogg."""

import io
from pathlib import Path

import numpy as np
import pytest

from tests.audio_clips import DURATION_S, FloatArray, clip, encode, encode_vbr_mp3, id3_with_cover, png
from twostage_asr.engine.audio.decode import SAMPLE_RATE, decode_audio
from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.audio.parts import Splice, id3_size
from twostage_asr.engine.errors import UnsupportedAudioError

NOISE = np.random.default_rng(0)
TAG = id3_with_cover(png(600, 600) + NOISE.bytes(20_000))
FOREIGN = {
    "tag": TAG,
    "two tags": TAG + id3_with_cover(b"x" * 300),
    "page": b"<html><body>502 Bad Gateway</body></html>\n" * 300,
    "zeros": bytes(100_000),
    "ID3v1": b"TAG" + b"A title".ljust(124, b"\0") + b"\xff",
    "APE": b"APETAGEX\xd0\x07\0\0" + b"TITLE\0some words " * 100,
}


def decode(source: bytes | Path, **options: bool) -> tuple[FloatArray, dict[str, str]]:
    notes = Notes()
    waveform = decode_audio(source, notes=notes, **options)
    return waveform, {warning.code: warning.message for warning in notes.warnings()}


def mp3s() -> dict[str, bytes]:
    return {
        "constant rate": encode(clip(), 16_000, "mp3", "libmp3lame"),
        "with a length": encode_vbr_mp3(clip(44_100), 44_100, with_length=True),
        "without a length": encode_vbr_mp3(clip(44_100), 44_100, with_length=False),
    }


@pytest.mark.parametrize("name", mp3s())
@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_bytes_between_mp3s_are_skipped(name: str, foreign: str) -> None:
    content = mp3s()[name]
    waveform, warnings = decode(content + FOREIGN[foreign] + content)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(2 * DURATION_S, abs=0.25)
    assert list(warnings) == ["skipped_bytes"]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_foreign_bytes_before_and_behind_an_mp3_are_skipped(place: str, foreign: str) -> None:
    content = mp3s()["constant rate"]
    content = content[id3_size(content[:10]) :]
    joined = FOREIGN[foreign] + content if place == "before" else content + FOREIGN[foreign]
    waveform, _ = decode(joined)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(DURATION_S, abs=0.15)


def test_what_lies_before_a_flac_is_skipped() -> None:
    waveform, warnings = decode(FOREIGN["page"] + encode(clip(), 16_000, "FLAC", "PCM_16"))
    assert len(waveform) == DURATION_S * SAMPLE_RATE
    assert warnings == {"skipped_bytes": "12,600 bytes that are not audio were skipped: before the first frame"}


def test_an_mp3_without_its_tags_is_the_same_sound(tmp_path: Path) -> None:
    """Nothing of the tag's picture is taken for a frame, and no frame beside it is lost."""
    one = mp3s()["with a length"]
    (tmp_path / "a.mp3").write_bytes(TAG + one + TAG + one)
    tagged, warnings = decode(tmp_path / "a.mp3")
    assert np.array_equal(tagged, decode(TAG + one + one)[0])
    size, start = len(TAG) + id3_size(one[:10]), len(TAG) + len(one)  # its own tag follows
    assert warnings == {"skipped_bytes": f"{size:,} bytes that are not audio were skipped: from byte {start:,}"}


def test_what_follows_a_word_that_looks_like_a_tag_is_kept() -> None:
    one = mp3s()["constant rate"]
    content = one + b"ID3\x07\0\0" + b"\xff" * 4 + one + b"ID3"
    assert len(decode(content)[0]) / SAMPLE_RATE == pytest.approx(2 * DURATION_S, abs=0.25)


@pytest.mark.parametrize(("container", "codec"), [("adts", "aac"), ("ac3", "ac3"), ("FLAC", "PCM_16")])
def test_foreign_bytes_between_other_frames_are_skipped(container: str, codec: str) -> None:
    rate = 48_000 if container == "ac3" else 16_000
    content = encode(clip(rate), rate, container, codec)
    waveform, _ = decode(content + FOREIGN["page"] + content)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(2 * DURATION_S, abs=0.25)


def test_more_noise_than_frames_is_damage() -> None:
    content = mp3s()["constant rate"]
    half = len(content) // 2
    joined = content[:half] + NOISE.bytes(len(content) * 3 // 2) + content[half:]
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(joined)
    waveform, warnings = decode(joined, salvage=True)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(DURATION_S, abs=0.3) and "missing_audio" in warnings


# --- chained Ogg


def ogg(rate: int, codec: str = "VORBIS", channels: int = 1) -> bytes:
    return encode(clip(rate, channels), rate, "OGG", codec)


@pytest.mark.parametrize("others", [[ogg(44_100)], [ogg(48_000, channels=2), ogg(8_000)], [ogg(48_000, "OPUS")]])
def test_links_of_an_ogg_may_differ_in_rate_channels_and_codec(others: list[bytes], tmp_path: Path) -> None:
    links = [ogg(16_000), *others]
    content = b"".join(links)
    (tmp_path / "chain.ogg").write_bytes(content)
    for source in (content, tmp_path / "chain.ogg"):
        waveform, warnings = decode(source)
        assert not warnings
        alone = np.concatenate([decode_audio(link) for link in links])
        assert len(waveform) == pytest.approx(len(alone), abs=2 * len(links))
        assert np.linalg.norm(waveform[: len(links[0])] - alone[: len(links[0])]) < 0.01


def test_foreign_bytes_between_links_are_skipped() -> None:
    waveform, warnings = decode(ogg(16_000) + FOREIGN["page"] + ogg(44_100) + FOREIGN["zeros"])
    assert len(waveform) / SAMPLE_RATE == pytest.approx(2 * DURATION_S, abs=0.1)
    assert list(warnings) == ["skipped_bytes"]


def test_an_ogg_without_its_first_sound_is_damaged() -> None:
    """Its clock begins later then, as if that were where it was cut."""
    content = bytearray(_long_ogg())
    pages = [i for i in range(len(content)) if content[i : i + 4] == b"OggS"]
    first = pages[2]  # after the headers
    content[first : pages[3]] = bytes(pages[3] - first)
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(bytes(content))


def test_a_page_with_a_wrong_checksum_is_damaged() -> None:
    """FFmpeg passes over it without a word."""
    content = bytearray(_long_ogg())
    middle = content.index(b"OggS", len(content) // 2) + 2_000
    content[middle : middle + 40] = NOISE.bytes(40)
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(bytes(content))


def test_an_ogg_that_is_cut_off_in_a_page_says_so() -> None:
    content = _long_ogg()
    assert not decode(content)[1]
    _, warnings = decode(content[: len(content) * 6 // 10])
    assert "cut off in its last page" in warnings["missing_audio"]


def _long_ogg() -> bytes:
    noise = (NOISE.standard_normal(20 * 16_000) * 0.1).astype(np.float32)
    return encode(noise, 16_000, "OGG", "VORBIS")


# --- a file of some ranges of another


def test_a_splice_reads_like_a_file() -> None:
    content = bytes(range(200))
    ranges = [range(10, 20), range(20, 20), range(50, 51), range(60, 160)]
    expected = io.BytesIO(b"".join(content[each.start : each.stop] for each in ranges))
    splice = io.BufferedReader(Splice(io.BytesIO(content), ranges))
    for offset, whence, size in [(0, 0, 5), (3, 1, 4), (-10, 2, 50), (0, 0, -1), (11, 0, 1), (500, 0, 3), (0, 2, 1)]:
        assert splice.seek(offset, whence) == expected.seek(offset, whence)
        assert splice.read(size) == expected.read(size) and splice.tell() == expected.tell()
