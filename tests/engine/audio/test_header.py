"""decode_audio and lengths: what a file promises, and what it holds."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from tests import audio_clips
from tests.audio_clips import DURATION_S, EXACT, assert_is_sweep, clip, encode, flac_with_total, wav_header
from twostage_asr.engine.audio.decode import SAMPLE_RATE, decode_audio
from twostage_asr.engine.audio.header import num_missing_in_w64
from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.errors import UnsupportedAudioError


def data_length(length: int) -> bytes:
    pcm = (clip() * 32767).astype("<i2").tobytes()
    return wav_header(data_length=length) + pcm


@pytest.mark.parametrize("length", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF])
def test_wav_from_a_pipe_is_read_to_the_end(length: int) -> None:
    assert_is_sweep(decode_audio(data_length(length)), max_error=EXACT[0])


@pytest.mark.parametrize("cut_s", [0.0, 0.2, 0.3, 1.9])
def test_wav_may_miss_a_quarter_of_a_second(cut_s: float) -> None:
    content = data_length(64_000)
    content = content[: len(content) - round(cut_s * 32_000)]
    if cut_s <= 0.25:
        assert len(decode_audio(content)) == round((DURATION_S - cut_s) * SAMPLE_RATE)
    else:
        with pytest.raises(UnsupportedAudioError, match="truncated"):
            decode_audio(content)


def test_wav_may_hold_chunks_around_its_data() -> None:
    pcm = (clip() * 32767).astype("<i2").tobytes()
    header = wav_header(data_length=len(pcm))
    odd_chunk = b"LIST\x03\0\0\0abc\0"
    content = header[:36] + odd_chunk + header[36:] + pcm
    assert_is_sweep(decode_audio(content + odd_chunk), max_error=EXACT[0])
    with pytest.raises(UnsupportedAudioError, match="truncated"):
        decode_audio(content[: len(content) // 2])


PCM = (clip() * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("header", "surplus"),
    [
        (wav_header(data_length=len(PCM) // 2), PCM[len(PCM) // 2 :]),  # the length was never brought up to date
        (wav_header(data_length=len(PCM) // 2), wav_header(data_length=len(PCM)) + PCM),  # a second file
        (wav_header(data_length=len(PCM) // 2), b"LIST\x04\0\0\0INFOdata" + len(PCM).to_bytes(4, "little") + PCM),
    ],
)
def test_what_a_wav_holds_beyond_its_header_is_told(header: bytes, surplus: bytes, tmp_path: Path) -> None:
    content = header + PCM[: len(PCM) // 2] + surplus
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, tmp_path / "a.wav"):
        notes = Notes()
        assert len(decode_audio(source, notes=notes)) == len(PCM) // 4
        (warning,) = notes.warnings()
        assert warning.code == "trailing_audio" and "read to 1.00 s, where it ends by its header" in warning.message


@pytest.mark.parametrize("tail", [b"LIST\x04\0\0\0INFO", b"id3 \x02\0\0\0xx" * 3, bytes(512), b"x"])
@pytest.mark.parametrize("length", [len(PCM), len(PCM) - 1])
def test_chunks_and_padding_behind_the_data_are_no_audio(tail: bytes, length: int) -> None:
    notes = Notes()
    decode_audio(wav_header(data_length=length) + PCM[:length] + b"\0" * (length % 2) + tail, notes=notes)
    assert not notes.warnings()


@pytest.mark.parametrize("length", [0, 0xFFFF_FFFF])
def test_a_streamed_wav_has_nothing_beyond_its_header(length: int) -> None:
    notes = Notes()
    decode_audio(wav_header(data_length=length) + PCM, notes=notes)
    assert not notes.warnings()


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("webm", "libopus")),
        *(("CAF", "PCM_16"), ("CAF", "ULAW"), ("W64", "PCM_16"), ("w64", "adpcm_ms")),
        *(("avi", "pcm_s16le"), ("avi", "libmp3lame"), ("flv", "aac")),
    ],
)
def test_what_is_left_of_a_truncated_file_can_be_salvaged(container: str, codec: str) -> None:
    content = encode(clip(48_000), 48_000, container, codec)
    content = content[: len(content) * 7 // 10]
    with pytest.raises(UnsupportedAudioError, match="truncated"):
        decode_audio(content)
    notes = Notes()
    waveform = decode_audio(content, salvage=True, notes=notes)
    assert 0.5 * DURATION_S < len(waveform) / SAMPLE_RATE < 0.8 * DURATION_S
    assert "missing_audio" in [warning.code for warning in notes.warnings()]
    assert " of 2.0" in notes.warnings()[0].message  # s


def test_nothing_can_be_salvaged_of_nothing() -> None:
    for content in (b"not audio", wav_header(data_length=96_000), encode(clip(), 16_000, "mp4", "aac")[:2_000]):
        with pytest.raises(UnsupportedAudioError):
            decode_audio(content, salvage=True)


@pytest.mark.parametrize("length", [0, 24, (1 << 63) - 1])
def test_a_streamed_w64_promises_nothing(length: int) -> None:
    content = encode(clip(), 16_000, "W64", "PCM_16")
    place = content.index(b"data\xf3\xac") + 16
    streamed = content[:place] + struct.pack("<Q", length) + content[place + 8 :]
    assert num_missing_in_w64(io.BytesIO(streamed[: len(content) // 2])) == 0


@pytest.mark.parametrize("length", [0, 0xFFFF_FFFF])
def test_a_streamed_avi_promises_nothing(length: int) -> None:
    content = encode(clip(), 16_000, "avi", "pcm_s16le")
    place = content.index(b"auds") + 32
    streamed = content[:place] + struct.pack("<I", length) + content[place + 4 :]
    assert len(decode_audio(streamed[: len(content) // 2])) > 0


def test_a_whole_avi_with_a_wrong_length_is_whole() -> None:
    content = encode(clip(), 16_000, "avi", "pcm_s16le")
    place = content.index(b"auds") + 32
    (length,) = struct.unpack_from("<I", content, place)
    decode_audio(content[:place] + struct.pack("<I", 2 * length) + content[place + 4 :])


def test_rf64_keeps_its_promise() -> None:
    content = encode(clip(), 16_000, "RF64", "PCM_16")
    with pytest.raises(UnsupportedAudioError, match="truncated"):
        decode_audio(content[: len(content) // 2])


def test_big_endian_wav() -> None:
    pcm = (clip() * 32767).astype(">i2").tobytes()
    form = struct.pack(">HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    header = b"RIFX" + struct.pack(">I", 36 + len(pcm)) + b"WAVEfmt " + struct.pack(">I", 16) + form
    header += b"data" + struct.pack(">I", len(pcm))
    assert_is_sweep(decode_audio(header + pcm), max_error=EXACT[0])
    with pytest.raises(UnsupportedAudioError, match="truncated"):
        decode_audio(header + pcm[: len(pcm) // 2])


def vbr_mp3(*, with_length: bool) -> bytes:
    """Near silence, then a sweep: by the bit rate of the silence the file seems far longer, by libsndfile shorter."""
    samples = np.concatenate([np.zeros(44_100, np.float32), clip(44_100)])
    return audio_clips.encode_vbr_mp3(samples, 44_100, with_length=with_length)


@pytest.mark.parametrize("with_length", [True, False])
def test_vbr_mp3_is_whole(with_length: bool) -> None:
    assert len(decode_audio(vbr_mp3(with_length=with_length))) / SAMPLE_RATE == pytest.approx(3.0, abs=0.06)


def test_truncated_mp3_with_a_length_is_an_error() -> None:
    content = vbr_mp3(with_length=True)
    with pytest.raises(UnsupportedAudioError, match=r"truncated or damaged: \d\.\d\d s of 3\.00 s"):
        decode_audio(content[: len(content) * 2 // 3])


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"LYRICSBEGIN" + b"la la " * 20, bytes(200)])
def test_mp3_may_end_in_tags(tail: bytes) -> None:
    content = encode(clip(), 16_000, "MP3", "MPEG_LAYER_III")
    assert len(decode_audio(content + tail)) / SAMPLE_RATE == pytest.approx(DURATION_S, abs=0.05)


@pytest.mark.parametrize(("container", "codec"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("ogg", "libopus")])
def test_joined_files_are_read_to_the_end(container: str, codec: str) -> None:
    one = encode(clip(), 16_000, container, codec)
    assert len(decode_audio(one * 3)) / SAMPLE_RATE == pytest.approx(3 * DURATION_S, abs=0.4)


@pytest.mark.parametrize("total", [0, 1_000, 32_000])
def test_flac_of_unknown_or_understated_length_is_whole(total: int) -> None:
    content = flac_with_total(encode(clip(), 16_000, "FLAC", "PCM_16"), total)
    assert_is_sweep(decode_audio(content), max_error=EXACT[0])


def test_a_little_damage_is_forgiven_and_more_is_not() -> None:
    content = bytearray(encode(clip(44_100), 44_100, "mp4", "aac"))
    middle = content.index(b"mdat") + 8_000
    noise = np.random.default_rng(0).bytes(6_000)
    content[middle : middle + 40] = noise[:40]
    assert len(decode_audio(bytes(content))) / SAMPLE_RATE == pytest.approx(DURATION_S, abs=0.2)
    content[middle : middle + 6_000] = noise
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(bytes(content))


def test_what_does_not_decode_counts_as_lost_where_no_length_is_promised() -> None:
    content = encode(clip(), 16_000, "mp3", "libmp3lame")
    half = len(content) // 2
    assert len(decode_audio(content[:half])) / SAMPLE_RATE == pytest.approx(DURATION_S / 2, abs=0.1)
    with pytest.raises(UnsupportedAudioError, match="truncated or damaged"):
        decode_audio(content[:half] + np.random.default_rng(0).bytes(half))


@pytest.mark.parametrize(("container", "codec"), [("FLAC", "PCM_16"), ("adts", "aac")])
def test_joined_files_may_have_rates_of_their_own(container: str, codec: str) -> None:
    joined = encode(clip(), 16_000, container, codec) + encode(clip(44_100), 44_100, container, codec)
    assert len(decode_audio(joined)) / SAMPLE_RATE == pytest.approx(2 * DURATION_S, abs=0.2)
