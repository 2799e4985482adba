"""decode_audio and as_waveform: every format gives the same sweep; what cannot be right is an AudioError."""

import os
import struct
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import audio_clips
from tests.audio_clips import DURATION_S, EXACT, LOSSY, assert_is_sweep, clip, encode, encode_video, flac_with_total
from tests.hostile import HostileCase, hostile_inputs
from twostage_asr.engine.audio.decode import (
    SAMPLE_RATE,
    AudioLimits,
    Waveform,
    as_waveform,
    decode_audio,
    decode_blocks,
)
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.errors import AudioError, AudioTooLongError, ConfigError, UnsupportedAudioError

# name -> (container, codec, sample rate, channels, tolerance, delay that the stream does not tell, s)
FORMATS = {
    "wav 16 kHz": ("WAV", "PCM_16", 16_000, 1, EXACT, 0.0),
    "wav 8 bit": ("WAV", "PCM_U8", 16_000, 1, (0.02, 0.0), 0.0),
    "wav 24 bit": ("WAV", "PCM_24", 16_000, 1, EXACT, 0.0),
    "wav 32 bit": ("WAV", "PCM_32", 16_000, 1, EXACT, 0.0),
    "wav float": ("WAV", "FLOAT", 16_000, 1, EXACT, 0.0),
    "wav double": ("WAV", "DOUBLE", 16_000, 1, EXACT, 0.0),
    "wav mu-law": ("WAV", "ULAW", 16_000, 1, (0.03, 0.0), 0.0),
    "wav adpcm": ("WAV", "MS_ADPCM", 16_000, 1, LOSSY, 0.0),
    "wav stereo": ("WAV", "PCM_16", 44_100, 2, EXACT, 0.0),
    "wav 6 channels": ("WAV", "PCM_24", 48_000, 6, EXACT, 0.0),
    "wav 8 kHz": ("WAV", "PCM_16", 8_000, 1, EXACT, 0.0),
    "wav 192 kHz": ("WAV", "PCM_16", 192_000, 1, EXACT, 0.0),
    "wav extensible": ("WAVEX", "PCM_24", 16_000, 2, EXACT, 0.0),
    "rf64": ("RF64", "PCM_16", 16_000, 1, EXACT, 0.0),
    "w64": ("W64", "PCM_16", 16_000, 1, EXACT, 0.0),
    "aiff": ("AIFF", "PCM_16", 16_000, 1, EXACT, 0.0),
    "au": ("AU", "PCM_16", 16_000, 2, EXACT, 0.0),
    "caf": ("CAF", "PCM_16", 16_000, 1, EXACT, 0.0),
    "flac": ("FLAC", "PCM_16", 16_000, 1, EXACT, 0.0),
    "flac 24 bit stereo": ("FLAC", "PCM_24", 48_000, 2, EXACT, 0.0),
    "mp3 with length": ("MP3", "MPEG_LAYER_III", 44_100, 1, LOSSY, 0.0),
    "mp3 without length": ("mp3", "libmp3lame", 16_000, 2, LOSSY, 1105 / 16_000),
    "ogg vorbis": ("OGG", "VORBIS", 44_100, 2, LOSSY, 0.0),
    "ogg opus": ("ogg", "libopus", 16_000, 1, LOSSY, 0.0),
    "webm opus": ("webm", "libopus", 16_000, 2, LOSSY, 0.0),
    "m4a aac": ("mp4", "aac", 44_100, 1, LOSSY, 0.0),
    "m4a aac 8 kHz": ("mp4", "aac", 8_000, 1, LOSSY, 0.0),
    "m4a aac 6 channels": ("mp4", "aac", 48_000, 6, (0.25, 0.1), 0.0),  # one channel is for low frequencies
    "mkv aac 8 channels": ("matroska", "aac", 48_000, 8, (0.25, 0.1), 0.0),
    "mkv flac 8 channels": ("matroska", "flac", 48_000, 8, EXACT, 0.0),
    "w64 64 bit": ("w64", "pcm_s64le", 16_000, 1, EXACT, 0.0),
    "m4a alac": ("mp4", "alac", 44_100, 2, EXACT, 0.0),
    "aac adts": ("adts", "aac", 44_100, 1, LOSSY, 1024 / 44_100),
    "mpeg ts": ("mpegts", "aac", 44_100, 1, LOSSY, 1024 / 44_100),
    "mkv pcm": ("matroska", "pcm_s16le", 16_000, 1, EXACT, 0.0),
    "wavpack": ("wv", "wavpack", 16_000, 1, (0.01, 0.0), 0.0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_sweep(name: str) -> None:
    container, codec, sample_rate, channels, (max_error, max_extra_s), delay_s = FORMATS[name]
    waveform = decode_audio(encode(clip(sample_rate, channels), sample_rate, container, codec))
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and waveform.flags.c_contiguous
    assert DURATION_S - 1e-3 <= len(waveform) / SAMPLE_RATE <= DURATION_S + max_extra_s + delay_s
    assert_is_sweep(waveform, max_error=max_error, delay_s=delay_s)


def test_the_sound_of_a_video() -> None:
    assert_is_sweep(decode_audio(encode_video(clip(44_100), 44_100)), max_error=LOSSY[0])


def test_file_and_bytes_give_the_same(tmp_path: Path) -> None:
    for name, (container, codec, sample_rate, channels, _, _) in FORMATS.items():
        content = encode(clip(sample_rate, channels), sample_rate, container, codec)
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(decode_audio(tmp_path / name), decode_audio(content)), name


@pytest.mark.parametrize("length", [0, 1, 2, 3, 3199, 3200, 3201, 30_000, 0x7FFF0000, 0xFFFFFFFF])
@pytest.mark.parametrize("tail", [b"", b"x", b"LIST\4\0\0\0INFO"])
def test_speech_in_memory_is_read_like_a_file_whatever_its_header_says(
    length: int, tail: bytes, tmp_path: Path
) -> None:
    content = bytearray(encode(clip()[:1600], 16_000, "WAV", "PCM_16") + tail)
    struct.pack_into("<I", content, 40, length)
    (tmp_path / "a.wav").write_bytes(content)
    found: list[Waveform | str] = []
    for source in (tmp_path / "a.wav", bytes(content)):
        try:
            found.append(decode_audio(source, name="it"))
        except AudioError as error:
            found.append(str(error))
    assert np.array_equal(*found)


@pytest.mark.parametrize(("subtype", "dtype", "scale"), [("PCM_16", "<i2", 2**15), ("PCM_32", "<i4", 2**31)])
def test_integer_scaling_is_exact(subtype: str, dtype: str, scale: int) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.min + 1, -1, 0, 1, 2**10, info.max], dtype)
    content = encode(values, 16_000, "WAV", subtype)
    expected = (values.astype(np.float64) / scale).astype(np.float32)
    assert np.array_equal(decode_audio(content), expected)
    assert np.array_equal(as_waveform(values, 16_000), expected)


