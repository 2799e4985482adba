"""Transcripts in notebooks: words that seek, nothing unescaped, nothing from elsewhere, and no large files."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import Segment, Transcript, TranscriptWarning, Word
from twostage_asr.engine.writers import html

WORDS = (Word("hello", 0.5, 0.9, 0.95), Word("25", 1.0, 1.5, 0.2))
SEGMENT = Segment(0.5, 1.5, "Say: hello, 25!", WORDS, 0.9, speaker="Ana")
TRANSCRIPT = Transcript("a", text=SEGMENT.text, segments=(SEGMENT,), words=WORDS, duration=2.0, language="en")


class Reader(HTMLParser):
    """The text, and the tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.depth = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_words_and_segments_seek_and_doubtful_words_are_marked() -> None:
    read = Reader(TRANSCRIPT._repr_html_())
    assert "Ana: Say: hello, 25!" in read.text
    spans = [attributes for tag, attributes in read.tags if tag == "span"]
    assert [span["data-at"] for span in spans] == ["0.500", "1.000"]
    assert [html._MARK in (span["style"] or "") for span in spans] == [False, True]
    (button,) = (attributes for tag, attributes in read.tags if tag == "button")
    assert button["data-at"] == "0.500"
    assert not [tag for tag, _ in read.tags if tag in ("audio", "script")]


def test_warnings_and_errors_are_said() -> None:
    warned = replace(TRANSCRIPT, warnings=(TranscriptWarning("repetition", "it loops"),))
    assert "repetition: it loops" in Reader(warned._repr_html_()).text
    assert "no such file" in Reader(Transcript("a", status="error", error="no such file")._repr_html_()).text
    assert "no speech" in Reader(Transcript("a")._repr_html_()).text


@given(st.text(st.sampled_from("<>&\"' =onclickscript/a")))
def test_no_text_becomes_markup(text: str) -> None:
    words = (Word("x1", 0.0, 1.0, 1.0), Word(text, 0.0, 1.0, 1.0))
    segment = Segment(0.0, 1.0, f"{text}x1{text}{text}", words, 1.0, speaker=text)
    warning = TranscriptWarning("repetition", text)
    told = Transcript(text, text, text, segments=(segment,), warnings=(warning,), source=Path("/none") / "x")
    failed = Transcript(text, status="error", error=text)
    read = Reader(told._repr_html_() + failed._repr_html_())
    assert {tag for tag, _ in read.tags} <= {"div", "b", "small", "p", "button", "span"}
    names = {name for _, attributes in read.tags for name in attributes}
    assert names <= {"onclick", "style", "data-at", "title"}
    assert read.depth == 0


@pytest.mark.parametrize(
    ("name", "num_bytes", "said"),
    [
        ("a.wav", 10, None),
        ("a.wav", html.MAX_AUDIO_BYTES + 1, "a.wav is not shown: 4.2 MB"),
        ("a.amr", 10, "a.amr is not shown: browsers do not play it"),
        ("a.mp3", None, "a.mp3 is not shown: No such file or directory"),
    ],
)
def test_the_audio_is_inside_if_it_is_small_and_can_be_played(
    name: str, num_bytes: int | None, said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if num_bytes is not None:
        path.write_bytes(b"x" * num_bytes)
    shown = replace(TRANSCRIPT, source=path)._repr_html_()
    players = [attributes for tag, attributes in Reader(shown).tags if tag == "audio"]
    assert len(players) == (said is None)
    if said is None:
        assert players[0]["src"] == f"data:audio/wav;base64,{base64.b64encode(b'x' * 10).decode()}"
    else:
        assert said in Reader(shown).text
    assert not re.search("https?:|//", shown.replace(str(path), "").partition("base64")[0])


def test_a_long_transcript_says_what_it_leaves_out() -> None:
    long = replace(TRANSCRIPT, segments=(SEGMENT,) * (html.MAX_SEGMENTS + 5))
    read = Reader(long._repr_html_())
    assert sum(tag == "button" for tag, _ in read.tags) == html.MAX_SEGMENTS
    assert "5 more segments are not shown" in read.text
