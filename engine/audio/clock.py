"""Decoded frames with time stamps -> samples at the container's times, pushed into a Joiner.

Time zero is the start of the container's earliest stream, as in a player. Audio that begins after the video therefore
starts with silence, and a clock that does not start at 0 (MPEG-TS, a part cut from a longer recording) changes nothing.
Priming samples, which encoders put before the recording in MP4, Ogg and MP3, do not count: FFmpeg drops them and
adjusts its time stamps.

A gap between time stamps is filled with silence, as FFmpeg's filter aresample=async=1 does, and the transcript carries
a warning. No sound is dropped because of its time stamp. Frames that overlap are joined end to end. Where the clock is
set back, as in concatenated files, the samples continue from the current position.
"""

from dataclasses import dataclass
from typing import Any, Self

import av
import numpy.typing as npt

from ..transcript import TranscriptWarning
from .waveform import Joiner

# FFmpeg's demuxers for formats that store time stamps. For all others FFmpeg counts frames or bytes.
_FORMATS = {"asf", "avi", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts", "ogg"}
_FORMATS_THAT_JUMP = {"mpeg", "mpegts"}  # broadcast formats, whose clock may be reset at any time
_MIN_GAP_S = 0.04  # smaller gaps are rounding (1 ms in Matroska and FLV) or guesses of the capturing program
_MAX_JUMP_S = 60.0  # a longer gap in _FORMATS_THAT_JUMP is a clock reset; FFmpeg itself takes 10 s for one
_MAX_OVERLAP_S = 1.0  # a clock that goes back further was reset
_TOLD_OVERLAP_S = 0.1  # a smaller overlap is inaudible and causes no warning
_QUEUE_SAMPLES = 1 << 16  # samples per channel of a block that FFmpeg's frames are collected into
_FRAME_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}  # FFmpeg sample formats that PyAV converts to arrays; not s64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How to read the time stamps of one stream."""

    is_told: bool  # whether the file stores time stamps
    tick_s: float  # seconds per unit of the time stamps
    origin_s: float | None  # the container's time zero; None: the container does not say, the first frame is at zero
    max_jump_s: float  # a longer gap is a clock reset

    @classmethod
    def of(cls, container: Any, stream: Any) -> Self:
        name, start = container.format.name, container.start_time
        return cls(
            is_told=name in _FORMATS,
            tick_s=float(stream.time_base),
            origin_s=None if start is None else start / av.time_base,
            max_jump_s=_MAX_JUMP_S if name in _FORMATS_THAT_JUMP else float("inf"),
        )

    def since_origin_s(self, time_s: float) -> float:
        return max(0.0, time_s - (self.origin_s or 0.0)) if self.is_told else 0.0


