"""Cues that a viewer can read, in time and in full; SRT shows them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.transcript import Segment, Transcript, Word
from twostage_asr.engine.writers import cues, srt_text, write_file
from twostage_asr.engine.writers.cues import CUE_MAX_S, LINE_COLUMNS, LINES_PER_CUE


def segment(text: str, words: list[str] | None = None, *, start: float = 0.0, word_s: float = 0.3) -> Segment:
    """Words one after the other without pauses; by default the text without its marks, split at spaces."""
    spoken = re.findall(r"[\w']+", text) if words is None else words
    timed = tuple(
        Word(word, start + word_s * index, start + word_s * (index + 1), 1.0) for index, word in enumerate(spoken)
    )
    return Segment(start=start, end=start + word_s * len(spoken), text=text, words=timed, confidence=1.0)


def transcript(*segments: Segment) -> Transcript:
    return Transcript(key="k", text=" ".join(s.text for s in segments), segments=segments)


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_srt_of_short_segments(tmp_path: Path) -> None:
    two = transcript(segment("Good morning.", start=0.5), segment("你好，世界。", list("你好世界"), start=3723.0004))
    expected = "1\n00:00:00,500 --> 00:00:01,100\nGood morning.\n\n2\n01:02:03,000 --> 01:02:04,200\n你好，世界。\n"
    assert srt_text(two) == expected
    write_file(two, tmp_path / "a.srt")
    assert (tmp_path / "a.srt").read_bytes() == expected.encode()


@pytest.mark.parametrize("empty", [Transcript(key="k"), Transcript(key="k", text="hi"), transcript(segment(" \n "))])
def test_nothing_said_gives_an_empty_srt(empty: Transcript) -> None:
    assert srt_text(empty) == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "00:00:00,000"), (-0.2, "00:00:00,000"), (59.9996, "00:01:00,000"), (360_000.001, "100:00:00,001")],
)
def test_srt_times(seconds: float, shown: str) -> None:
    timed = Segment(start=seconds, end=seconds + 10, text="a", words=None, confidence=None)
    assert srt_text(transcript(timed)).splitlines()[1].startswith(shown + " --> ")


def test_a_blank_line_in_the_text_does_not_end_the_cue() -> None:
    broken = segment("one\n\n2\n00:00:09,000 --> 00:00:10,000\ntwo", ["one", "two"])
    assert srt_text(transcript(broken)).count("\n\n") == 0


def test_sentences_get_cues_of_their_own() -> None:
    text = 'He said: "we leave at dawn." Nobody answered him, not even once. Yes.'
    assert [cue.text for cue in cues(transcript(segment(text)))] == [
        'He said: "we leave at dawn."',
        "Nobody answered him, not even once.",
        "Yes.",
    ]


def test_a_short_sentence_stays_with_the_next() -> None:
    assert [cue.text for cue in cues(transcript(segment("No. That is not what I meant.")))] == [
        "No. That is not what I meant."
    ]


def test_long_sentences_are_cut_at_a_comma() -> None:
    text = "今天我们讨论的主要内容是语音识别系统的两个阶段以及它们之间的接口，然后再看一看实验的结果和下一步的计划"
    found = cues(transcript(segment(text, re.findall(r"\w", text), word_s=0.15)))
    assert [cue.text for cue in found] == [text[: text.index("，") + 1], text[text.index("，") + 1 :]]
    assert found[0].end == found[1].start == pytest.approx(0.15 * text.index("，"))


def test_a_line_of_chinese_is_half_as_many_characters() -> None:
    text = "今天我们讨论的主要内容是语音识别系统的两个阶段以及它们之间的接口"
    (block,) = srt_text(transcript(segment(text, list(text), word_s=0.15))).split("\n\n")
    assert block.splitlines()[2:] == [text[:21], text[21:]]


def test_long_sentences_without_a_comma_are_cut_at_a_pause() -> None:
    words = [f"word{index:02d}" for index in range(20)]
    spoken = segment(" ".join(words))
    late = tuple(
        Word(w.text, w.start + (0.6 if index >= 8 else 0), w.end + (0.6 if index >= 8 else 0), 1.0)
        for index, w in enumerate(spoken.words or ())
    )
    paused = Segment(start=0.0, end=7.0, text=spoken.text, words=late, confidence=1.0)
    assert [len(cue.text.split()) for cue in cues(transcript(paused))] == [8, 12]


def test_slow_speech_is_cut_by_time() -> None:
    found = cues(transcript(segment("one two three four five six", word_s=2.0)))
    assert [cue.text for cue in found] == ["one two three", "four five six"]


@pytest.mark.parametrize("words", [None, ("not", "in", "it")])
def test_without_word_times_a_segment_is_one_cue(words: tuple[str, ...] | None) -> None:
    text = "so many words that they can never fit into the two lines of one cue, " * 3
    timed = None if words is None else tuple(Word(word, 1.0, 2.0, 1.0) for word in words)
    (cue,) = cues(transcript(Segment(start=1.0, end=20.0, text=text, words=timed, confidence=None)))
    assert (cue.start, cue.end, cue.text) == (1.0, 20.0, text.strip())


def test_overlapping_times_are_put_in_order() -> None:
    found = cues(transcript(segment("one two", start=5.0), segment("three", start=5.1), segment("four", start=4.0)))
    assert [round(cue.start, 3) for cue in found] == [5.0, 5.6, 5.601]
    assert all(cue.start < cue.end for cue in found)


MARKS = st.sampled_from(["", "", "", "", ",", ".", "?", "，", "。", "！", '."', "…"])
LATIN = st.text("abcdefgé", min_size=1, max_size=12)
CHINESE = st.sampled_from("你好世界天地人")


@given(
    st.lists(st.tuples(st.one_of(LATIN, CHINESE), MARKS, st.floats(0.0, 2.0), st.floats(0.0, 1.0)), min_size=1),
    st.booleans(),
)
def test_cues_are_readable_in_order_and_complete(spoken: list[tuple[str, str, float, float]], has_lead: bool) -> None:
    text, clock, words = "“" if has_lead else "", 0.0, []
    for word, mark, gap_s, word_s in spoken:
        words.append(Word(word, clock + gap_s, clock + gap_s + word_s, 1.0))
        clock += gap_s + word_s
        text += word + mark + (" " if word.isascii() or word[0] < "\u2000" else "")
    one = transcript(Segment(start=0.0, end=clock, text=text, words=tuple(words), confidence=1.0))
    found = cues(one)
    assert squeezed("".join(cue.text for cue in found)) == squeezed(text)
    previous_end = 0.0
    for cue, block in zip(found, srt_text(one).split("\n\n"), strict=True):
        lines = block.rstrip("\n").split("\n")[2:]
        assert squeezed("".join(lines)) == squeezed(cue.text)
        assert len(lines) <= LINES_PER_CUE and all(columns(line) <= LINE_COLUMNS for line in lines)
        assert previous_end <= cue.start < cue.end <= max(clock, cue.start) + 0.0011
        assert cue.end - cue.start <= CUE_MAX_S + 0.001
        previous_end = cue.end


def columns(text: str) -> int:
    return sum(2 if "\u2e80" <= char <= "\uffef" else 1 for char in text)


def test_cues_of_two_channels_may_overlap_as_the_talk_does() -> None:
    spoken = [(0.0, 2.0, "a", 0), (1.0, 3.0, "b", 1), (1.5, 4.0, "c", 0)]
    segments = tuple(Segment(start, end, text, None, None, channel=channel) for start, end, text, channel in spoken)
    found = cues(Transcript(key="k", segments=segments, duration=4.0))
    assert [(cue.start, cue.end, cue.text) for cue in found] == [(0.0, 2.0, "a"), (1.0, 3.0, "b"), (2.0, 4.0, "c")]
