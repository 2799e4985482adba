"""Files that FFmpeg reads -> blocks pushed into a Joiner. decode.py says when a file counts as complete."""

import contextlib
import functools
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

import av

from ..errors import UnsupportedAudioError
from .clock import Clock, FrameQueue
from .header import PLACEHOLDER_LENGTH, has_fitting_xing_tag, is_cut_avi, num_missing_in_w64
from .parts import Part, is_foreign, parts_of, without_foreign_head
from .waveform import Joiner

# FFmpeg's demuxers that may run. Playlists (hls, concat, dash) are excluded because they open other files and URLs.
_FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
# File name suffixes of these formats; a folder is searched for them.
AUDIO_SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".3gpp", ".aac", ".ac3", ".adts", ".afc", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".apl"),
        *(".asf", ".au", ".avi", ".awb", ".bwf", ".caf", ".ec3", ".eac3", ".f4a", ".f4b", ".f4v", ".flac", ".flv"),
        *(".isma", ".ismv", ".m2a", ".m2t", ".m2ts", ".m4a", ".m4b", ".m4r", ".m4v", ".mac", ".mk3d", ".mka"),
        *(".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpa", ".mpeg", ".mpg", ".mpga", ".mts", ".oga", ".ogg", ".ogm"),
        *(".ogv", ".ogx", ".opus", ".psp", ".qt", ".rf64", ".snd", ".spx", ".ts", ".tta", ".vob", ".w64", ".wav"),
        *(".wave", ".weba", ".webm", ".wma", ".wmv", ".wv"),
    )
)
_FORMATS_WITH_LENGTH = {
    "aiff", "ape", "asf", "au", "flac", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "tta", "wv",
}  # fmt: skip
_UNREADABLE = (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError)
_FORMATS_WITH_ONE_LENGTH = {"flv", "matroska,webm"}  # formats with one length for all streams together
_MAX_SHORTFALL_S = 1.0  # a file with video may end this much early, because its last picture has no duration
_PACKETS_A_STEP = 32  # about one second of audio; each stop costs a tenth of a packet's decoding time
_MIN_UNREAD_BYTES = 1024  # fewer bytes between two packets are a header, not damaged audio


def read_with_ffmpeg(file: BinaryIO, joiner: Joiner) -> Generator[None, None, None]:
    """Push the samples of the audio stream that a player would choose; yields after every few packets.

    Raises AudioError, FFmpegError or OSError.
    """
    parts = yield from parts_of(file, joiner)
    for part in parts:
        is_counted = has_fitting_xing_tag(part.file) or is_cut_avi(part.file)
        with _opened(part.file, joiner) as container:
            stream = container.streams.best("audio")
            if stream is None:
                found = ", ".join(sorted({s.type or "unknown" for s in container.streams})) or "none"
                raise UnsupportedAudioError(f"{joiner.name}: has no audio stream (streams: {found})")
            if stream.codec_context is None:  # PyAV 18 crashes the process when asked to decode such a stream
                raise UnsupportedAudioError(f"{joiner.name}: its {container.format.name} audio codec is not known here")
            yield from _push_stream(container, stream, joiner, part, is_counted=is_counted)


def _opened(file: BinaryIO, joiner: Joiner) -> Any:
    """Open the container, skipping foreign bytes before it. Raises UnsupportedAudioError."""
    try:
        return _open(file)
    except _UNREADABLE as error:
        found = without_foreign_head(file)
        if found is not None:
            num_bytes, rest = found
            with contextlib.suppress(*_UNREADABLE):
                container = _open(rest)
                joiner.notes.add_skipped(num_bytes, "before the first frame")
                return container
        raise UnsupportedAudioError(
            f"{joiner.name}: not audio that can be read here, or cut off ({error.strerror}); known are {_FORMATS}"
        ) from error


