"""SpeakerStage: embeds the clips of one offline run beside its two stages, and names the speakers of what is done.

Clips are embedded in batches in one thread, and finished recordings get their speakers in another. Only embeddings are
kept of a recording: 50 MB for ten hours.
"""

import bisect
import math
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from ..audio.inputs import iterate_inputs
from ..audio.loading import load
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ASRError, AudioError, ConfigError
from ..isolation import alone, isolated
from ..run_options import SpeakerSettings
from ..transcript import Transcript
from .clustering import SpeakerCount
from .diarize import Stretch, diarize, embedded, stretch_of
from .enrolment import REFERENCE_LIMITS, KnownSpeakers, label_names
from .labelling import relabelled, speakers_of, unnamed, with_speakers
from .model import Embeddings, SpeakerModel

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
    """The speakers of the inputs of one run. Used as a context manager, which ends its threads.

    Clips are embedded in batches of BATCH_S, and sooner if the model would be idle while a finished input waits for it.
    """

    def __init__(
        self, model: SpeakerModel, settings: SpeakerSettings, *, allow_urls: bool | Collection[str] = True
    ) -> None:
        """Raises ConfigError or AudioError if a known speaker's clip cannot be used. `allow_urls`: see load()."""
        self._model = model
        self._settings = settings
        self._known = enrolled(model, settings, allow_urls=allow_urls)
        self._batch: list[_Clip] = []
        self._batch_s = 0.0
        self._queued: deque[Future[list[tuple[int, Stretch]]]] = deque()
        self._num_waiting: Counter[int] = Counter()  # clips of each input that are not embedded yet
        self._stretches: dict[int, list[Stretch]] = {}
        self._finished: dict[int, Transcript] = {}  # that wait for their clips
        self._named: deque[tuple[int, Future[Transcript]]] = deque()
        self._thread = ThreadPoolExecutor(1, "speakers")
        self._naming_thread = ThreadPoolExecutor(1, "speakers-naming")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for thread in (self._thread, self._naming_thread):
            thread.shutdown(cancel_futures=True)

    def add(self, index: int, start: float, waveform: Waveform, channel: int | None) -> None:
        """A clip of the input at this place; it is embedded with others, soon."""
        self._batch.append(_Clip(index, start, waveform, channel))
        self._batch_s += len(waveform) / SAMPLE_RATE
        self._num_waiting[index] += 1
        if self._batch_s >= BATCH_S:
            self._flush()

    def finish(self, index: int, transcript: Transcript) -> None:
        """The transcript of an input, all of whose clips were added; done() or rest() gives it with its speakers."""
        self._finished[index] = transcript
        self._name(index)

    def done(self) -> Iterator[tuple[int, Transcript]]:
        """The finished inputs whose speakers are known by now. It waits for nothing."""
        while self._queued and self._queued[0].done():
            self._take()
        if not self._queued and any(clip.index in self._finished for clip in self._batch):
            self._flush()
        while self._named and self._named[0][1].done():
            yield self._take_named()

    def rest(self) -> Iterator[tuple[int, Transcript]]:
        """All other finished inputs. It waits for their speakers."""
        if self._batch:
            self._flush()
        while self._queued:
            self._take()
        while self._named:
            yield self._take_named()

    def _flush(self) -> None:
        while len(self._queued) >= MAX_QUEUED:
            self._take()
        batch, self._batch, self._batch_s = self._batch, [], 0.0
        self._queued.append(self._thread.submit(self._embedded, batch))

    def _take(self) -> None:
        for index, stretch in self._queued.popleft().result():
            self._stretches.setdefault(index, []).append(stretch)
            self._num_waiting[index] -= 1
            self._name(index)

    def _name(self, index: int) -> None:
        """Let the speakers of an input be named if it is finished and all of its clips are embedded."""
        if index not in self._finished or self._num_waiting[index]:
            return
        del self._num_waiting[index]
        transcript, stretches = self._finished.pop(index), self._stretches.pop(index, [])
        future = self._naming_thread.submit(named, transcript, stretches, self._settings.count, self._known)
        self._named.append((index, future))

    def _take_named(self) -> tuple[int, Transcript]:
        index, future = self._named.popleft()
        return index, future.result()

    def _embedded(self, clips: Sequence[_Clip]) -> list[tuple[int, Stretch]]:
        """A clip that fails gives a stretch without windows, and the others go on."""
        found = isolated("speakers", clips, lambda some: embedded(self._model, [clip.waveform for clip in some]))
        return [
            (clip.index, heard(clip.start, len(clip.waveform), rows, clip.channel))
            for clip, rows in zip(clips, found, strict=True)
        ]


