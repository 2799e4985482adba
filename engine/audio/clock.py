"""Frames of a container with time stamps -> samples at the container's times, in a Joiner.

Time zero is where the earliest of the container's streams begins, as players show it: audio that begins after the video
begins with silence here, and a clock that does not start at 0 (MPEG-TS, a part cut from a longer recording) changes
nothing. Samples that an encoder has put before the first (priming in MP4, Ogg and MP3) are no part of the recording:
FFmpeg drops them, and its time stamps say so.

Where the time stamps leave a gap, silence fills it, as FFmpeg's filter aresample=async=1 does it, and the transcript
says so. No sound is ever dropped because of its time stamp: frames that overlap are joined end to end, and where the
clock is set back, as in files that were joined, the recording goes on from where it is.
"""

from dataclasses import dataclass
from typing import Any, Self

import av
import numpy.typing as npt

from ..transcript import TranscriptWarning
from .waveform import Joiner

# FFmpeg's demuxers whose files hold time stamps; all others count frames or bytes.
_FORMATS = {"asf", "avi", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts", "ogg"}
_FORMATS_THAT_JUMP = {"mpeg", "mpegts"}  # broadcasts, whose clock may be set anew at any time
_MIN_GAP_S = 0.04  # time stamps are rounded, to 1 ms in Matroska and FLV, and capturing programs guess them
_MAX_JUMP_S = 60.0  # in formats whose clock may be set anew; FFmpeg itself takes 10 s there for a new clock
_MAX_OVERLAP_S = 1.0  # a clock that goes back further was set anew
_TOLD_OVERLAP_S = 0.1  # a smaller one cannot be heard, and is not worth a warning
_QUEUE_SAMPLES = 1 << 16  # of each channel, in pieces that FFmpeg's frames are joined to
_FRAME_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}  # of FFmpeg, that PyAV makes arrays of; s64 it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What the time stamps of one stream mean."""

    is_told: bool  # the file holds time stamps
    tick_s: float  # seconds a unit
    origin_s: float | None  # the container's time zero; None if it begins with this stream
    max_jump_s: float  # a longer gap is a new clock

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
    """Hands FFmpeg's frames of 20 to 90 ms on in large pieces; work in Python per frame costs as much as decoding."""

    def __init__(self, joiner: Joiner, clock: Clock) -> None:
        self.damaged_s = 0.0  # of packets that could not be decoded, since the last frame
        self.unread_s = 0.0  # that bytes would take in which no packet was found, since the last frame
        self.filled_s = 0.0  # of silence in the place of damage
        self.missing_s = 0.0  # of damage that nothing has replaced
        self._joiner = joiner
        self._clock = clock
        self._is_told, self._tick_s = clock.is_told, clock.tick_s  # looked at for every frame
        self._start_s = joiner.duration_s
        self._silence_s = 0.0
        self._next_s: float | None = None  # the container's time of the next sample
        self._overlap_s = 0.0  # by how much the samples are ahead of their time stamps, at most
        self._overlap_from_s = 0.0
        self._format = (0, 0, "")  # sample rate, channels, sample format
        self._fifo = av.AudioFifo()

    @property
    def end_s(self) -> float:
        """Of what was pushed, in the recording."""
        return self._joiner.duration_s + (self._fifo.samples / self._format[0] if self._format[0] else 0.0)

    @property
    def decoded_s(self) -> float:
        """Of what was pushed, without the silence between it."""
        return self.end_s - self._start_s - self._silence_s

    def push(self, frame: Any) -> None:
        """Add a frame, after silence if its time stamp leaves a gap."""
        frame_format = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
        if frame_format != self._format:  # the fifo itself does not look at the channels, and would crash
            self.flush()
            self._joiner.require_format(frame.sample_rate, frame.layout.nb_channels)
            self._format = frame_format
        if self._is_told:
            self._keep_time(frame)
        frame.pts = None  # else the fifo insists on time stamps without gaps
        self._fifo.write(frame)
        if self._fifo.samples >= _QUEUE_SAMPLES:
            self.flush()

    def flush(self) -> None:
        if self._fifo.samples:
            self._joiner.push(_planes(self._fifo.read()), self._format[0])
        self._fifo = av.AudioFifo()

    def finish(self) -> None:
        """Hand the rest on, and say how well the time stamps have fitted."""
        self.flush()
        self.missing_s += self.damaged_s
        if self._overlap_s:
            self._note(
                f"time stamps overlap by up to {self._overlap_s:.2f} s from {self._overlap_from_s:.2f} s on; no sound "
                "was left out, and times may be that much later than the file's"
            )

    def _keep_time(self, frame: Any) -> None:
        """Bridge the gap, if there is one, between the end of the frame before this one and this one's time stamp."""
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
        else:  # packets are missing, and those beside them have suffered
            self._joiner.notes.add_gap(start_s, start_s + gap_s)
        self.damaged_s = self.unread_s = 0.0

    def _note(self, message: str) -> None:
        self._joiner.notes.add(TranscriptWarning("joined_times", message))


def _planes(frame: Any) -> npt.NDArray[Any]:
    """An FFmpeg audio frame as (channels, N)."""
    num_channels = frame.layout.nb_channels
    reads_past_planes = frame.format.is_planar and num_channels >= 8  # in PyAV 18, which crashes the process
    if reads_past_planes or frame.format.packed.name not in _FRAME_FORMATS:
        (frame,) = av.AudioResampler(format="flt").resample(frame)
    array: npt.NDArray[Any] = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, num_channels).T
