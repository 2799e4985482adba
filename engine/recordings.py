"""Inputs -> numbered clips, and the clips' transcripts -> one transcript for each input.

Recording is one input, for the offline loop and the server alike. Recordings are the inputs of one run:

read: input, audio   -> add()     -> numbered clips, each transcribed on its own
clip, its transcript -> finish()  -> take() gives the inputs that are done
"""

import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .audio.inputs import AudioInput
from .audio.read_ahead import Audio
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
class Recording:
    """One input: what has been read of it, and the transcripts of its clips as they come. It holds no samples."""

    key: str
    language: str | None  # what it is said to be in where nobody speaks
    duration: float = 0.0  # s, read so far
    is_read: bool = False  # to its end
    is_whole: bool = False  # its only clip is all of it
    num_open: int = 0  # clips whose transcripts are not there
    parts: list[Part] = field(default_factory=list)
    warnings: tuple[TranscriptWarning, ...] = ()  # from reading it
    source: Path | None = None  # the file, if it is one

    def add(self, piece: Piece) -> None:
        """Take note of what was read; each cut of the piece is a clip."""
        self.duration = piece.duration
        self.is_read = piece.is_last
        self.is_whole = piece.is_whole and piece.cuts[0].channel is None
        self.num_open += len(piece.cuts)
        self.warnings += piece.warnings

    def finish(self, part: Part) -> None:
        """Take the transcript of one clip, in any order."""
        self.parts.append(part)
        self.num_open -= 1

    @property
    def is_done(self) -> bool:
        return self.is_read and not self.num_open

    def transcript(self) -> Transcript:
        """Of a recording that is done; of status "error" if its parts cannot be joined."""
        if self.is_whole:
            return replace(with_warnings(self.parts[0].transcript, self.warnings), source=self.source)
        work = partial(join_parts, self.key, self.parts, duration=self.duration, language=self.language)
        joined = alone("join", self.key, work)
        if isinstance(joined, ASRError):
            joined = Transcript.failed(self.key, joined, duration=self.duration)
        return replace(with_warnings(joined, self.warnings), source=self.source)


class _Place(NamedTuple):
    """Where a clip belongs."""

    input_index: int
    recording: Recording
    start: float  # s, in the recording
    channel: int | None


class Recordings:
    """The inputs of one run. Clips are numbered in the order in which they are read."""

    def __init__(self, language: str | None) -> None:
        """`language` is given to a recording whose segments name none, as when nobody speaks in it."""
        self._language = language
        self._numbers = itertools.count()
        self._being_read: dict[int, Recording] = {}  # by the input's place
        self._places: dict[int, _Place] = {}  # by the clip's number
        self._results: list[Result] = []

    def add(self, index: int, item: AudioInput, audio: Audio) -> list[ClipAudio]:
        """What was read of the input at this place -> the clips that it gives."""
        recording = self._being_read.pop(index, None)
        if isinstance(audio, AudioError):
            if recording is None:  # the input's only clip says why there is none
                recording = Recording(item.key, None, is_read=True, is_whole=True, num_open=1, source=_file(item))
                return [ClipAudio(self._number(index, recording), item, audio)]
            failed = Transcript.failed(item.key, audio, duration=recording.duration)
            self._results.append((index, replace(failed, source=recording.source)))
            return []
        if recording is None:
            language = self._language if item.language is None else item.language
            recording = Recording(item.key, language, source=_file(item))
        recording.add(audio)
        if not audio.is_last:
            self._being_read[index] = recording
        self._settle(index, recording)
        return [
            ClipAudio(self._number(index, recording, cut.start, cut.channel), item, cut.waveform, not audio.is_whole)
            for cut in audio.cuts
        ]

    def place(self, number: int) -> tuple[int, float, int | None]:
        """Of a clip that is not done: the place of its input, its start in that (s), and its channel."""
        index, _, start, channel = self._places[number]
        return index, start, channel

    def finish(self, number: int, transcript: Transcript) -> None:
        """A clip is done."""
        index, recording, start, channel = self._places.pop(number)
        recording.finish(Part(start, transcript, channel))
        self._settle(index, recording)

    def take(self) -> list[Result]:
        """The inputs that have been completed since the last call."""
        results, self._results = self._results, []
        return results

    def _number(self, index: int, recording: Recording, start: float = 0.0, channel: int | None = None) -> int:
        number = next(self._numbers)
        self._places[number] = _Place(index, recording, start, channel)
        return number

    def _settle(self, index: int, recording: Recording) -> None:
        if recording.is_done:
            self._results.append((index, recording.transcript()))


def _file(item: AudioInput) -> Path | None:
    return item.source if isinstance(item.source, Path) else None
