"""Pictures: what has no font is told once, and a legend says what the colours are."""

import logging
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from twostage_asr.engine import Segment, Transcript, Word, load_vad
from twostage_asr.engine.cli import plot

WORDS = (Word("今", 0.2, 0.5, 1.0), Word("天", 0.5, 0.9, 1.0))
TRANSCRIPT = Transcript("a", text="今天", segments=(Segment(0.2, 0.9, "今天", WORDS, 1.0),), words=WORDS, duration=3.0)


def test_boxes_are_told_once_and_the_axis_ends_with_the_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: drawn.append(self))
    monkeypatch.setattr(plot, "_installed_cjk_fonts", lambda: ())
    plot._warn_of_boxes.cache_clear()
    silence = np.zeros(3 * 16_000, np.float32)
    with caplog.at_level(logging.WARNING, logger=plot.logger.name):
        for _ in range(2):
            plot.plot_transcript(TRANSCRIPT, silence, tmp_path / "a.png", vad=load_vad("silero"))
    (record,) = caplog.records
    assert "install fonts-noto-cjk" in record.message
    assert drawn[0].axes[0].get_xlim() == (0.0, 3.0)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][:3] == ["waveform", "segment", "word"]


@pytest.mark.parametrize(("key", "word"), [("a$x_{$", "b"), ("a", "$x_{$"), ("\udcff", "b")])
def test_names_and_words_are_drawn_as_they_are(tmp_path: Path, key: str, word: str) -> None:
    words = (Word(word, 0.2, 0.5, 1.0),)
    transcript = Transcript(key, text=word, segments=(Segment(0.2, 0.5, word, words, 1.0),), words=words, duration=1.0)
    plot.plot_transcript(transcript, np.zeros(16_000, np.float32), tmp_path / "a.png", vad=load_vad("silero"))
    assert (tmp_path / "a.png").stat().st_size > 1000
