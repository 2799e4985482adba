"""Inputs that no engine can transcribe: each must give an AudioError, and soon, whatever passes it in.

A case's source stands for one item of a list: expand_inputs([case.source for case in cases]).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import audio_clips


@dataclass(frozen=True, slots=True)
class HostileCase:
    name: str
    source: object


def hostile_inputs(directory: Path) -> list[HostileCase]:
    """Make the files in `directory`, which must be empty, and return all cases."""
    contents = _not_audio() | _truncated() | _forged_wav() | _unusable_samples()
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    files = [HostileCase(name, directory / name) for name in contents]
    in_memory = [HostileCase(f"bytes of {name}", content) for name, content in contents.items()]
    return files + in_memory + _special_files(directory) + _urls() + _objects()


def _not_audio() -> dict[str, bytes]:
    noise = np.random.default_rng(0)
    return {
        "empty.wav": b"",
        "one_byte.wav": b"R",
        "noise.mp3": noise.bytes(20_000),
        "long_noise.wav": noise.bytes(300_000),
        "text.wav": "这不是音频。 This is not audio.\n".encode() * 100,
        "page.mp3": b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>",
        "picture.wav": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(1000),
        "zeros.wav": bytes(100_000),
        "archive.wav": b"PK\x03\x04" + noise.bytes(5_000),
        "playlist.wav": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "script.wav": b"ffconcat version 1.0\nfile 'file:/etc/passwd'\n",
        "sync_words.mp3": b"\xff\xfb\x90\x00" * 5_000,
        "video_only.mp4": audio_clips.silent_video(),
        "unknown_codec.caf": audio_clips.encode(audio_clips.sweep(1.0, 16_000), 16_000, "CAF", "PCM_16").replace(
            b"lpcm", b"what"
        ),
    }


def _truncated() -> dict[str, bytes]:
    sweep = audio_clips.sweep(3.0, 16_000)
    whole = {suffix: audio_clips.encode(sweep, 16_000, *how) for suffix, how in audio_clips.COMMON_CONTAINERS.items()}
    flac, mp3 = whole["flac"], whole["mp3"]
    return {f"half.{suffix}": content[: len(content) // 2] for suffix, content in whole.items()} | {
        "hole.flac": flac[: len(flac) // 3] + bytes(len(flac) // 3) + flac[2 * len(flac) // 3 :],
        "second_half_zeros.mp3": mp3[: len(mp3) // 2] + bytes(len(mp3) // 2),
        "promises_more.flac": audio_clips.flac_with_total(flac, 100_000),
        "promises_49_days.flac": audio_clips.flac_with_total(flac, 2**36 - 1),
    }


def _forged_wav() -> dict[str, bytes]:
    pcm = bytes(32_000)
    header = audio_clips.wav_header
    return {
        "header_only.wav": header(data_length=96_000),
        "header_cut.wav": header(data_length=96_000)[:30],
        "no_samples.wav": header(data_length=0),
        "one_sample.wav": header(data_length=2) + b"\x01\x02",
        "half_a_sample.wav": header(data_length=1) + b"\x01",
        "promises_more.wav": header(data_length=200_000) + pcm,
        "rate_0.wav": header(data_length=32_000, sample_rate=0) + pcm,
        "rate_1.wav": header(data_length=32_000, sample_rate=1) + pcm,
        "rate_4_ghz.wav": header(data_length=32_000, sample_rate=2**32 - 1) + pcm,
        "channels_0.wav": header(data_length=32_000, channels=0) + pcm,
        "channels_65535.wav": header(data_length=32_000, channels=65_535) + pcm,
        "negative_chunk.wav": b"RIFF\x24\0\0\0WAVEfmt \xf0\xff\xff\xff" + pcm,
        "empty_chunks.wav": b"RIFF\xff\xff\xff\x7fWAVE" + b"junk\0\0\0\0" * 100_000,
    }


def _unusable_samples() -> dict[str, bytes]:
    samples = audio_clips.sweep(1.0, 16_000)
    nan, infinite, huge = samples.copy(), samples.copy(), samples / audio_clips.SWEEP_LEVEL * np.float32(3.4e38)
    nan[7], infinite[[3, 9]] = np.nan, -np.inf
    return {
        "nan.wav": audio_clips.encode(nan, 16_000, "WAV", "FLOAT"),
        "infinite.wav": audio_clips.encode(infinite, 16_000, "WAV", "FLOAT"),
        "huge.wav": audio_clips.encode(huge, 44_100, "WAV", "FLOAT"),  # infinite once resampled
    }


def _special_files(directory: Path) -> list[HostileCase]:
    (directory / "folder.wav").mkdir()
    (directory / "broken_link.wav").symlink_to(directory / "nowhere")
    (directory / "loop.wav").symlink_to(directory / "loop.wav")
    os.mkfifo(directory / "fifo.wav")
    with (directory / "sparse.wav").open("wb") as file:
        file.truncate(5 << 30)
    names = ["folder.wav", "broken_link.wav", "loop.wav", "fifo.wav", "sparse.wav", "missing.wav"]
    cases = [HostileCase(name, directory / name) for name in names]
    cases += [HostileCase("as str", str(directory / "missing.wav")), HostileCase("/dev/zero", "/dev/zero")]
    cases += [HostileCase("NUL in path", "a\0b.wav"), HostileCase("surrogate in path", "\ud800.wav")]
    return [*cases, HostileCase("long path", "x" * 5_000), HostileCase("/proc/self/mem", "/proc/self/mem")]


def _urls() -> list[HostileCase]:
    urls = {
        "connection refused": "http://127.0.0.1:1/a.wav",
        "no host": "http:///a.wav",
        "host that IDNA refuses": "http://xn--/a.wav",
        "file URL": "file:///etc/passwd",
        "unknown scheme": "s3://bucket/a.wav",
        "data URL: no comma": "data:audio/wav;base64",
        "data URL: not base64": "data:audio/wav;base64,@@@@",
        "data URL: wrong padding": "data:audio/wav;base64,QUJDR",
        "data URL: empty": "data:,",
        "data URL: text": "data:text/plain,hello%20world",
        "data URL: surrogate": "data:,\ud800",
    }
    return [HostileCase(name, url) for name, url in urls.items()]


def _objects() -> list[HostileCase]:
    one_second = np.zeros(16_000, np.float32)
    objects: dict[str, object] = {
        "None": None,
        "number": 42,
        "dict": {"source": "a.wav"},
        "object": object(),
        "set": {"a.wav"},
        "nested list": ["a.wav"],
        "tuple: empty": (),
        "tuple of paths": ("a.wav", "b.wav"),
        "tuple: key and path": ("a", "a.wav", 16_000),
        "tuple: four": ("a", one_second, 16_000, "中文"),
        "tuple: rate as text": ("a", one_second, "16000"),
        "tuple: rate None": (one_second, None),
        "tuple: rate NaN": (one_second, float("nan")),
        "tuple: rate 0": (one_second, 0),
        "tuple: rate 4 GHz": (one_second, 2**32),
        "tuple: rate True": (one_second, True),
        "array: no samples": np.zeros(0, np.float32),
        "array: no dimension": np.zeros((), np.float32),
        "array: 3-D": np.zeros((1, 2, 16_000), np.float32),
        "array: (N, channels)": np.zeros((16_000, 2), np.float32),
        "array: (0, N)": np.zeros((0, 16_000), np.float32),
        "array: complex": np.zeros(16_000, np.complex64),
        "array: bool": np.zeros(16_000, np.bool_),
        "array: int64": np.zeros(16_000, np.int64),
        "array: text": np.array(["a.wav", "b.wav"]),
        "array: objects": np.array([0.0, None, "a"], dtype=object),
        "array: NaN": np.full(16_000, np.nan, np.float32),
        "array: infinite as float32": np.full(16_000, 1e300),
    }
    return [HostileCase(name, value) for name, value in objects.items()]
