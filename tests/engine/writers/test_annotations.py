"""CTM, RTTM and TextGrid: praatio and the columns of NIST's formats give the words and segments back."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from praatio import textgrid

from tests.engine.writers.transcripts import transcripts
from twostage_asr.engine import Segment, Transcript, TranscriptWarning, Word
from twostage_asr.engine.transcript import SpeakerTurn
from twostage_asr.engine.writers import WRITERS, write_file


def read_textgrid(transcript: Transcript) -> textgrid.Textgrid:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.TextGrid"
        write_file(transcript, path)
        return textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")


def rttm_columns(transcript: Transcript) -> list[list[str]]:
    return [line.split()[2:4] for line in WRITERS["rttm"](transcript).splitlines()]


def entries(grid: textgrid.Textgrid, tier: str) -> list[tuple[float, float, str]]:
    return [(entry.start, entry.end, entry.label) for entry in grid.getTier(tier).entries]


@given(transcripts())
def test_praatio_reads_segments_and_words(transcript: Transcript) -> None:
    grid = read_textgrid(transcript)
    words = [word for segment in transcript.segments for word in segment.words or ()]
    assert entries(grid, "words") == [(w.start, w.end, w.text) for w in words]
    assert entries(grid, "segments") == [(s.start, s.end, s.text) for s in transcript.segments]
    assert grid.tierNames == ("segments", "words")
    assert grid.maxTimestamp == max(transcript.duration, 0.001)


def test_a_textgrid_quotes_orders_and_warns() -> None:
    words = (Word("a", 0.5, 0.9, 1.0), Word("b", 0.7, 0.7, 1.0))  # which overlap, and the last takes no time
    odd = Transcript(
        key="k",
        segments=(Segment(0.5, 0.9, 'say "a"', words, None),),
        duration=0.8,
        warnings=(TranscriptWarning("unfinished", "it stops"),),
    )
    assert 'text = "say ""a"""' in WRITERS["TextGrid"](odd)
    grid = read_textgrid(odd)
    assert entries(grid, "segments") == [(0.5, 0.9, 'say "a"')]
    assert entries(grid, "words") == [(0.5, 0.9, "a"), (0.9, 0.901, "b")]
    assert [label for _, _, label in entries(grid, "warnings")] == ["warning: unfinished: it stops"]


@given(transcripts())
def test_ctm_has_a_line_a_word_and_rttm_a_line_a_segment(transcript: Transcript) -> None:
    words = [word for segment in transcript.segments for word in segment.words or ()]
    rows = [line.split(" ") for line in WRITERS["ctm"](transcript).splitlines()]
    assert [(row[0], row[4]) for row in rows] == [("a_clip", word.text) for word in words]
    for row, word in zip(rows, words, strict=True):
        start, length, confidence = (float(row[i]) for i in (2, 3, 5))
        assert (start, start + length, confidence) == pytest.approx((word.start, word.end, word.confidence), abs=0.0011)
    rows = [line.split(" ") for line in WRITERS["rttm"](transcript).splitlines()]
    assert all((len(row), row[0], row[1], row[7]) == (10, "SPEAKER", "a_clip", "SPK0") for row in rows)
    for row, segment in zip(rows, transcript.segments, strict=True):
        assert float(row[3]) + float(row[4]) == pytest.approx(segment.end, abs=0.0011)


def test_channels_have_their_own_columns_and_tiers() -> None:
    """Both speak at once; NIST counts channels from 1."""
    segments = tuple(
        Segment(start, start + 1, text, (Word(text, start, start + 1, 0.5, channel),), 0.5, channel=channel)
        for start, text, channel in [(0.0, "a", 0), (0.5, "b", 1), (2.0, "c", 0)]
    )
    call = Transcript(key="k", text="a b c", segments=segments, duration=3.0)
    lines = WRITERS["ctm"](call).splitlines()
    assert [line.split()[1:5] for line in lines] == [
        ["1", "0.000", "1.000", "a"], ["1", "2.000", "1.000", "c"], ["2", "0.500", "1.000", "b"]
    ]  # fmt: skip
    assert rttm_columns(call) == [["1", "0.000"], ["2", "0.500"], ["1", "2.000"]]
    turns = (SpeakerTurn(0.0, 1.0, "SPK0", channel=0), SpeakerTurn(0.5, 1.5, "SPK1", channel=1))
    assert rttm_columns(replace(call, turns=turns)) == [["1", "0.000"], ["2", "0.500"]]
    grid = read_textgrid(call)
    assert grid.tierNames == ("segments 1", "words 1", "segments 2", "words 2")
    assert entries(grid, "words 1") == [(0.0, 1.0, "a"), (2.0, 3.0, "c")]
    assert entries(grid, "segments 2") == [(0.5, 1.5, "b")]