def test_values_beyond_one_are_kept() -> None:
    samples = np.array([0.0, 3.5, -7.25, 0.5], np.float32)
    assert np.array_equal(decode_audio(encode(samples, 16_000, "WAV", "FLOAT")), samples)


def test_blocks_give_what_one_piece_gives() -> None:
    """140 s at 44.1 kHz is six blocks, resampled as a stream."""
    samples = (np.random.default_rng(0).standard_normal(44_100 * 140) * 0.1).astype(np.float32)
    content = encode(samples, 44_100, "WAV", "FLOAT")
    whole = soxr.resample(samples, 44_100, SAMPLE_RATE, quality="HQ")
    assert np.array_equal(decode_audio(content), whole)
    *blocks, last = decode_blocks(content)
    assert np.array_equal(np.concatenate([*blocks, last]), whole)
    assert blocks and min(map(len, blocks)) >= 1 << 18  # a consumer's work per block is not small


# --- limits


@pytest.mark.parametrize(
    ("container", "codec"),
    [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("mp3", "libmp3lame"), ("MP3", "MPEG_LAYER_III"), ("adts", "aac")],
)
def test_longer_than_the_limit(container: str, codec: str) -> None:
    content = encode(clip(), 16_000, container, codec)
    assert len(decode_audio(content, limits=AudioLimits(max_duration_s=2.2)))
    with pytest.raises(AudioTooLongError, match=r"at most 1\.9 s"):
        decode_audio(content, limits=AudioLimits(max_duration_s=1.9))


