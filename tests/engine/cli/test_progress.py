"""Progress and summary of a run: figures that are right, lines that are few, a bar on a terminal alone."""

import io
import sys

import pytest

from twostage_asr.engine import Transcript, TranscriptWarning
from twostage_asr.engine.cli.progress import AudioProgress, Counts, Progress, amount


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counted(clock: Clock, total: int = 4) -> Counts:
    """Counts of a run whose model took 5 s to load."""
    counts = Counts(total, clock)
    clock.now += 5
    counts.loaded = clock.now
    return counts


def test_rate_and_time_left_are_of_what_is_done() -> None:
    clock = Clock()
    counts = counted(clock)
    clock.now += 10
    counts.add(Transcript("a", duration=3600.0))
    assert counts.progress() == "1 of 4 files, 1.00 h of audio, RTFx 360.0, ETA 0:00:30"


def test_a_summary_tells_files_audio_rate_errors_warnings_and_where() -> None:
    clock = Clock()
    counts = counted(clock)
    clock.now += 2
    counts.add(Transcript("a", duration=90.0, warnings=(TranscriptWarning("long_audio", ""),) * 2))
    counts.add(Transcript("b", status="error", error="no"))
    assert list(counts.summary("out (srt)")) == [
        "2 files, 1.5 min of audio in 2.0 s (RTFx 45.0); loading took 5.0 s",
        "1 failed; warnings: long_audio 1",
        "written: out (srt)",
    ]
    assert counts.failed == {"b": "no"}
    assert next(Counts(1).summary("out")) == "0 files; no model was loaded"


def test_where_there_is_no_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(counted(clock, 100), every_s=30.0) as progress:
        for _ in range(100):
            clock.now += 1
            progress.add(Transcript("a", duration=1.0))
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "30 of 100 files, 30.0 s of audio, RTFx 1.0, ETA 0:01:10",
        "60 of 100 files, 1.0 min of audio, RTFx 1.0, ETA 0:00:40",
        "90 of 100 files, 1.5 min of audio, RTFx 1.0, ETA 0:00:10",
    ]
    assert printed.out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_below_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    clock = Clock()
    with Progress(counted(clock, 2)) as progress:
        clock.now += 10
        progress.add(Transcript("a", duration=20.0))
        progress.tell(["FAILED b: why"])
    shown = screen.getvalue()
    assert " 50%|" in shown and "1 of 2 files, 20.0 s of audio, RTFx 2.0, ETA 0:00:10" in shown
    assert "FAILED b: why" in shown


def test_a_long_recording_tells_how_far_it_is_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with AudioProgress(7200.0, every_s=30.0, clock=clock) as progress:
        clock.now += 100  # loading
        for i in range(5):
            progress.show(96.0 * i)
            clock.now += 20
    assert capsys.readouterr().err.splitlines() == [
        "3.2 min of 2.00 h of audio, RTFx 4.8, ETA 0:24:20",
        "6.4 min of 2.00 h of audio, RTFx 4.8, ETA 0:23:40",
    ]


def test_a_terminal_shows_a_bar_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    clock = Clock()
    with AudioProgress(100.0, clock=clock) as progress:
        progress.show(0.0)
        clock.now += 5
        progress.show(50.0)
    assert " 50%|" in screen.getvalue() and "50.0 s of 1.7 min of audio, RTFx 10.0, ETA 0:00:05" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0.0 s"), (59.94, "59.9 s"), (90, "1.5 min"), (9000, "2.50 h")])
def test_amounts_are_in_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert amount(seconds) == text
