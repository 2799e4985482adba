"""Audio files made on the spot: encode() knows every container and codec that the tests need."""

import functools
import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

FloatArray = npt.NDArray[np.float32]

SWEEP_LEVEL = 0.5
DURATION_S = 2.0
EXACT, LOSSY = (3e-4, 1e-3), (0.1, 0.1)  # relative error (a delay of one sample: 0.6), seconds added at the end
_RATE = 16_000  # Hz, of what decoding gives


# Containers by their suffix, as encode() names them: libsndfile's in capitals, FFmpeg's in small letters.
COMMON_CONTAINERS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "m4a": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
    "aiff": ("AIFF", "PCM_16"),
}


def sweep(duration_s: float, sample_rate: int) -> FloatArray:
    """(N,) sine from 200 to 3,000 Hz, amplitude SWEEP_LEVEL: any delay, gain or loss of samples shows."""
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    phase = 2 * np.pi * (200 * time_s + 1400 / duration_s * time_s**2)
    return (SWEEP_LEVEL * np.sin(phase)).astype(np.float32)


def clip(sample_rate: int = 16_000, channels: int = 1) -> FloatArray:
    """A sweep whose channels differ, but have the sweep as their mean."""
    gains = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)
    samples = (gains[:, None] * sweep(DURATION_S, sample_rate)).astype(np.float32)
    return samples if channels > 1 else samples[0]


def assert_is_sweep(waveform: FloatArray, *, max_error: float, delay_s: float = 0.0) -> None:
    """Aligned to half a sample, at the right level: the difference to the sweep is small against the sweep."""
    fine = soxr.resample(waveform, _RATE, 8 * _RATE)  # delays of other rates are fractions of our samples
    start = round(delay_s * 8 * _RATE)
    expected = sweep(DURATION_S, _RATE)
    inner = slice(800, -800)  # encoders and resamplers ring at the ends
    got = fine[start::8][: len(expected)][inner]
    assert np.linalg.norm(got - expected[inner]) <= max_error * np.linalg.norm(expected[inner])


def encode(samples: FloatArray, sample_rate: int, container: str, codec: str) -> bytes:
    """(N,) or (channels, N) -> a file. Names in capitals are libsndfile's (WAV, PCM_16), others FFmpeg's (mp4, aac)."""
    file = io.BytesIO()
    if container.isupper():
        with soundfile.SoundFile(
            file, "w", sample_rate, samples.shape[0] if samples.ndim == 2 else 1, codec, format=container
        ) as sink:
            for start in range(0, samples.shape[-1], 4096):  # libsndfile's Vorbis encoder overruns its stack on more
                sink.write(samples.T[start : start + 4096])
    else:
        _encode_with_ffmpeg(file, np.atleast_2d(samples), sample_rate, container, codec, has_picture=False)
    return file.getvalue()


def encode_video(samples: FloatArray, sample_rate: int) -> bytes:
    """An MP4 with a video and an audio stream."""
    file = io.BytesIO()
    _encode_with_ffmpeg(file, np.atleast_2d(samples), sample_rate, "mp4", "aac", has_picture=True)
    return file.getvalue()


