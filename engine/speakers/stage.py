"""SpeakerStage: embeds the clips of one offline run beside its two stages, and names the speakers of what is done.

A SpeakerQueue embeds clips in batches, and finished recordings get their speakers in a thread, which groups the windows
of long ones before they are finished. Only embeddings are kept of a recording: 50 MB for ten hours.
"""

import bisect
import math
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import torch

from ..audio.inputs import iterate_inputs
from ..audio.loading import load
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ASRError, AudioError, ConfigError
from ..isolation import alone
from ..run_options import SpeakerSettings
from ..transcript import Transcript
from .ahead import GroupsAhead
from .clustering import GroupsOf, SpeakerCount, block_groups
from .diarize import Stretch, diarize, stretch_of, windows_of
from .enrolment import REFERENCE_LIMITS, KnownSpeakers, label_names
from .labelling import relabelled, speakers_of, unnamed, with_speakers
from .model import Embeddings, SpeakerModel
from .queue import BATCH_WINDOWS, ModelSource, SpeakerQueue

PATIENCE_S = 0.25  # that a finished input lets its clips wait for a full batch; a busy run fills one in 0.05 s
MAX_WAITING_S = 1536.0  # of speech that waits for the model; the loop reads no more meanwhile


@dataclass(frozen=True, slots=True, eq=False)
class _Clip:
    index: int  # of the input
    start: float  # s, in the recording
    num_samples: int
    channel: int | None
    voices: Future[Embeddings]

    @property
    def name(self) -> tuple[float, int | None]:
        """It has no other of its input."""
        return self.start, self.channel

    @property
    def seconds(self) -> float:
        return self.num_samples / SAMPLE_RATE

    def heard(self) -> Stretch:
        """Waits until it is embedded."""
        error = self.voices.exception()
        if error is not None and not isinstance(error, ASRError):
            raise error
        return heard(self.start, self.num_samples, error or self.voices.result(), self.channel)


