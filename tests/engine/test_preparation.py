"""What makes a model faster comes behind its first texts, and never stops it."""

import sys
import threading
from unittest.mock import Mock, call

import pytest

from twostage_asr.engine import preparation
from twostage_asr.engine.captures import CAPTURES
from twostage_asr.engine.loader import _preparing_steps
from twostage_asr.engine.preparation import Preparation


@pytest.fixture
def much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step begins by itself, however long a busy machine keeps a test waiting."""
    monkeypatch.setattr(preparation, "BEGIN_AFTER_S", 600.0)


@pytest.mark.usefixtures("much_later")
def test_steps_run_in_turn_without_captures_elsewhere() -> None:
    seen: list[object] = []
    main = threading.current_thread()

    def first() -> None:
        seen.append(threading.current_thread() is main)
        with CAPTURES:  # its own captures
            seen.append("first")

    def second() -> None:
        others = threading.Thread(target=lambda: seen.append(CAPTURES.acquire(blocking=False)))
        others.start()
        others.join()

    steps = Preparation([first, second])
    steps.begin()
    assert not seen  # a process of a few clips ends before
    steps.wait()
    assert seen == [False, "first", False]
    assert CAPTURES.acquire(blocking=False)
    CAPTURES.release()
    steps.close()


def test_other_threads_get_their_turn_sooner_while_a_step_runs() -> None:
    usual, seen = sys.getswitchinterval(), []
    steps = Preparation([lambda: seen.append(sys.getswitchinterval()), lambda: 1 / 0])
    steps.begin()
    steps.wait()
    assert seen == [pytest.approx(preparation.SWITCH_INTERVAL_S)]
    assert sys.getswitchinterval() == usual


def test_the_processes_that_time_words_come_before_any_compiler() -> None:
    acoustic, aligner = Mock(), Mock()
    acoustic.further_steps.return_value = []
    for step in _preparing_steps(acoustic, aligner):
        step()
    assert aligner.method_calls == [call.start_processes(), call.warm_up()]
    assert _preparing_steps(acoustic, aligner)[0] is aligner.start_processes


def test_a_step_that_fails_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    steps = Preparation([lambda: 1 / 0])
    steps.begin()
    steps.wait()
    assert "goes on without what would make it faster: ZeroDivisionError" in caplog.text
    assert CAPTURES.acquire(blocking=False)
    CAPTURES.release()


def test_a_model_that_is_closed_begins_no_further_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "BEGIN_AFTER_S", 0.0)
    is_running, may_end = threading.Event(), threading.Event()
    seen: list[str] = []

    def step() -> None:
        is_running.set()
        assert may_end.wait(60)
        seen.append("whole")

    steps = Preparation([step, lambda: seen.append("second")])
    steps.begin()
    assert is_running.wait(60)
    closing = threading.Thread(target=steps.close)
    closing.start()
    assert steps._is_closed.wait(60)
    may_end.set()
    closing.join()
    assert seen == ["whole"]


@pytest.mark.usefixtures("much_later")
def test_a_model_that_is_closed_at_once_begins_none() -> None:
    seen: list[str] = []
    steps = Preparation([lambda: seen.append("first")])
    steps.begin()
    steps.close()
    Preparation([lambda: seen.append("never begun")]).close()
    assert not seen
