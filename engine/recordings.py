"""Inputs -> numbered clips, and the clips' transcripts -> one transcript for each input.

Most inputs are one clip. A long recording is read in Pieces and becomes many clips.

input, audio         -> add()     -> numbered clips, each transcribed on its own
clip, its transcript -> finish()  -> take() returns the inputs that are complete
"""

import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from .audio.inputs import AudioInput
from .audio.readers import Audio
from .audio.waveform import Waveform
from .clip import Result
from .errors import ASRError, AudioError
from .isolation import alone
from .segments import Part, join_parts, with_warnings
from .transcript import Transcript, TranscriptWarning
from .vad.splitting import Piece


class ClipAudio(NamedTuple):
    """The audio of one clip."""

    number: int
    item: AudioInput
    audio: Waveform | AudioError  # (N,) float32, 16 kHz; or why it could not be read
    is_speech: bool = False  # a VAD has cut it out as speech


@dataclass(slots=True, eq=False)
class _Recording:
    """An input that comes in Pieces."""

    index: int
    item: AudioInput
    duration: float = 0.0  # s, read so far
    is_read: bool = False  # to its end
    num_open: int = 0  # segments that are not transcribed yet
    parts: list[Part] = field(default_factory=list)
    warnings: tuple[TranscriptWarning, ...] = ()  # from reading it


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """A clip that is a part of a recording, or all of one channel."""

    recording: _Recording
    start: float  # s, in the recording
    channel: int | None


class Recordings:
    """The inputs of one run. Clips are numbered in the order in which they are read."""

    def __init__(self, language: str | None) -> None:
        """`language` is given to a recording whose segments name none, as when nobody speaks in it."""
        self._language = language
        self._numbers = itertools.count()
        self._being_read: dict[int, _Recording] = {}  # by the input's index
        self._clips: dict[int, tuple[int, tuple[TranscriptWarning, ...]]] = {}  # whole inputs: index and warnings
        self._segments: dict[int, _Segment] = {}  # all other clips
        self._results: list[Result] = []

    def add(self, index: int, item: AudioInput, audio: Audio) -> list[ClipAudio]:
        """Take what was read of the input with this index; returns its clips."""
        if isinstance(audio, Piece):
            if audio.is_whole and audio.cuts[0].channel is None:
                return [ClipAudio(self._add_clip(index, audio.warnings), item, audio.cuts[0].waveform)]
            return self._add_piece(index, item, audio)
        recording = self._being_read.pop(index, None)
        if recording is not None:  # an error after some Pieces of the recording
            assert isinstance(audio, AudioError)  # a waveform is always a whole input
            self._results.append((index, Transcript.failed(item.key, audio, duration=recording.duration)))
            return []
        return [ClipAudio(self._add_clip(index), item, audio)]

    def finish(self, number: int, transcript: Transcript) -> None:
        """Take the transcript of one clip."""
        if number in self._clips:
            index, warnings = self._clips.pop(number)
            self._results.append((index, with_warnings(transcript, warnings)))
            return
        segment = self._segments.pop(number)
        recording = segment.recording
        recording.parts.append(Part(segment.start, transcript, segment.channel))
        recording.num_open -= 1
        self._settle(recording)

    def take(self) -> list[Result]:
        """The inputs that have been completed since the last call."""
        results, self._results = self._results, []
        return results

    def _add_clip(self, index: int, warnings: tuple[TranscriptWarning, ...] = ()) -> int:
        number = next(self._numbers)
        self._clips[number] = (index, warnings)
        return number

    def _add_piece(self, index: int, item: AudioInput, piece: Piece) -> list[ClipAudio]:
        recording = self._being_read.setdefault(index, _Recording(index, item))
        recording.duration = piece.duration
        recording.warnings += piece.warnings
        recording.num_open += len(piece.cuts)
        clips: list[ClipAudio] = []
        for cut in piece.cuts:
            number = next(self._numbers)
            self._segments[number] = _Segment(recording, cut.start, cut.channel)
            clips.append(ClipAudio(number, item, cut.waveform, is_speech=not piece.is_whole))
        if piece.is_last:
            del self._being_read[index]
            recording.is_read = True
            self._settle(recording)
        return clips

    def _settle(self, recording: _Recording) -> None:
        """Join the parts of a recording once all of it is read and transcribed."""
        if recording.is_read and not recording.num_open:
            language = self._language if recording.item.language is None else recording.item.language
            key, duration = recording.item.key, recording.duration
            work = partial(join_parts, key, recording.parts, duration=duration, language=language)
            joined = alone("join", key, work)
            if isinstance(joined, ASRError):
                joined = Transcript.failed(key, joined, duration=duration)
            self._results.append((recording.index, with_warnings(joined, recording.warnings)))