def _open(file: BinaryIO) -> Any:
    """Open the file with audio decoders alone: FFmpeg would also decode cover art, and 400 kB of it can take 400 MB."""
    file.seek(0)
    options = {"format_whitelist": _FORMATS, "codec_whitelist": _audio_decoders()}
    return av.open(file, options=options, metadata_errors="replace")


def _push_stream(container: Any, stream: Any, joiner: Joiner, part: Part, *, is_counted: bool) -> Iterator[None]:
    """Push one stream, and compare its length with the container's promise."""
    clock = Clock.of(container, stream)
    promised_s = _promised_s(container, stream, clock, is_counted=is_counted)
    joiner.require_duration(promised_s or 0.0)
    codec = stream.codec_context
    joiner.require_samples((promised_s or 0.0) * (codec.sample_rate or 0) * codec.layout.nb_channels)
    start_s = joiner.duration_s
    is_alone_in_matroska = container.format.name == "matroska,webm" and len(container.streams) == 1
    reader = _PacketReader(joiner, clock, resyncs=is_alone_in_matroska)
    packets = _Packets(container, stream)
    try:
        for number, packet in enumerate(packets):
            reader.push(packet)
            if not number % _PACKETS_A_STEP:
                yield
    except av.error.FFmpegError as error:
        unread = f"what follows {reader.end_s:.2f} s cannot be read: {error.strerror}"
        if not joiner.salvage:
            raise UnsupportedAudioError(f"{joiner.name}: truncated or damaged: {unread}") from error
        joiner.note_missing(unread)
    filled_s, missing_s = reader.finish()
    missing_s += reader.seconds_of(num_missing_in_w64(part.file))
    if part.link is not None:
        filled_s += reader.seconds_of(part.link.num_damaged)
    if part.link is not None and part.link.is_cut:
        joiner.note_missing(f"the file is cut off in its last page, at {joiner.duration_s:.2f} s")
    if packets.missing_s > _MAX_SHORTFALL_S:
        joiner.note_missing(f"the file ends {packets.missing_s:.2f} s before the time that its header says")
    # The clock of an Ogg may begin late, as ffmpeg records from PulseAudio, and FFmpeg's duration is then too long.
    if promised_s is None or (part.link is not None and part.link.is_unbroken):
        promised_s = joiner.duration_s + missing_s
    else:
        promised_s += start_s
    joiner.require_complete(promised_s, lost_s=filled_s)


