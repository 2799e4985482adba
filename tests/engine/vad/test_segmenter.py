"""The state machine: its rules one by one, and that the sizes of the pieces pushed never matter."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twostage_asr.engine import ConfigError
from twostage_asr.engine.vad import (
    FIXED_SCHEDULE,
    LIVE_RULES,
    OFFLINE_SCHEDULE,
    STREAMING_SCHEDULE,
    Schedule,
    SegmentRules,
    SpeechSegmenter,
    SpeechSpan,
    checked_schedule,
)

FRAME = 160  # samples: 10 ms
PLAIN = SegmentRules(padding_s=0.0, min_speech_s=0.0, silence_schedule=FIXED_SCHEDULE)


class Scripted:
    """A stream whose probabilities are the first samples of its frames of 10 ms."""

    frame_s = 0.01
    threshold = 0.5

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        self._rest = np.concatenate([self._rest, samples])
        num_frames = len(self._rest) // FRAME
        frames, self._rest = self._rest[: num_frames * FRAME : FRAME], self._rest[num_frames * FRAME :]
        return frames


def samples(*runs: tuple[float, float]) -> np.ndarray:
    """(seconds, probability) runs -> the samples that Scripted reads so."""
    return np.concatenate([np.full(round(s * 100) * FRAME, p, np.float32) for s, p in runs])


def spans(rules: SegmentRules, *runs: tuple[float, float]) -> list[tuple[float, float]]:
    segmenter = SpeechSegmenter(Scripted(), rules)
    found = segmenter.push(samples(*runs)) + segmenter.finish()
    return [(round(span.start, 3), round(span.end, 3)) for span in found]


@st.composite
def streams(draw: st.DrawFn) -> np.ndarray:
    """Runs of speech, of silence and of doubt, up to a minute."""
    runs = draw(st.lists(st.tuples(st.integers(1, 600), st.sampled_from([0.0, 0.3, 0.4, 0.6, 1.0])), max_size=12))
    tail = np.ones(draw(st.integers(0, FRAME - 1)), np.float32)
    return np.concatenate([*(np.full(n * FRAME, p, np.float32) for n, p in runs), tail])


@st.composite
def rules(draw: st.DrawFn) -> SegmentRules:
    schedule = ((3000.0, 700.0), (6000.0, 300.0), (math.inf, 50.0))
    return SegmentRules(
        max_segment_s=draw(st.floats(2, 20)),
        padding_s=draw(st.floats(0, 0.5)),
        min_speech_s=draw(st.floats(0, 0.5)),
        silence_schedule=draw(st.sampled_from([schedule, OFFLINE_SCHEDULE, STREAMING_SCHEDULE])),
        unbroken_s=draw(st.sampled_from([2.0, 3.0, math.inf])),
    )


@settings(max_examples=50)
@given(streams(), rules(), st.lists(st.integers(1, 40_000), min_size=1))
def test_chunks_do_not_change_the_spans(pcm: np.ndarray, rules: SegmentRules, sizes: list[int]) -> None:
    whole, live = SpeechSegmenter(Scripted(), rules), SpeechSegmenter(Scripted(), rules)
    expected = whole.push(pcm) + whole.finish()
    found: list[SpeechSpan] = []
    position = 0
    for size in itertools.cycle(sizes):
        settled = live.settled_s
        spans = live.push(pcm[position : position + size])
        assert all(span.start >= settled for span in spans)
        found += spans
        position += size
        if position >= len(pcm):
            break
    assert found + live.finish() == expected


@settings(max_examples=50)
@given(streams(), rules())
def test_spans_lie_in_order_in_the_stream_and_are_no_longer_than_allowed(pcm: np.ndarray, rules: SegmentRules) -> None:
    segmenter = SpeechSegmenter(Scripted(), rules)
    found = segmenter.push(pcm) + segmenter.finish()
    edges = [edge for span in found for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= len(pcm) / 16_000)
    padding = 0.51  # the end of the stream may add it
    assert all(0 < span.end - span.start <= rules.max_segment_s + padding for span in found)


ROWS = [
    (schedule, max(above, 0.0), bound, silence)
    for schedule in (OFFLINE_SCHEDULE, STREAMING_SCHEDULE, ((5_000, 1500), (20_000, 800), (math.inf, 300)))
    for (above, _), (bound, silence) in itertools.pairwise([(0.0, 0.0), *schedule])
]


@pytest.mark.parametrize(("schedule", "above", "bound", "silence"), ROWS)
def test_every_row_of_the_schedules(schedule: Schedule, above: float, bound: float, silence: float) -> None:
    """The segment is of an age in this row when the silence is as long as the row asks."""
    rules = SegmentRules(padding_s=0.0, min_speech_s=0.0, silence_schedule=schedule, max_segment_s=1e4)
    speech = (min(bound, above + 5000) - silence) / 1000
    assert spans(rules, (speech, 1.0), (silence / 1000 - 0.01, 0.0), (0.01, 1.0)) == [(0, speech + silence / 1000)]
    assert spans(rules, (speech, 1.0), (silence / 1000, 0.0), (1.0, 1.0))[0] == (0, round(speech, 3))


def test_the_silence_asked_for_falls_while_it_lasts() -> None:
    """2 s of silence would close it, but after 1.8 s the segment is 10 s old and 1 s is enough."""
    segmenter = SpeechSegmenter(Scripted(), SegmentRules(padding_s=0.0, silence_schedule=OFFLINE_SCHEDULE))
    assert segmenter.push(samples((8.2, 1.0), (1.8, 0.0))) == []
    assert segmenter.push(samples((0.01, 0.0))) == [SpeechSpan(0.0, 8.2)]


@pytest.mark.parametrize(("heard_s", "closes_after_s"), [(0.0, 0.4), (0.99, 0.4), (1.0, 0.7), (1.2, 0.7)])
def test_a_segment_waits_longer_if_the_text_of_all_its_speech_stops_within_a_sentence(
    heard_s: float, closes_after_s: float
) -> None:
    rules = SegmentRules(padding_s=0.0, silence_schedule=((math.inf, 400),), mid_sentence_ms=300)
    segmenter = SpeechSegmenter(Scripted(), rules)
    segmenter.push(samples((1.0, 1.0)))
    segmenter.mid_sentence_to_s = heard_s
    assert segmenter.push(samples((closes_after_s - 0.01, 0.0))) == []
    assert segmenter.push(samples((0.01, 0.0))) == [SpeechSpan(0.0, 1.0)]


def test_a_schedule_that_is_asked_for_holds_whatever_the_text_or_the_level_says() -> None:
    rules = LIVE_RULES.with_silence(STREAMING_SCHEDULE)
    assert rules.end_silence_ms(1000, is_mid_sentence=True) == 2000
    assert rules.unbroken_s == math.inf


def test_a_segment_keeps_padding_but_never_shares_it() -> None:
    rules = SegmentRules(padding_s=0.3, min_speech_s=0.1, silence_schedule=((math.inf, 400),))
    assert spans(rules, (1, 0), (1, 1), (0.4, 0), (1, 1), (1, 0)) == [(0.7, 2.3), (2.3, 3.7)]
    assert spans(rules, (0.1, 0), (1, 1), (0.1, 0)) == [(0, 1.2)]


def test_a_fifth_of_a_second_is_kept_unless_it_is_said_otherwise() -> None:
    assert spans(SegmentRules(silence_schedule=((math.inf, 500),)), (1, 0), (1, 1), (1, 0)) == [(0.8, 2.2)]


def test_short_sounds_open_nothing() -> None:
    rules = SegmentRules(padding_s=0.0, min_speech_s=0.2)
    assert spans(rules, (1, 0), (0.19, 1), (1, 0)) == []
    assert spans(rules, (1, 0), (0.2, 1), (1, 0)) == [(1, 1.2)]


def test_speech_goes_on_in_doubt_and_does_not_begin_in_it() -> None:
    assert spans(PLAIN, (1, 0.4), (1, 0.6), (2, 0.4), (1, 0.3)) == [(1, 4)]


def test_a_long_segment_is_cut_in_its_longest_late_pause() -> None:
    rules = SegmentRules(padding_s=0.1, min_speech_s=0.0, silence_schedule=((math.inf, 900),), max_segment_s=10.0)
    runs = ((3, 1), (0.8, 0), (3, 1), (0.2, 0), (1, 1), (0.4, 0), (5, 1))
    assert spans(rules, *runs) == [(0, 8.1), (8.3, 13.4)]


def test_a_long_segment_without_a_pause_is_cut_in_the_middle_of_its_quietest_part() -> None:
    """One frame may be quieter still: a consonant is no pause."""
    runs = ((5.5, 1), (0.01, 0.5), (1.49, 1), (0.4, 0.9), (6, 1))
    assert spans(SegmentRules(max_segment_s=10.0), *runs) == [(0, 7.2), (7.2, 13.4)]


def test_unbroken_speech_is_cut_as_soon_as_its_quietest_part_has_ended() -> None:
    rules = SegmentRules(max_segment_s=30.0, unbroken_s=5.0)
    segmenter = SpeechSegmenter(Scripted(), rules)
    assert segmenter.push(samples((3.0, 1.0), (0.4, 0.8), (2.0, 1.0), (0.4, 0.9), (2.0, 1.0))) == []
    assert segmenter.push(samples((0.4, 0.7))) == []
    assert segmenter.push(samples((0.01, 1.0))) == [SpeechSpan(0.0, 8.0)]
    assert segmenter.open == SpeechSpan(8.0, pytest.approx(8.21))  # type: ignore[arg-type]
    assert segmenter.push(samples((4.7, 1.0))) == []  # 5 s have not passed since the cut


def test_a_pause_breaks_speech_and_an_even_level_has_no_quietest_part() -> None:
    rules = SegmentRules(max_segment_s=30.0, unbroken_s=5.0)
    assert spans(rules, (4.9, 1), (0.1, 0), (3, 1), (0.4, 0.7), (1, 1)) == [(0, 9.4)]
    assert spans(rules, (20, 1)) == [(0, 20)]


def test_open_and_settled_tell_where_the_next_span_begins() -> None:
    segmenter = SpeechSegmenter(Scripted(), SegmentRules(padding_s=0.2, min_speech_s=0.1))
    segmenter.push(samples((1.0, 0.0)))
    assert segmenter.open is None
    assert segmenter.settled_s == pytest.approx(0.8)
    segmenter.push(samples((0.5, 1.0)))
    assert segmenter.open == SpeechSpan(pytest.approx(0.8), 1.5)  # type: ignore[arg-type]
    assert segmenter.settled_s == pytest.approx(0.8)


@pytest.mark.parametrize(
    "schedule",
    [(), ((1000, 500),), ((2000, 500), (1000, 500), (math.inf, 1)), ((math.inf, 0),), ((math.inf, math.nan),)],
)
def test_schedules_that_cannot_work_are_refused(schedule: Schedule) -> None:
    with pytest.raises(ConfigError, match="silence_schedule must be"):
        SegmentRules(silence_schedule=schedule)


def test_a_schedule_is_the_default_the_fixed_one_or_the_users() -> None:
    assert checked_schedule(None, dynamic=True, default=STREAMING_SCHEDULE) == STREAMING_SCHEDULE
    assert checked_schedule(None, dynamic=False, default=STREAMING_SCHEDULE) == FIXED_SCHEDULE
    assert checked_schedule([(math.inf, 300)], dynamic=True, default=()) == ((math.inf, 300.0),)
    with pytest.raises(ConfigError, match="exclude each other"):
        checked_schedule([(math.inf, 300)], dynamic=False, default=())
    with pytest.raises(ConfigError, match="got 'never'"):
        checked_schedule("never", dynamic=True, default=())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"max_segment_s": 1.9},
        {"padding_s": -0.1},
        {"min_speech_s": 0.6},
        {"mid_sentence_ms": -1.0},
        {"unbroken_s": 1.9},
    ],
)
def test_rules_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        SegmentRules(**change)  # type: ignore[arg-type]


@settings(max_examples=50)
@given(streams(), st.sampled_from([PLAIN, LIVE_RULES]), st.floats(0.0, 1.0))
def test_a_segment_that_is_closing_is_closed_so_if_the_silence_lasts(
    stream: np.ndarray, rules: SegmentRules, seconds: float
) -> None:
    segmenter = SpeechSegmenter(Scripted(), replace(rules, max_segment_s=3600.0))
    segmenter.push(stream[: len(stream) // FRAME * FRAME])
    closing = segmenter.closing_in(seconds)
    if closing is not None:
        assert segmenter.push(samples((seconds + 0.01, 0.0))) == [closing]


def test_a_segment_is_closing_once_the_silence_lacks_so_much() -> None:
    segmenter = SpeechSegmenter(Scripted(), replace(PLAIN, padding_s=0.2))
    segmenter.push(samples((1.0, 1.0), (0.69, 0.0)))
    assert segmenter.closing_in(0.1) is None
    segmenter.push(samples((0.01, 0.0)))
    assert segmenter.closing_in(0.1) == SpeechSpan(0.0, pytest.approx(1.2))
