"""Subtitles of a given width, height and number of words, and with each word marked while it is spoken."""

import logging
import re
from itertools import pairwise
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.writers.transcripts import transcripts
from twostage_asr.engine import ConfigError, Segment, Transcript, Word
from twostage_asr.engine.writers import SubtitleShape, cues, formatted, write_file

SHAPES = st.builds(
    SubtitleShape,
    max_line_width=st.integers(1, 30),
    max_lines=st.integers(1, 3),
    max_words_per_cue=st.none() | st.integers(1, 5),
)
KARAOKE = SubtitleShape(highlight_words=True)


def spoken(text: str, *times: tuple[str, float, float]) -> Transcript:
    words = tuple(Word(word, start, end, 1.0) for word, start, end in times)
    segment = Segment(words[0].start, words[-1].end, text, words, 1.0)
    return Transcript(key="k", text=text, segments=(segment,), duration=segment.end)


HELLO = spoken("Hello, <big> world.", ("Hello", 1.0, 1.4), ("big", 1.6, 1.8), ("world", 1.8, 2.5))


def columns(text: str) -> int:
    return sum(2 if "\u2e80" <= char <= "\uffef" else 1 for char in text)


@given(transcript=transcripts(), shape=SHAPES)
def test_cues_have_the_shape_that_is_asked_for(transcript: Transcript, shape: SubtitleShape) -> None:
    found = cues(transcript, shape)
    assert "".join("".join(cue.text.split()) for cue in found) == "".join(transcript.text.split())
    for cue in found:
        for row, line in zip(cue.rows, cue.lines, strict=True):
            assert columns(line) <= shape.max_line_width or len(row) == 1
        if cue.is_timed:
            assert len(cue.lines) <= shape.max_lines
            assert len(cue.words) <= (shape.max_words_per_cue or len(cue.words))
    words = [word.text for segment in transcript.segments for word in segment.words or ()]
    shown = [word.text for cue in found if cue.is_timed for word in cue.words]
    assert len(shown) <= len(words) and all(any(word in text for text in shown) for word in words)


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        (SubtitleShape(max_line_width=12, max_lines=1), ["The", "well-known", "“tall” tree."]),
        (SubtitleShape(max_words_per_cue=1), ["The", "well-known", "“tall”", "tree."]),
        (SubtitleShape(max_line_width=17, max_lines=1), ["The well-known", "“tall” tree."]),
    ],
)
def test_a_cue_begins_with_its_words_own_marks(shape: SubtitleShape, shown: list[str]) -> None:
    names = ["The", "well", "known", "tall", "tree"]
    transcript = spoken("The well-known “tall” tree.", *((n, 0.2 * i, 0.2 * i + 0.2) for i, n in enumerate(names)))
    found = cues(transcript, shape)
    assert [cue.text for cue in found] == shown
    starts = {"The": 0.0, "well-known": 0.2, "“tall”": 0.6, "tree.": 0.8}
    assert [cue.start for cue in found] == pytest.approx([starts[text.split()[0]] for text in shown])
    assert found[-1].end == pytest.approx(1.0)


def test_a_word_that_begins_with_a_mark_is_not_cut() -> None:
    text = "你'cdga b"
    found = cues(
        spoken(text, ("你", 0, 1), ("'cdg", 1, 2), ("a", 2, 3), ("b", 3, 4)), SubtitleShape(max_words_per_cue=1)
    )
    assert [(cue.text, cue.start, cue.end) for cue in found] == [("你'cdga", 0, 3), ("b", 3, 4)]


def test_chinese_takes_two_columns_and_marks_begin_no_line() -> None:
    text = "你好，世界，再见“朋友”。"
    shape = SubtitleShape(max_line_width=6, max_lines=9)
    (cue,) = cues(spoken(text, *((c, i * 0.1, i * 0.1 + 0.1) for i, c in enumerate("你好世界再见朋友"))), shape)
    assert cue.lines == ["你好，", "世界，", "再见", "“朋", "友”。"]


def test_webvtt_stamps_each_word_within_its_cue() -> None:
    stamped = "<c>Hello,</c> <00:00:01.600><c>&lt;big&gt;</c> <00:00:01.800><c>world.</c>"
    assert formatted(HELLO, "vtt", KARAOKE).splitlines()[2:] == ["00:00:01.000 --> 00:00:02.500", stamped]