class _Packets:
    """The packets of one stream; measures how early the file ends."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.missing_s = 0.0  # header's duration minus the end of the last packet of any stream; set at the end
        self._container = container
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        container = self._container
        # The header gives one length for all streams, and the audio may end before the video.
        is_shared = container.format.name in _FORMATS_WITH_ONE_LENGTH and len(container.streams) > 1
        try:
            if is_shared and container.duration is not None:
                yield from self._watch(container.duration / av.time_base)
            else:
                yield from container.demux(self._stream)
        except IndexError:  # PyAV 18 fails on streams that begin in the middle of a file, after our last packet
            return

    def _watch(self, duration_s: float) -> Iterator[Any]:
        ticks = {stream.index: float(stream.time_base) for stream in self._container.streams}
        end_s = 0.0
        for packet in self._container.demux():
            if packet.dts is not None:
                end_s = max(end_s, (packet.dts + (packet.duration or 0)) * ticks[packet.stream_index])
            if packet.stream_index == self._stream.index:
                yield packet
        self.missing_s = duration_s - end_s


class _PacketReader:
    """Decodes packets, and counts those that cannot be decoded."""

    def __init__(self, joiner: Joiner, clock: Clock, *, resyncs: bool) -> None:
        """`resyncs`: the demuxer skips bytes that it cannot read, so bytes between two packets are lost audio."""
        self._joiner = joiner
        self._clock = clock
        self._resyncs = resyncs
        self._queue = FrameQueue(joiner, clock)
        self._num_decoded = 0  # bytes of packets that were decoded
        self._num_failed = 0  # bytes of undecodable packets since the last decoded one
        self._are_foreign = True  # whether all of these look like text or padding
        self._num_unknown = 0  # bytes of undecodable packets between decoded ones that may have been audio
        self._place, self._num_from_there = 0, 0  # last packet's position in the file; packet bytes read from there on

    def push(self, packet: Any) -> None:
        if self._resyncs and (num_unread := self._move_to(packet)) >= _MIN_UNREAD_BYTES:
            self._queue.unread_s = self.seconds_of(num_unread)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # go on, as players do; the caller decides whether too much was lost
            self._fail(packet)
            return
        self._num_decoded += packet.size
        if frames and self._num_failed:
            self._skip_failed()
        for frame in frames:
            self._queue.push(frame)

    @property
    def end_s(self) -> float:
        """Where in the recording the decoded audio ends."""
        return self._queue.end_s

    def finish(self) -> tuple[float, float]:
        """(seconds of damage that were replaced by silence, seconds of damage that are missing)."""
        self._queue.finish()
        if self._clock.is_told:
            return self._queue.filled_s, self._queue.missing_s
        if self._num_failed and self._are_foreign:
            self._skip_failed()
        num_lost = self._num_failed
        if self._num_unknown > self._num_decoded:  # too many bytes for tags or headers
            num_lost += self._num_unknown
        return 0.0, self.seconds_of(num_lost)

    def seconds_of(self, num_bytes: int) -> float:
        """Estimated duration of encoded bytes, by the mean bit rate of what was decoded."""
        return num_bytes * self._queue.decoded_s / max(self._num_decoded, 1)

    def _move_to(self, packet: Any) -> int:
        """The number of bytes between the last packet and this one."""
        place: int | None = packet.pos  # position of the packet's page or cluster
        if place is None or place < 0 or place == self._place:
            self._num_from_there += packet.size
            return 0
        num_between = place - self._place - self._num_from_there
        self._place, self._num_from_there = place, packet.size
        return max(0, num_between)

    def _fail(self, packet: Any) -> None:
        if self._clock.is_told:
            self._queue.damaged_s += (packet.duration or 0) * self._clock.tick_s or self.seconds_of(packet.size)
            return
        self._num_failed += packet.size
        self._are_foreign = self._are_foreign and is_foreign(bytes(packet))

    def _skip_failed(self) -> None:
        """Count the undecodable packets between two decoded ones as skipped."""
        self._joiner.notes.add_skipped(self._num_failed, f"at {self._queue.end_s:.2f} s")
        self._num_unknown += 0 if self._are_foreign else self._num_failed
        self._num_failed, self._are_foreign = 0, True


def _promised_s(container: Any, stream: Any, clock: Clock, *, is_counted: bool) -> float | None:
    """Seconds from time zero to the end of the audio as the container states it; None if FFmpeg can only guess.

    `is_counted`: whether the number of frames in the header of an MP3 or AVI counts, see header.py.
    """
    if container.format.name == "caf" and stream.frames and stream.rate:  # FFmpeg fits the duration to a cut file
        return float(stream.frames / stream.rate)
    if container.format.name == "avi" and is_counted and 0 < stream.frames < PLACEHOLDER_LENGTH:
        return float(stream.frames * stream.time_base)  # what the header says, which some programs get wrong
    if container.format.name not in _FORMATS_WITH_LENGTH and not (container.format.name == "mp3" and is_counted):
        return None
    if stream.duration is not None:
        start_s = clock.since_origin_s((stream.start_time or 0) * clock.tick_s)
        return start_s + float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base) - max(clock.origin_s or 0.0, 0.0)
    return None


@functools.cache
def _audio_decoders() -> str:
    """The names of FFmpeg's audio decoders, joined by commas."""
    names = set()
    for name in av.codecs_available:
        try:
            codec = av.codec.Codec(name, "r")
        except ValueError:  # there is an encoder of this name but no decoder
            continue
        if codec.type == "audio":
            names.add(codec.name)
    return ",".join(sorted(names))