def silent_video() -> bytes:
    """An MP4 without an audio stream."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as sink:
        _mux_picture(sink)
    return file.getvalue()


def encode_vbr_mp3(samples: FloatArray, sample_rate: int, *, with_length: bool) -> bytes:
    """Variable bit rate; the Xing tag, which counts frames and bytes, can be left out."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"write_xing": str(int(with_length))}) as sink:
        stream = sink.add_stream("libmp3lame", rate=sample_rate, options={"flags": "+qscale", "global_quality": "590"})
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        converter = av.AudioResampler(format=stream.format, frame_size=stream.codec_context.frame_size)
        for piece in [*converter.resample(frame), *converter.resample(None)]:
            sink.mux(stream.encode(piece))
        sink.mux(stream.encode(None))
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """A black picture: a few hundred bytes for a million pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    body = b"".join([packer.compress(bytes(1 + 3 * width)) for _ in range(height)]) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def id3_with_cover(picture: bytes) -> bytes:
    """The tag that goes before an MP3."""
    body = b"\0image/png\0\x03\0" + picture

    def size(number: int) -> bytes:
        return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))

    return b"ID3\x04\0\0" + size(len(body) + 10) + b"APIC" + size(len(body)) + b"\0\0" + body


def _encode_with_ffmpeg(
    file: io.BytesIO, samples: FloatArray, sample_rate: int, container: str, codec: str, *, has_picture: bool
) -> None:
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(samples)]
    rate = 48_000 if codec == "libopus" else sample_rate
    options = {"write_xing": "0"} if codec == "libmp3lame" and container == "mp3" else {}
    with av.open(file, "w", format=container, options=options) as sink:
        stream = sink.add_stream(codec, rate=rate)
        stream.layout = layout
        if has_picture:
            _mux_picture(sink)
        resampled = soxr.resample(samples.T, sample_rate, rate).T if rate != sample_rate else samples
        interleaved = np.ascontiguousarray(resampled.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        converter = av.AudioResampler(format=stream.format, frame_size=stream.codec_context.frame_size or 0)
        for piece in [*converter.resample(frame), *converter.resample(None)]:
            sink.mux(stream.encode(piece))
        sink.mux(stream.encode(None))


def _mux_picture(sink: av.container.OutputContainer) -> None:
    video = sink.add_stream("mpeg4", rate=25)
    video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
    for _ in range(10):
        sink.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
    sink.mux(video.encode(None))


def wav_header(
    *, data_length: int, sample_rate: int = 16_000, channels: int = 1, byte_rate: int | None = None, riff: int = 36
) -> bytes:
    """The 44 bytes before 16-bit PCM, with whatever lies they should tell."""
    rate = sample_rate * channels * 2 & 0xFFFF_FFFF if byte_rate is None else byte_rate
    form = struct.pack("<HHIIHH", 1, channels, sample_rate, rate, channels * 2 & 0xFFFF, 16)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + data_length.to_bytes(4, "little")
    )


def flac_with_total(flac: bytes, total: int) -> bytes:
    """A FLAC file whose header says that it has `total` samples; 0 means unknown, as in streamed files."""
    field = int.from_bytes(flac[18:26], "big") >> 36 << 36 | total  # sample rate 20, channels 3, bits 5, samples 36
    return flac[:18] + field.to_bytes(8, "big") + flac[26:]


def encode_with_times(
    samples: FloatArray,
    sample_rate: int,
    container: str,
    codec: str,
    *,
    gaps: Sequence[tuple[float, float]] = (),
    delay_s: float = 0.0,
    jumps: Sequence[tuple[float, float]] = (),
    has_video: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """(N,) mono samples -> a file whose time stamps tell a story.

    Args:
        gaps: (from, to) seconds that have no packets.
        delay_s: when the first sample is heard.
        jumps: (at, by) seconds: from there on, all time stamps are so much later, or earlier by less than a packet.
        has_video: a video begins at time zero, and lasts as long as the audio.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as sink:
        packets = _video_packets(sink, container, delay_s + len(samples) / sample_rate) if has_video else []
        stream = sink.add_stream(codec, rate=sample_rate, layout="mono")
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        for start in range(0, len(samples) - size + 1, size):
            time_s = start / sample_rate
            if any(first <= time_s < last for first, last in gaps):
                continue
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
            (converted,) = av.AudioResampler(format=stream.format).resample(frame)
            late_s = delay_s + sum(by for at, by in jumps if time_s >= at)
            converted.pts, converted.time_base = start + round(late_s * sample_rate), frame.time_base
            packets += stream.encode(converted)
        packets += stream.encode(None)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)  # as muxers want them
        for packet in packets:
            sink.mux(packet)
    return file.getvalue()


def _video_packets(sink: av.container.OutputContainer, container: str, duration_s: float) -> list[av.Packet]:
    codec = {"flv": "flv1", "webm": "libvpx", "mpegts": "mpeg2video", "mpeg": "mpeg1video"}.get(container, "mpeg4")
    stream = sink.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    packets = []
    for index in range(round(duration_s * 25)):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index % 255, np.uint8), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


@functools.cache
def slow_to_decode() -> bytes:
    """Four hours of silence, 8 channels at 384 kHz, in 40 MB: they take 150 s of a processor at the least.

    That is more samples than AudioLimits allows by itself.
    """
    return encode(np.zeros((8, 384_000 * 20), np.float32), 384_000, "FLAC", "PCM_16") * 650
