"""Whatever FFmpeg reads -> blocks pushed into a Joiner; see audio.py for what counts as a complete file."""

import functools
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

import av
import numpy.typing as npt

from .audio_length import has_fitting_xing_tag
from .errors import UnsupportedAudioError
from .waveform import Joiner, mix

# FFmpeg's demuxers that may run. Playlists (hls, concat, dash) are not here: they open other files and addresses.
_FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
_FORMATS_WITH_LENGTH = {
    "aiff", "ape", "asf", "au", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "tta", "wv",
}  # fmt: skip
_FRAME_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}  # of FFmpeg, that PyAV makes arrays of; s64 it does not
_QUEUE_SAMPLES = 1 << 16  # of each channel, in pieces that FFmpeg's frames are joined to


def read_with_ffmpeg(file: BinaryIO, joiner: Joiner) -> Iterator[None]:
    """Push the samples of the audio stream that a player would choose, with a stop after each packet.

    Raises AudioError, FFmpegError or OSError.
    """
    is_counted = has_fitting_xing_tag(file)
    file.seek(0)
    # Only audio decoders may run: to probe a file, FFmpeg decodes pictures too, and a cover of 400 kB can take 400 MB.
    options = {"format_whitelist": _FORMATS, "codec_whitelist": _audio_decoders()}
    try:
        container = av.open(file, options=options, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        raise UnsupportedAudioError(
            f"{joiner.name}: not audio that can be read here, or cut off ({error.strerror}); known are {_FORMATS}"
        ) from error
    with container:
        stream = container.streams.best("audio")
        if stream is None:
            found = ", ".join(sorted({s.type or "unknown" for s in container.streams})) or "none"
            raise UnsupportedAudioError(f"{joiner.name}: has no audio stream (streams: {found})")
        if stream.codec_context is None:  # PyAV 18 crashes the process when asked to decode such a stream
            raise UnsupportedAudioError(f"{joiner.name}: its {container.format.name} audio codec is not known here")
        promised_s = _promised_s(container, stream, is_counted)
        joiner.require_duration(promised_s or 0.0)
        lost_s = yield from _push_packets(_packets(container, stream), joiner)
        joiner.require_complete(joiner.duration_s + lost_s if promised_s is None else promised_s)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV 18 stumbles, after our last packet, over streams that begin in the middle of a file
        return


def _push_packets(packets: Iterator[Any], joiner: Joiner) -> Generator[None, None, float]:
    """Push what decodes; return roughly how many seconds did not, judged by the bytes."""
    num_decoded, num_lost = 0, 0
    queue = _FrameQueue(joiner)
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # as players do; the caller decides whether too much was lost
            num_lost += packet.size
            continue
        num_decoded += packet.size
        for frame in frames:
            queue.push(frame)
        yield
    queue.flush()
    return joiner.duration_s * num_lost / max(num_decoded, 1)


class _FrameQueue:
    """Hands FFmpeg's frames of 20 to 90 ms on in large pieces; work in Python per frame costs as much as decoding."""

    def __init__(self, joiner: Joiner) -> None:
        self._joiner = joiner
        self._format = (0, 0, "")  # sample rate, channels, sample format
        self._fifo = av.AudioFifo()

    def push(self, frame: Any) -> None:
        frame_format = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
        if frame_format != self._format:  # the fifo itself does not look at the channels, and would crash
            self.flush()
            self._joiner.require_format(frame.sample_rate, frame.layout.nb_channels)
            self._format = frame_format
        frame.pts = None  # else the fifo insists on time stamps without gaps
        self._fifo.write(frame)
        if self._fifo.samples >= _QUEUE_SAMPLES:
            self.flush()

    def flush(self) -> None:
        if self._fifo.samples:
            self._joiner.push(mix(_planes(self._fifo.read())), self._format[0])
        self._fifo = av.AudioFifo()


def _promised_s(container: Any, stream: Any, is_counted: bool) -> float | None:
    """Seconds that the container says its audio lasts; None if FFmpeg can only guess by the bit rate."""
    if container.format.name not in _FORMATS_WITH_LENGTH and not (container.format.name == "mp3" and is_counted):
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _planes(frame: Any) -> npt.NDArray[Any]:
    """An FFmpeg audio frame as (channels, N)."""
    num_channels = frame.layout.nb_channels
    reads_past_planes = frame.format.is_planar and num_channels >= 8  # in PyAV 18, which crashes the process
    if reads_past_planes or frame.format.packed.name not in _FRAME_FORMATS:
        (frame,) = av.AudioResampler(format="flt").resample(frame)
    array: npt.NDArray[Any] = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, num_channels).T


@functools.cache
def _audio_decoders() -> str:
    """FFmpeg's audio decoders, joined by commas."""
    names = set()
    for name in av.codecs_available:
        try:
            codec = av.codec.Codec(name, "r")
        except ValueError:  # an encoder only
            continue
        if codec.type == "audio":
            names.add(codec.name)
    return ",".join(sorted(names))