def test_srt_underlines_each_word_in_a_cue_of_its_own() -> None:
    read = pysubs2.SSAFile.from_string(formatted(HELLO, "srt", KARAOKE), format_="srt")
    assert [(event.start, event.end) for event in read] == [(1000, 1400), (1400, 1600), (1600, 1800), (1800, 2500)]
    marked = [re.findall(r"\{\\u1\}(.*?)\{\\u0\}", event.text) for event in read]
    assert [len(words) for words in marked] == [1, 0, 1, 1] and marked[0] == ["Hello,"] and marked[3] == ["world."]


def test_ass_gives_each_word_its_hundredths() -> None:
    (event,) = pysubs2.SSAFile.from_string(formatted(HELLO, "ass", KARAOKE), format_="ass")
    assert event.text == r"{\k40}Hello, {\k20}{\k20}<big> {\k70}world." and event.style == "Karaoke"
    assert event.plaintext == "Hello, <big> world."


@given(transcript=transcripts(), shape=SHAPES)
def test_highlighted_files_hold_the_same_text_and_times(transcript: Transcript, shape: SubtitleShape) -> None:
    shape = SubtitleShape(max_line_width=shape.max_line_width, max_lines=shape.max_lines, highlight_words=True)
    found = cues(transcript, shape)
    ass = pysubs2.SSAFile.from_string(formatted(transcript, "ass", shape), format_="ass")
    assert [event.plaintext.split("\n") for event in ass] == [cue.lines for cue in found]
    for event, cue in zip(ass, found, strict=True):
        hundredths = sum(map(int, re.findall(r"\\k(\d+)", event.text)))
        assert hundredths <= (event.end - event.start) / 10 and bool(hundredths) == cue.is_timed
    blocks = [b for b in formatted(transcript, "vtt", shape).split("\n\n")[1:] if not b.startswith("NOTE")]
    assert len(blocks) == len(found)
    for block, cue in zip(blocks, found, strict=True):
        times, *lines = block.rstrip("\n").split("\n")
        plain = [re.sub(r"<[^>]*>", "", line) for line in lines]
        assert [t.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for t in plain] == cue.lines
        stamps = [times[:12], *re.findall(r"<(\d\d:[\d:.]+)>", block), times[-12:]]
        assert all(a < b for a, b in pairwise(stamps))
    read = pysubs2.SSAFile.from_string(formatted(transcript, "srt", shape), format_="srt")
    assert all(event.start < event.end for event in read)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (SubtitleShape(max_line_width=10), "without word times 1 of 1 cues are longer than asked for"),
        (SubtitleShape(max_words_per_cue=3), "without word times 1 of 1 cues are longer than asked for"),
        (KARAOKE, "without word times words are not highlighted in 1 of 1 cues"),
        (SubtitleShape(max_line_width=20), None),
    ],
)
def test_without_word_times_the_lines_are_kept_and_the_rest_is_said(
    shape: SubtitleShape, said: str | None, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    text = "one two three four five six"
    untimed = Transcript(key="k", text=text, segments=(Segment(0.0, 9.0, text, None, None),))
    with caplog.at_level(logging.WARNING):
        write_file(untimed, tmp_path / "a.srt", shape)
    times, *lines = (tmp_path / "a.srt").read_text().splitlines()[1:]
    assert times == "00:00:00,000 --> 00:00:09,000" and " ".join(lines) == text
    assert all(len(line) <= shape.max_line_width for line in lines)
    assert [record.getMessage() for record in caplog.records] == ([f"k: {said}"] if said else [])
    notes = [line for line in formatted(untimed, "vtt", shape).splitlines() if line.startswith("NOTE")]
    assert notes == ([f"NOTE warning: no_word_times: {said}"] if said else [])


@pytest.mark.parametrize("name", ["max_line_width", "max_lines", "max_words_per_cue"])
def test_a_shape_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        SubtitleShape(**{name: 0})


@pytest.mark.parametrize("name", ["srt", "vtt", "ass"])
@pytest.mark.parametrize("shape", [SubtitleShape(), KARAOKE])
@pytest.mark.parametrize("start", [1.0, 1.0015, 1.005])
def test_words_without_length_are_shown(name: str, shape: SubtitleShape, start: float) -> None:
    said = spoken("Oh no.", ("Oh", start, start), ("no", start, start))
    (event,) = pysubs2.SSAFile.from_string(formatted(said, name, shape), format_=name)
    assert event.plaintext == "Oh no." and event.start < event.end