class FrameQueue:
    """Collects FFmpeg's frames of 20 to 90 ms into large blocks: Python's work per frame costs as much as decoding."""

    def __init__(self, joiner: Joiner, clock: Clock) -> None:
        self.damaged_s = 0.0  # duration of the undecodable packets since the last frame
        self.unread_s = 0.0  # estimated duration of the bytes, since the last frame, in which no packet was found
        self.filled_s = 0.0  # damage that was replaced by silence
        self.missing_s = 0.0  # damage that was not replaced
        self._joiner = joiner
        self._clock = clock
        self._is_told, self._tick_s = clock.is_told, clock.tick_s  # copied because every frame needs them
        self._start_s = joiner.duration_s
        self._silence_s = 0.0
        self._next_s: float | None = None  # the container's time of the next sample
        self._overlap_s = 0.0  # largest overlap of time stamps so far
        self._overlap_from_s = 0.0  # where in the recording the first overlap is
        self._format = (0, 0, "")  # sample rate, channels, sample format
        self._fifo = av.AudioFifo()

    @property
    def end_s(self) -> float:
        """Where in the recording the pushed frames end."""
        return self._joiner.duration_s + (self._fifo.samples / self._format[0] if self._format[0] else 0.0)

    @property
    def decoded_s(self) -> float:
        """Duration of the pushed frames, without the silence between them."""
        return self.end_s - self._start_s - self._silence_s

    def push(self, frame: Any) -> None:
        """Add a frame, after silence if its time stamp leaves a gap."""
        frame_format = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
        if frame_format != self._format:  # AudioFifo does not check the number of channels and would crash
            self.flush()
            self._joiner.require_format(frame.sample_rate, frame.layout.nb_channels)
            self._format, self._fifo = frame_format, av.AudioFifo()
        if self._is_told:
            self._keep_time(frame)
        frame.pts = None  # AudioFifo rejects time stamps with gaps
        self._fifo.write(frame)
        if self._fifo.samples >= _QUEUE_SAMPLES:
            self.flush()

    def flush(self) -> None:
        if self._fifo.samples:
            self._joiner.push(_planes(self._fifo.read()), self._format[0])

    def finish(self) -> None:
        """Pass the remaining samples on, and warn of overlapping time stamps."""
        self.flush()
        self.missing_s += self.damaged_s
        if self._overlap_s:
            self._note(
                f"time stamps overlap by up to {self._overlap_s:.2f} s from {self._overlap_from_s:.2f} s on; no sound "
                "was left out, and times may be that much later than the file's"
            )

    def _keep_time(self, frame: Any) -> None:
        """Compare the frame's time stamp with the end of the frame before it, and fill a gap between them."""
        if frame.pts is not None:
            time_s = frame.pts * self._tick_s
            if self._next_s is None:
                origin_s = self._clock.origin_s
                self._next_s = time_s if origin_s is None else min(origin_s, time_s)
            if not -_TOLD_OVERLAP_S <= time_s - self._next_s <= _MIN_GAP_S:
                self._go_to(time_s, time_s - self._next_s)
        if self._next_s is not None:
            self._next_s += frame.samples / frame.sample_rate
        if self.damaged_s or self.unread_s:
            self.missing_s += self.damaged_s
            self.damaged_s = self.unread_s = 0.0

    def _go_to(self, time_s: float, gap_s: float) -> None:
        here_s = self.end_s
        if -_MAX_OVERLAP_S <= gap_s < 0:
            self._overlap_from_s = self._overlap_from_s if self._overlap_s else here_s
            self._overlap_s = max(self._overlap_s, -gap_s)
            return
        self._next_s = time_s
        is_first = here_s == self._start_s
        is_new_clock = gap_s > self._clock.max_jump_s and not is_first
        if gap_s < 0 or is_new_clock or here_s + gap_s > self._joiner.limits.max_duration_s:
            self._note(f"time stamps jump by {gap_s:+,.2f} s at {here_s:.2f} s; what follows was joined on")
            return
        self._fill(here_s, gap_s)

    def _fill(self, start_s: float, gap_s: float) -> None:
        rate, num_channels, _ = self._format
        self.flush()
        self._joiner.push_silence(gap_s, num_channels, rate)
        self._silence_s += gap_s
        if max(self.damaged_s, self.unread_s) > gap_s / 2:
            self.filled_s += gap_s
        else:  # damage explains less than half of the gap, so the file itself has no audio here
            self._joiner.notes.add_gap(start_s, start_s + gap_s)
        self.damaged_s = self.unread_s = 0.0

    def _note(self, message: str) -> None:
        self._joiner.notes.add(TranscriptWarning("joined_times", message))


def _planes(frame: Any) -> npt.NDArray[Any]:
    """An FFmpeg audio frame as (channels, N)."""
    num_channels = frame.layout.nb_channels
    reads_past_planes = frame.format.is_planar and num_channels >= 8  # PyAV 18 crashes the process on such frames
    if reads_past_planes or frame.format.packed.name not in _FRAME_FORMATS:
        (frame,) = av.AudioResampler(format="flt").resample(frame)
    array: npt.NDArray[Any] = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, num_channels).T
