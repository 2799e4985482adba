"""Cores are dealt out so that no two processes share one where there are enough, and a child sees its own alone."""

import os
import subprocess
import sys

import pytest

from twostage_asr.engine.cores import shares_of_cores, starting_on


def test_each_process_gets_the_cores_of_one_on_its_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 2, 4, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, num=16 * count: set(range(num)))
        assert shares_of_cores(count) == [list(range(16 * i, 16 * i + 16)) for i in range(count)]


def test_every_core_is_dealt_out_and_every_process_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5, 7, 9})
    assert shares_of_cores(2) == [[1, 2], [5, 7, 9]]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 6})
    assert shares_of_cores(3) == [[4], [4], [6]]


def test_a_process_sees_the_cores_that_it_is_started_on_and_this_one_keeps_its_own() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with starting_on([core]):
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], stdout=subprocess.PIPE, check=True
        )
    assert shown.stdout.decode().strip() == f"{{{core}}}"
    assert os.sched_getaffinity(0) == before
