"""Who speaks, in every format that has a place for it; nothing of it where speakers are unknown."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pysubs2
import pytest
from praatio import textgrid

from twostage_asr.engine import Segment, Transcript, Word
from twostage_asr.engine.transcript import SpeakerTurn
from twostage_asr.engine.writers import WRITERS, SubtitleShape, formatted, write_file


def spoken(start: float, text: str, speaker: str | None) -> Segment:
    words = tuple(
        Word(word.strip("."), start + i, start + i + 0.5, 0.5, speaker=speaker) for i, word in enumerate(text.split())
    )
    return Segment(start, words[-1].end, text, words, 0.5, speaker=speaker)


TALK = Transcript(
    key="a talk",
    text="Good morning. Hello. Bye.",
    segments=(spoken(0.0, "Good morning.", "Ana <1>"), spoken(2.0, "Hello.", "SPK0"), spoken(3.0, "Bye.", "Ana <1>")),
    duration=4.0,
    turns=(
        SpeakerTurn(0.0, 1.9, "Ana <1>"),
        SpeakerTurn(1.9, 2.75, "SPK0", overlap=True),
        SpeakerTurn(2.75, 4.0, "Ana <1>"),
    ),
)
ANONYMOUS = replace(
    TALK,
    turns=None,
    segments=tuple(
        replace(s, speaker=None, words=tuple(replace(w, speaker=None) for w in s.words or ())) for s in TALK.segments
    ),
)

EXPECTED = {
    "txt": "Ana <1>: Good morning.\nSPK0: Hello.\nAna <1>: Bye.\n",
    "srt": "1\n00:00:00,000 --> 00:00:01,500\nAna <1>: Good morning.\n\n"
    "2\n00:00:02,000 --> 00:00:02,500\nSPK0: Hello.\n\n3\n00:00:03,000 --> 00:00:03,500\nAna <1>: Bye.\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n<v Ana &lt;1&gt;>Good morning.\n\n"
    "00:00:02.000 --> 00:00:02.500\n<v SPK0>Hello.\n\n00:00:03.000 --> 00:00:03.500\n<v Ana &lt;1&gt;>Bye.\n",
    "ctm": "a_talk 1 0.000 0.500 Good 0.500 lex Ana_<1>\na_talk 1 1.000 0.500 morning 0.500 lex Ana_<1>\n"
    "a_talk 1 2.000 0.500 Hello 0.500 lex SPK0\na_talk 1 3.000 0.500 Bye 0.500 lex Ana_<1>\n",
    "rttm": "SPEAKER a_talk 1 0.000 1.900 <NA> <NA> Ana_<1> <NA> <NA>\n"
    "SPEAKER a_talk 1 1.900 0.850 <NA> <NA> SPK0 <NA> <NA>\n"
    "SPEAKER a_talk 1 2.750 1.250 <NA> <NA> Ana_<1> <NA> <NA>\n",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_text_formats_name_the_speakers(name: str) -> None:
    assert WRITERS[name](TALK) == EXPECTED[name]


def test_ass_names_and_colours_the_speakers() -> None:
    events = pysubs2.SSAFile.from_string(WRITERS["ass"](TALK)).events
    assert [(event.name, event.plaintext) for event in events] == [
        ("Ana <1>", "Good morning."), ("SPK0", "Hello."), ("Ana <1>", "Bye.")
    ]  # fmt: skip
    assert [event.text.startswith("{\\c&H00FFFF&}") for event in events] == [False, True, False]


def test_a_name_breaks_no_format() -> None:
    odd = replace(TALK, segments=(spoken(0.0, "Hi.", "a,\n\nb -->"),))
    assert WRITERS["srt"](odd).splitlines()[2:] == ["a, b -->: Hi."]
    assert WRITERS["vtt"](odd).splitlines()[-1] == "<v a, b --&gt;>Hi."
    (event,) = pysubs2.SSAFile.from_string(WRITERS["ass"](odd)).events
    assert (event.name, event.plaintext) == ("a; b -->", "Hi.")


def test_a_textgrid_has_tiers_for_each_speaker() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.TextGrid"
        write_file(TALK, path)
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    assert grid.tierNames == ("segments Ana <1>", "words Ana <1>", "segments SPK0", "words SPK0")
    assert [entry.label for entry in grid.getTier("words Ana <1>").entries] == ["Good", "morning", "Bye"]


def test_the_line_with_the_name_keeps_to_the_width() -> None:
    lines = formatted(TALK, "srt", SubtitleShape(max_line_width=14, max_lines=2)).splitlines()
    assert lines[2:4] == ["Ana <1>: Good", "morning."]


def test_every_copy_of_a_cue_with_a_marked_word_has_the_name() -> None:
    shown = formatted(TALK, "srt", SubtitleShape(highlight_words=True)).split("\n\n")
    assert all(": " in block.splitlines()[2] for block in shown) and len(shown) == 5


def test_json_gives_speakers_and_turns_back() -> None:
    assert Transcript.from_json(WRITERS["jsonl"](TALK)) == TALK


@pytest.mark.parametrize("name", WRITERS)
def test_without_speakers_no_format_mentions_them(name: str) -> None:
    written = WRITERS[name](ANONYMOUS)
    assert not any(word in written for word in ("Ana", "speaker", "lex", "<v"))
    assert ("SPK0" in written) is (name == "rttm")  # whose field must not be empty
