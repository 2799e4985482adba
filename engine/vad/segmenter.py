"""Speech probabilities -> segments: one state machine for files and for live audio.

    frames of a VoiceActivityStream  ->  SpeechSpans, each as soon as it is known

- Speech begins with a frame at the threshold, and lasts until a frame falls HYSTERESIS below the threshold.
- A segment opens when speech has lasted min_speech_s. It starts padding_s before that speech.
- It closes when silence has lasted as long as the schedule requires at the segment's age, and ends padding_s after its
  last speech. The schedule is looked up at every frame, so that silence may count for more in an older segment.
- It waits mid_sentence_ms longer if the text of all its speech stops within a sentence. Live sessions tell this.
- A segment that reaches max_segment_s is cut in two: in the middle of the longest pause of its second half, or, if
  there is no pause, in the middle of its quietest QUIET_S. The network's probabilities find no such place among many
  voices, where they stay high in every pause.
- Speech that has gone on for unbroken_s is cut in the same way as soon as its quietest QUIET_S have ended.

The state machine counts whole frames, so the sizes of the pushed chunks change nothing. A file is one push() and one
finish().
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeAlias

import numpy as np

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..checks import check_fields
from ..errors import ConfigError
from .base import SpeechSpan, VoiceActivityStream

Schedule = tuple[tuple[float, float], ...]  # rows of (greatest age of the segment, silence that closes it), ms

# Our own. FunASR's offline table takes 22 % of what nobody speaks in for speech, and this 11 % (AMI, demos/hearing.md).
RECORDING_SCHEDULE: Schedule = ((math.inf, 1000),)
# FunASR's tables. The offline one keeps segments long, because words are lost at their edges. The streaming one closes
# segments earlier, to keep the latency low.
OFFLINE_SCHEDULE: Schedule = (
    (10_000, 2000), (20_000, 1000), (30_000, 800), (40_000, 600), (50_000, 400), (60_000, 200), (math.inf, 100),
)  # fmt: skip
STREAMING_SCHEDULE: Schedule = (
    (5_000, 2000), (10_000, 1500), (15_000, 1000), (30_000, 800), (45_000, 400), (math.inf, 100),
)  # fmt: skip
FIXED_SCHEDULE: Schedule = ((math.inf, 800),)
HYSTERESIS = 0.15  # difference in probability
QUIET_S = 0.4  # length of a pause that only the level shows: with 0.1 s, more cuts fall on sound (demos/hearing.md)

Heard: TypeAlias = list[tuple[float, bool]]  # of each frame: mean square of the QUIET_S that end with it, is speech


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRules:
    """When a segment opens, closes and is cut."""

    max_segment_s: float = 60.0
    padding_s: float = 0.2  # kept before and after the speech of a segment
    min_speech_s: float = 0.15  # shorter speech opens no segment
    silence_schedule: Schedule = RECORDING_SCHEDULE
    mid_sentence_ms: float = 0.0  # more silence that is waited for within a sentence
    unbroken_s: float = math.inf  # speech without a pause for this long is cut at its next quietest place
    threshold: float | None = None  # a frame with at least this probability is speech; None: the model's default

    MAX_PADDING_S: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise ConfigError(f"threshold must be in (0, 1), got {self.threshold}")
        if not 2.0 <= self.max_segment_s < math.inf:
            raise ConfigError(f"max_segment_s must be at least 2 s, got {self.max_segment_s}")
        for name, value in (("padding_s", self.padding_s), ("min_speech_s", self.min_speech_s)):
            if not 0.0 <= value <= self.MAX_PADDING_S:
                raise ConfigError(f"{name} must be in [0, {self.MAX_PADDING_S}] s, got {value}")
        if not 0.0 <= self.mid_sentence_ms < math.inf:
            raise ConfigError(f"mid_sentence_ms must be 0 or more, got {self.mid_sentence_ms}")
        if not self.unbroken_s >= 2.0:
            raise ConfigError(f"unbroken_s must be at least 2 s, got {self.unbroken_s}")
        bounds = [bound for bound, _ in _rows(self.silence_schedule)]
        rising = all(a < b for a, b in itertools.pairwise(bounds))
        if not bounds or not rising or bounds[-1] != math.inf or not all(ms > 0 for _, ms in self.silence_schedule):
            raise ConfigError(
                "silence_schedule must be [(up to ms, silence ms), ...] with rising bounds, the last one infinite, and "
                f"positive silences; got {list(self.silence_schedule)}"
            )

    def end_silence_ms(self, age_ms: float, *, is_mid_sentence: bool = False) -> float:
        """Silence that closes a segment of this age."""
        silence = next(silence for bound, silence in self.silence_schedule if age_ms <= bound)
        return silence + self.mid_sentence_ms if is_mid_sentence else silence

    def with_silence(self, schedule: Schedule) -> Self:
        """The same rules with this schedule, which then holds whatever the text or the level says."""
        return replace(self, silence_schedule=schedule, mid_sentence_ms=0.0, unbroken_s=math.inf)


def checked_schedule(schedule: Iterable[tuple[float, float]] | None, *, dynamic: bool, default: Schedule) -> Schedule:
    """The schedule of a request: its own, the `default`, or with `dynamic=False` FunASR's fixed 800 ms.

    Raises ConfigError for `dynamic=False` together with a schedule, and for rows that are not pairs of numbers.
    """
    if schedule is None:
        return default if dynamic else FIXED_SCHEDULE
    if not dynamic:
        raise ConfigError("dynamic_silence=False and silence_schedule=... exclude each other")
    return _rows(schedule)


def _rows(schedule: Iterable[tuple[float, float]]) -> Schedule:
    """The rows as tuples of floats. Raises ConfigError for rows that are not pairs of numbers."""
    try:
        return tuple((float(bound), float(silence)) for bound, silence in schedule)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"silence_schedule must be [(up to ms, silence ms), ...], got {schedule!r}") from error


# Two speakers 0.8 s apart get segments of their own. Pauses within a sentence are often as long; see mid_sentence_ms.
# Among many voices nothing ends in silence: the level and the limit close segments, so that the text is not too late.
LIVE_RULES = SegmentRules(
    max_segment_s=20.0, silence_schedule=((math.inf, 670),), mid_sentence_ms=500.0, unbroken_s=8.0
)


class SpeechSegmenter:
    """Finds the segments of one stream; the module's docstring has the rules. Internal times are whole frames."""

    def __init__(self, stream: VoiceActivityStream, rules: SegmentRules) -> None:
        self._stream = stream
        self._rules = rules
        self._threshold = stream.threshold if rules.threshold is None else rules.threshold
        self._frame_s = stream.frame_s
        self._max_frames = int(rules.max_segment_s / stream.frame_s)
        self._padding = math.ceil(rules.padding_s / stream.frame_s)
        self._min_speech = max(math.ceil(rules.min_speech_s / stream.frame_s), 1)
        self._unbroken = rules.unbroken_s / stream.frame_s
        self._frame_samples = round(stream.frame_s * SAMPLE_RATE)
        self._rest: Waveform = np.zeros(0, np.float32)  # samples of the incomplete frame
        self._levels = deque[float]()  # mean squares of the frames that wait for their probability
        self._last_levels = deque[float](maxlen=max(round(QUIET_S / stream.frame_s), 1))
        self.mid_sentence_to_s = 0.0  # the text of the open segment up to here (s) stops within a sentence
        self._num_samples = 0
        self._now = 0  # frames processed
        self._is_speech = False
        self._onset: int | None = None  # first frame of speech that may open a segment
        self._start: int | None = None  # of the open segment
        self._speech_end = 0  # end of the last speech in the open segment
        self._pause_end = 0  # end of the last frame without speech
        self._free_from = 0  # where the previous segment ended
        self._heard: Heard = []  # of the open segment

    @property
    def open(self) -> SpeechSpan | None:
        """The segment that has opened and not closed, up to now."""
        return None if self._start is None else self._span(self._start, self._now)

    @property
    def speech_end_s(self) -> float:
        """End (s) of the last speech in the open segment."""
        return self._speech_end * self._frame_s

    def closing_in(self, seconds: float) -> SpeechSpan | None:
        """The open segment as it will be closed within so many seconds, if the silence lasts; None: it will not."""
        if self._start is None:
            return None
        end = self._speech_end + self._padding
        left = self._end_silence(self._now - self._start) - (self._now - self._speech_end)
        return self._span(self._start, end) if left * self._frame_s <= seconds and end < self._now else None

    @property
    def settled_s(self) -> float:
        """No later span begins before this time, so samples before it may be dropped."""
        if self._start is not None:
            return self._start * self._frame_s
        begins = self._now if self._onset is None else self._onset
        return max(begins - self._padding, self._free_from) * self._frame_s

    def push(self, samples: Waveform) -> list[SpeechSpan]:
        """(N,) float32 at 16 kHz -> the segments that close within these samples."""
        self._num_samples += len(samples)
        self._measure(samples)
        spans = [self._step(probability) for probability in self._stream.push(samples).tolist()]
        return [span for span in spans if span is not None]

    def finish(self) -> list[SpeechSpan]:
        """Close the open segment, if any, at the end of the stream. Nothing may be pushed afterwards."""
        return [] if self._start is None else [self._close(self._speech_end + self._padding)]

    def _measure(self, samples: Waveform) -> None:
        """Note the levels of the frames that these samples complete."""
        self._rest = np.concatenate([self._rest, samples])
        num_frames = len(self._rest) // self._frame_samples
        whole = self._rest[: num_frames * self._frame_samples].reshape(num_frames, self._frame_samples)
        self._levels += np.square(whole).mean(axis=1).tolist()
        self._rest = self._rest[num_frames * self._frame_samples :].copy()

    def _step(self, probability: float) -> SpeechSpan | None:
        self._is_speech = probability >= self._threshold - (HYSTERESIS if self._is_speech else 0.0)
        self._now += 1
        self._last_levels.append(self._levels.popleft())
        if not self._is_speech:
            self._pause_end = self._now
        if self._start is None:
            self._await_speech()
            return None
        self._heard.append((math.fsum(self._last_levels) / len(self._last_levels), self._is_speech))
        if self._is_speech:
            self._speech_end = self._now
        elif self._now - self._speech_end >= self._end_silence(self._now - self._start):
            return self._close(min(self._speech_end + self._padding, self._now))
        if self._now - self._start >= self._max_frames:
            return self._cut(self._start, len(self._heard) - len(self._heard) // 2)
        return self._cut(self._start, math.ceil(self._unbroken)) if self._is_past_its_quietest(self._start) else None

    def _is_past_its_quietest(self, start: int) -> bool:
        """Whether speech has gone on for unbroken_s, and the quietest QUIET_S of that time have just ended."""
        if self._now - max(start, self._pause_end) < self._unbroken:
            return False
        *before, last = self._heard[-math.ceil(self._unbroken) :]
        return last > before[-1] == min(before)

    def _await_speech(self) -> None:
        if not self._is_speech:
            self._onset = None
            return
        if self._onset is None:
            self._onset = self._now - 1
        if self._now - self._onset >= self._min_speech:
            self._start = max(self._onset - self._padding, self._free_from)
            self._speech_end = self._now
            self._heard = [(math.inf, True)] * (self._now - self._start)  # no cut is searched so early

    def _end_silence(self, age: int) -> int:
        """Frames of silence that close a segment of this age."""
        is_mid_sentence = self.speech_end_s <= self.mid_sentence_to_s
        silence_ms = self._rules.end_silence_ms(age * self._frame_s * 1000, is_mid_sentence=is_mid_sentence)
        return math.ceil(round(silence_ms / (self._frame_s * 1000), 6))

    def _close(self, end: int) -> SpeechSpan:
        assert self._start is not None
        span = self._span(self._start, end)
        self._start = self._onset = None
        self._free_from = end
        return span

    def _cut(self, start: int, num_frames: int) -> SpeechSpan:
        """Cut the open segment at the best pause of its last frames; the rest stays open."""
        first, last = (
            place + self._now - num_frames for place in _best_pause(self._heard[-num_frames:], len(self._last_levels))
        )
        middle = (first + last) // 2
        span = self._close(min(first + self._padding, middle))
        if last < self._now:
            self._start = max(last - self._padding, middle)
            self._heard = self._heard[self._start - start :]
        return span

    def _span(self, start: int, end: int) -> SpeechSpan:
        return SpeechSpan(start * self._frame_s, min(end * self._frame_s, self._num_samples / SAMPLE_RATE))


def _best_pause(heard: Heard, num_quiet: int) -> tuple[int, int]:
    """[first, last) of the longest run of frames without speech.

    Without such a run, it is an empty interval in the middle of the quietest `num_quiet` frames.
    """
    best = (0, 0)
    place = 0
    for is_speech, run in itertools.groupby(heard, key=lambda frame: frame[1]):
        end = place + len(list(run))
        if not is_speech and end - place > best[1] - best[0]:
            best = (place, end)
        place = end
    if best == (0, 0):
        quietest = min(range(num_quiet - 1, len(heard)), key=lambda i: heard[i][0])
        middle = quietest + 1 - num_quiet // 2
        return middle, middle
    return best