class SpeakerStage:
    """The speakers of the inputs of one run. Used as a context manager, which ends its threads.

    Clips are embedded in full batches, and sooner if the model is idle while a finished input waits for it.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: SpeakerSettings,
        *,
        on_gpu: bool = False,
        allow_urls: bool | Collection[str] = True,
    ) -> None:
        """`on_gpu`: see SpeakerQueue. `allow_urls`: see load().

        Raises:
            ConfigError, AudioError: a known speaker's clip cannot be used.
            ASRError: what the source raises if there is no model.
        """
        self._settings = settings
        self._known = enrolled(source.get(), settings, allow_urls=allow_urls)
        self._queue = SpeakerQueue(source, on_gpu=on_gpu, least_windows=BATCH_WINDOWS)
        self._queue.prepare()
        self._clips: deque[_Clip] = deque()  # that are not embedded yet
        self._waiting_s = 0.0  # of these
        self._num_waiting: Counter[int] = Counter()  # of these, those of each input
        self._stretches: dict[int, list[Stretch]] = {}
        self._ahead: dict[int, GroupsAhead] = {}  # of each input that is not finished
        self._finished: dict[int, tuple[float, Transcript]] = {}  # that wait for their clips since time.monotonic()
        self._named: deque[tuple[int, Future[Transcript]]] = deque()
        in_thread = partial(torch.set_num_threads, 1) if on_gpu else None
        self._naming_thread = ThreadPoolExecutor(1, "speakers-naming", in_thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._queue.close()
        self._naming_thread.shutdown(cancel_futures=True)

    def add(self, index: int, start: float, waveform: Waveform, channel: int | None) -> None:
        """A clip of the input at this place; it is embedded with others, soon. See is_full."""
        voices = self._queue.embed(waveform, windows_of(len(waveform)))
        self._clips.append(_Clip(index, start, len(waveform), channel, voices))
        self._waiting_s += self._clips[-1].seconds
        self._num_waiting[index] += 1
        if index not in self._ahead:
            self._ahead[index] = GroupsAhead(self._naming_thread)
        self._ahead[index].add(self._clips[-1].name)

    @property
    def is_full(self) -> bool:
        """Whether no clip is to be added before catch_up() has made room, so that memory stays bounded."""
        return self._waiting_s > MAX_WAITING_S

    def catch_up(self, wait_s: float) -> None:
        """Wait so long at most until the clip that was added first is embedded."""
        self._queue.flush()
        if wait([self._clips[0].voices], wait_s).done:
            self._take()

    def told(self, index: int, start: float, channel: int | None, *, is_spoken: bool) -> None:
        """Whether a clip that may have been added says anything, which the windows of a long input are grouped by."""
        if index in self._ahead:
            self._ahead[index].told((start, channel), is_spoken=is_spoken)

    def flush(self) -> None:
        """Let no clip wait for a full batch, since no other comes; the last ones are embedded beside stage 2."""
        self._queue.flush()

    def finish(self, index: int, transcript: Transcript) -> None:
        """The transcript of an input, all of whose clips were added; done() or rest() gives it with its speakers."""
        self._finished[index] = time.monotonic(), transcript
        self._name(index)

    def done(self) -> Iterator[tuple[int, Transcript]]:
        """The finished inputs whose speakers are known by now. It waits for nothing."""
        while self._clips and self._clips[0].voices.done():
            self._take()
        since, _ = next(iter(self._finished.values()), (float("inf"), None))
        if self._queue.is_idle and time.monotonic() - since >= PATIENCE_S:
            self._queue.flush()
        while self._named and self._named[0][1].done():
            yield self._take_named()

    def rest(self) -> Iterator[tuple[int, Transcript]]:
        """All other finished inputs. It waits for their speakers."""
        self._queue.flush()
        while self._clips:
            self._take()
        while self._named:
            yield self._take_named()

    def _take(self) -> None:
        clip = self._clips.popleft()
        stretch = clip.heard()
        self._stretches.setdefault(clip.index, []).append(stretch)
        self._ahead[clip.index].heard(clip.name, stretch.embeddings)
        self._waiting_s -= clip.seconds
        self._num_waiting[clip.index] -= 1
        self._name(clip.index)

    def _name(self, index: int) -> None:
        """Let the speakers of an input be named if it is finished and all of its clips are embedded."""
        if index not in self._finished or self._num_waiting[index]:
            return
        del self._num_waiting[index]
        (_, transcript), stretches = self._finished.pop(index), self._stretches.pop(index, [])
        groups_of = self._ahead.pop(index, block_groups)
        future = self._naming_thread.submit(named, transcript, stretches, self._settings.count, self._known, groups_of)
        self._named.append((index, future))

    def _take_named(self) -> tuple[int, Transcript]:
        index, future = self._named.popleft()
        return index, future.result()


def heard(start: float, num_samples: int, rows: Embeddings | ASRError, channel: int | None) -> Stretch:
    """The stretch of samples whose windows have these embeddings, or could not be embedded."""
    if isinstance(rows, ASRError):
        none = np.zeros((0, 2)), np.zeros((0, 0), np.float32)
        return Stretch(start, start + num_samples / SAMPLE_RATE, *none, channel, error=str(rows))
    return stretch_of(start, num_samples, rows, channel)


def named(
    transcript: Transcript,
    stretches: Sequence[Stretch],
    count: SpeakerCount,
    known: KnownSpeakers | None,
    groups_of: GroupsOf = block_groups,
) -> Transcript:
    """The transcript with the speakers of its stretches, in any order. What fails in this is a warning of it.

    A transcript of status "error" stays as it is. `groups_of`: see clustering.cluster().
    """
    if transcript.status == "error":
        return transcript
    done = alone("speakers", transcript.key, partial(_named, transcript, stretches, count, known, groups_of))
    return unnamed(transcript, str(done)) if isinstance(done, ASRError) else done


def _named(
    transcript: Transcript,
    stretches: Sequence[Stretch],
    count: SpeakerCount,
    known: KnownSpeakers | None,
    groups_of: GroupsOf,
) -> Transcript:
    spoken = _with_words(stretches, transcript)
    diarized = diarize(spoken, count, groups_of)
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