def heard(start: float, num_samples: int, rows: Embeddings | ASRError, channel: int | None) -> Stretch:
    """The stretch of samples whose windows have these embeddings, or could not be embedded."""
    if isinstance(rows, ASRError):
        none = np.zeros((0, 2)), np.zeros((0, 0), np.float32)
        return Stretch(start, start + num_samples / SAMPLE_RATE, *none, channel, error=str(rows))
    return stretch_of(start, num_samples, rows, channel)


def named(
    transcript: Transcript, stretches: Sequence[Stretch], count: SpeakerCount, known: KnownSpeakers | None
) -> Transcript:
    """The transcript with the speakers of its stretches, in any order. What fails in this is a warning of it.

    A transcript of status "error" stays as it is.
    """
    if transcript.status == "error":
        return transcript
    done = alone("speakers", transcript.key, partial(_named, transcript, stretches, count, known))
    return unnamed(transcript, str(done)) if isinstance(done, ASRError) else done


def _named(
    transcript: Transcript, stretches: Sequence[Stretch], count: SpeakerCount, known: KnownSpeakers | None
) -> Transcript:
    spoken = _with_words(stretches, transcript)
    diarized = diarize(spoken, count)
    labelled = with_speakers(transcript, diarized.turns)
    speakers = speakers_of(labelled)
    names = [None] * len(speakers) if known is None else known.names_of([diarized.voices[one] for one in speakers])
    labelled = relabelled(labelled, dict(zip(speakers, label_names(names), strict=True)))
    failed = (one for one in stretches if one.error is not None)
    return unnamed(labelled, *(f"{one.start:.2f} to {one.end:.2f} s: {one.error}" for one in failed))


def enrolled(
    model: SpeakerModel, settings: SpeakerSettings, *, allow_urls: bool | Collection[str] = True
) -> KnownSpeakers | None:
    """The known speakers of these settings. Raises ConfigError or AudioError if a clip cannot be used."""
    if not settings.known:
        return None
    references = {}
    for name, source in settings.known.items():
        items = list(iterate_inputs(source))
        if len(items) != 1:
            raise ConfigError(f"known speaker {name!r} needs one audio input, got {len(items)}")
        try:
            references[name] = load(items[0], limits=REFERENCE_LIMITS, allow_urls=allow_urls)
        except AudioError as error:
            raise type(error)(f"known speaker {name!r}: {error}") from error
    return KnownSpeakers.enrol(model, references)


def _with_words(stretches: Sequence[Stretch], transcript: Transcript) -> list[Stretch]:
    """The stretches in which something is said; noise and music that gave no text are nobody's."""
    spoken: dict[int | None, list[tuple[float, float]]] = {}  # the segments of each channel, which do not overlap
    for segment in sorted(transcript.segments, key=lambda segment: segment.start):
        if segment.text:
            spoken.setdefault(segment.channel, []).append((segment.end, segment.start))
    found = []
    for one in stretches:
        segments = spoken.get(one.channel, [])
        following = bisect.bisect_right(segments, (one.start, math.inf))  # the first that ends after its start
        if one.error is None and following < len(segments) and segments[following][1] < one.end:
            found.append(one)
    return found
