"""Jobs in worker processes come back in order, whatever happens to the workers."""

import os
import signal
import time

import pytest
from workers import run_jobs


def square(number: int) -> int:
    return number * number


def crash_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def stall_at_zero(number: int) -> int:
    if number == 0:
        time.sleep(600)
    return number * number


def fail(number: int) -> int:
    raise ValueError(number)


@pytest.mark.parametrize("num_workers", [1, 3, 20])
def test_results_come_in_the_order_of_the_jobs(num_workers: int) -> None:
    assert list(run_jobs(square, range(10), num_workers=num_workers)) == [number**2 for number in range(10)]


def test_no_jobs_need_no_workers() -> None:
    assert list(run_jobs(square, [], num_workers=2)) == []


def test_a_crash_costs_one_job_and_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(run_jobs(crash_at_three, range(6), num_workers=2)) == [0, 1, 4, 16, 25]
    assert "a worker died with exit code -9: job 3 of 6 is left out" in capsys.readouterr().out


def test_a_job_that_takes_too_long_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(run_jobs(stall_at_zero, range(4), num_workers=2, limit_s=5.0)) == [1, 4, 9]
    assert "took more than 5 s: job 0 of 4 is left out" in capsys.readouterr().out


def test_many_lost_jobs_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="2 of 9 jobs lost their workers"):
        list(run_jobs(fail, range(9), num_workers=2))