def test_more_bytes_than_the_limit(tmp_path: Path) -> None:
    content = encode(clip(), 16_000, "WAV", "PCM_16")
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, tmp_path / "a.wav"):
        assert len(decode_audio(source, limits=AudioLimits(max_bytes=len(content))))
        with pytest.raises(AudioTooLongError, match="64,044 bytes"):
            decode_audio(source, limits=AudioLimits(max_bytes=len(content) - 1))


@pytest.mark.parametrize(
    "limits", [{"max_duration_s": 0.0}, {"max_bytes": 0}, {"min_sample_rate": 0}, {"max_sample_rate": 999}]
)
def test_limits_that_allow_nothing_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        AudioLimits(**limits)


def test_bombs_are_defused_in_bounded_memory(tmp_path: Path) -> None:
    """An hour each against a limit of 10 s, and an MP3 whose cover picture takes 430 MB; none may take 50 MB."""
    hour = np.zeros(3600 * 8_000, np.float32)
    flac = encode(hour, 8_000, "FLAC", "PCM_16")
    ogg = encode(hour[: 20 * 8_000], 8_000, "OGG", "VORBIS")
    mp3 = encode(hour[: 8_000 * 60], 8_000, "mp3", "libmp3lame")
    bombs = {
        "flac": flac,
        "unknown.flac": flac_with_total(flac, 0),
        "chained.ogg": ogg * 180,
        "joined.mp3": mp3 * 60,
        "cover.mp3": audio_clips.id3_with_cover(audio_clips.png(12_000, 12_000)) + mp3,
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 1_000_000 * (12 if name == "joined.mp3" else 1), name
    script = """
        import re, sys
        from pathlib import Path
        from twostage_asr.engine.audio.decode import AudioLimits, decode_audio
        from twostage_asr.engine.errors import AudioTooLongError
        limits = AudioLimits(max_duration_s=10.0)
        # getrusage() would count this process's parent as well, up to the start of Python.
        peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024  # MiB
        before = peak()
        for path in sys.argv[1:]:
            try:
                decode_audio(Path(path), limits=limits)
            except AudioTooLongError:
                print(path, peak() - before)
    """
    paths = [str(tmp_path / name) for name in bombs]
    command = [sys.executable, "-c", textwrap.dedent(script), *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.splitlines()
    assert [line.split()[0] for line in lines] == paths  # each was refused
    assert all(int(line.split()[1]) < 50 for line in lines), lines


# --- arrays and tensors


def test_a_waveform_comes_back_without_a_copy() -> None:
    for samples in (clip(), np.zeros(3 << 20, np.float32)):
        assert np.shares_memory(as_waveform(samples, SAMPLE_RATE), samples)
        assert np.shares_memory(as_waveform(samples[None], SAMPLE_RATE), samples)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", ">i2", "int32", "uint8"])
def test_dtypes_and_layouts_agree(dtype: str) -> None:
    kind = np.dtype(dtype)
    samples = clip(channels=2)
    if kind.kind in "iu":
        offset, scale = (128, 128) if kind == np.uint8 else (0, 2.0 ** (8 * kind.itemsize - 1))
        samples = np.round(samples.astype(np.float64) * (scale - 1) + offset)
    stereo = samples.astype(kind)
    for array in (stereo, np.asfortranarray(stereo), torch.from_numpy(stereo.astype(kind.newbyteorder("=")))):
        waveform = as_waveform(array, 16_000)
        assert waveform.dtype == np.float32 and waveform.flags.c_contiguous
        assert_is_sweep(waveform, max_error=0.01 if kind.itemsize == 1 else 0.001)


def test_tensors_of_any_kind() -> None:
    tensor = torch.from_numpy(clip())
    assert_is_sweep(as_waveform(tensor.clone().requires_grad_(), 16_000), max_error=EXACT[0])
    for refused in (tensor.bfloat16(), tensor.to_sparse(), tensor.to("meta"), (tensor * 1j).conj(), tensor > 0):
        with pytest.raises(UnsupportedAudioError):
            as_waveform(refused, 16_000)


def test_strided_samples_become_contiguous() -> None:
    waveform = as_waveform(np.repeat(clip(), 2)[::2], 16_000)
    assert waveform.flags.c_contiguous and np.array_equal(waveform, clip())


def test_samples_are_left_as_they_were() -> None:
    samples = clip(44_100, 2)
    before = samples.copy()
    as_waveform(samples, 44_100)
    assert np.array_equal(samples, before)


def test_array_limits() -> None:
    with pytest.raises(AudioTooLongError):
        as_waveform(clip(), 16_000, limits=AudioLimits(max_duration_s=1.0))


# --- what cannot be transcribed


@pytest.fixture(scope="module")
def hostile_cases(tmp_path_factory: pytest.TempPathFactory) -> list[HostileCase]:
    return hostile_inputs(tmp_path_factory.mktemp("hostile"))


def test_every_hostile_input_is_an_audio_error(
    hostile_cases: list[HostileCase], capfd: pytest.CaptureFixture[str]
) -> None:
    assert len({case.name for case in hostile_cases}) == len(hostile_cases) > 100
    items = expand_inputs([case.source for case in hostile_cases])
    assert len(items) == len(hostile_cases)
    unrefused = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case, item in zip(hostile_cases, items, strict=True):
            try:
                load(item)
                unrefused.append(case.name)
            except AudioError as error:
                assert str(error)
    assert not unrefused
    assert capfd.readouterr() == ("", "")  # no decoder prints


def test_mp3_in_wav_goes_to_the_decoder_that_does_not_print(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encode(clip(), 16_000, "wav", "libmp3lame"))
    assert len(decode_audio(bytes(content))) / SAMPLE_RATE == pytest.approx(DURATION_S, abs=0.1)
    content[5_000:5_500] = b"\xff\xfb\x00\x55" * 125  # libsndfile's decoder writes 400 lines about that
    assert len(decode_audio(bytes(content))) / SAMPLE_RATE > DURATION_S - 0.3
    assert capfd.readouterr() == ("", "")


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    with pytest.raises(UnsupportedAudioError, match=r"talk\.wav: No such file"):
        decode_audio(path)
    path.write_bytes(encode(np.array([0, np.nan, np.inf, 0], np.float32), 16_000, "WAV", "FLOAT"))
    with pytest.raises(UnsupportedAudioError, match=r"talk\.wav: 2 of 4 samples are NaN or infinite"):
        decode_audio(path)
    os.mkfifo(tmp_path / "fifo.wav")
    for special in (tmp_path / "fifo.wav", Path("/dev/zero")):
        with pytest.raises(UnsupportedAudioError, match="not a regular file"):
            decode_audio(special)
    with pytest.raises(UnsupportedAudioError, match=r"^upload 7: "):
        decode_audio(b"not audio", name="upload 7")


def test_playlists_do_not_open_other_files(tmp_path: Path) -> None:
    """FFmpeg would: a client could have any file of this machine transcribed, or any address fetched."""
    (tmp_path / "secret.ts").write_bytes(encode(clip(), 16_000, "mpegts", "aac"))
    playlists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UnsupportedAudioError, match="not audio that can be read here"):
            decode_audio(tmp_path / name)


def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encode(clip(), 16_000, "WAV", "PCM_16"))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # root may read every file; nobody may not
    try:
        with pytest.raises(UnsupportedAudioError, match="Permission denied"):
            decode_audio(path)
    finally:
        os.seteuid(user)


