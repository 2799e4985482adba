"""SpeakerStage: embeds the clips of one offline run beside its two stages, and names the speakers of what is done.

Clips are embedded in batches, in a thread of their own. Only embeddings are kept of a recording: 50 MB for ten hours.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from ..audio.inputs import iterate_inputs
from ..audio.loading import load
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ASRError, ConfigError
from ..isolation import alone, isolated
from ..run_options import SpeakerSettings
from ..transcript import Transcript, TranscriptWarning
from .diarize import Stretch, diarize, embedded, stretch_of
from .enrolment import KnownSpeakers
from .labelling import with_speakers
from .model import SpeakerModel

BATCH_S = 192.0  # of speech: 256 windows
MAX_QUEUED = 8  # batches that wait for the model; more wait in the loop, so that memory stays bounded


@dataclass(frozen=True, slots=True, eq=False)
class _Clip:
    index: int  # of the input
    start: float  # s, in the recording
    waveform: Waveform
    channel: int | None

    def __str__(self) -> str:
        return f"input {self.index}, {self.start:.1f} s"


class SpeakerStage:
    """The speakers of the inputs of one run. Used as a context manager, which ends its thread."""

    def __init__(self, model: SpeakerModel, settings: SpeakerSettings) -> None:
        """Raises ConfigError or AudioError if a known speaker's clip cannot be used."""
        self._model = model
        self._settings = settings
        self._known = enrolled(model, settings)
        self._batch: list[_Clip] = []
        self._batch_s = 0.0
        self._queued: deque[Future[list[tuple[int, Stretch]]]] = deque()
        self._stretches: dict[int, list[Stretch]] = {}
        self._thread = ThreadPoolExecutor(1, "speakers")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, index: int, start: float, waveform: Waveform, channel: int | None) -> None:
        """A clip of the input at this place; it is embedded with others, soon."""
        self._batch.append(_Clip(index, start, waveform, channel))
        self._batch_s += len(waveform) / SAMPLE_RATE
        if self._batch_s >= BATCH_S:
            self._flush()

    def finish(self, index: int, transcript: Transcript) -> Transcript:
        """The transcript of an input, all of whose clips were added, with its speakers."""
        if any(clip.index == index for clip in self._batch):
            self._flush()
        while self._queued:  # in order, and so that the input's last clip is among them
            self._take()
        stretches = self._stretches.pop(index, [])
        if transcript.status == "error":
            return transcript
        named = alone("speakers", transcript.key, partial(self._named, transcript, stretches))
        if isinstance(named, ASRError):
            return replace(transcript, warnings=(*transcript.warnings, _warning(str(named))))
        return named

    def _named(self, transcript: Transcript, stretches: Sequence[Stretch]) -> Transcript:
        spoken = [one for one in stretches if _has_words(one, transcript)]
        named = with_speakers(transcript, diarize(spoken, self._settings.count, self._known))
        failed = tuple(
            _warning(f"{one.start:.2f} to {one.end:.2f} s: {one.error}") for one in stretches if one.error is not None
        )
        return replace(named, warnings=(*named.warnings, *failed))

    def _flush(self) -> None:
        while len(self._queued) >= MAX_QUEUED:
            self._take()
        batch, self._batch, self._batch_s = self._batch, [], 0.0
        future = self._thread.submit(self._embedded, batch)
        self._queued.append(future)

    def _take(self) -> None:
        for index, stretch in self._queued.popleft().result():
            self._stretches.setdefault(index, []).append(stretch)

    def _embedded(self, clips: Sequence[_Clip]) -> list[tuple[int, Stretch]]:
        """A clip that fails gives a stretch without windows, and the others go on."""
        found = isolated("speakers", clips, lambda some: embedded(self._model, [clip.waveform for clip in some]))
        done = []
        for clip, rows in zip(clips, found, strict=True):
            if isinstance(rows, ASRError):
                end = clip.start + len(clip.waveform) / SAMPLE_RATE
                none = np.zeros((0, 2)), np.zeros((0, 0), np.float32)
                stretch = Stretch(clip.start, end, *none, clip.channel, error=str(rows))
            else:
                stretch = stretch_of(clip.start, len(clip.waveform), rows, clip.channel)
            done.append((clip.index, stretch))
        return done


def enrolled(model: SpeakerModel, settings: SpeakerSettings) -> KnownSpeakers | None:
    """The known speakers of these settings. Raises ConfigError or AudioError if a clip cannot be used."""
    if not settings.known:
        return None
    references = {}
    for name, source in settings.known.items():
        items = list(iterate_inputs(source))
        if len(items) != 1:
            raise ConfigError(f"known speaker {name!r} needs one audio input, got {len(items)}")
        references[name] = load(items[0])
    return KnownSpeakers.enrol(model, references)


def _has_words(stretch: Stretch, transcript: Transcript) -> bool:
    """Whether anything is said in a stretch; noise and music that gave no text are nobody's."""
    return stretch.error is None and any(
        segment.text and segment.start < stretch.end and stretch.start < segment.end
        for segment in transcript.segments
        if segment.channel == stretch.channel
    )


def _warning(message: str) -> TranscriptWarning:
    return TranscriptWarning("no_speakers", f"the speakers are not known: {message}")