WHOLE = {name: encode(clip(how[2], how[3]), how[2], how[0], how[1]) for name, how in FORMATS.items()}


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_files_decode_or_give_an_audio_error(data: st.DataObject) -> None:
    content = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content) - 1, 400)) | st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=16))
        content[at : at + len(patch)] = patch
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    try:
        waveform = decode_audio(bytes(content), limits=AudioLimits(max_duration_s=60.0))
    except AudioError:
        return
    assert waveform.dtype == np.float32 and np.isfinite(waveform).all()
    assert 2 <= len(waveform) <= 60 * SAMPLE_RATE + 1


# --- threads and files


def test_threads_give_the_same_as_one_after_another() -> None:
    contents = list(WHOLE.values())
    expected = [decode_audio(content) for content in contents]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decode_audio, contents * 3))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 3, strict=True))


def test_no_file_stays_open(tmp_path: Path, hostile_cases: list[HostileCase]) -> None:
    for name, content in WHOLE.items():
        (tmp_path / name).write_bytes(content)
        decode_audio(tmp_path / name)
    before = len(os.listdir("/proc/self/fd"))
    for item in expand_inputs([*tmp_path.iterdir(), *(c.source for c in hostile_cases if isinstance(c.source, Path))]):
        try:
            load(item)
        except AudioError as error:
            del error
    assert len(os.listdir("/proc/self/fd")) == before
