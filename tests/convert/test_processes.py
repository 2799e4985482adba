"""Several processes, and processes that are killed: one conversion, and never half of one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import CHECKPOINTS


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("forked_conversions.py")
    command = [sys.executable, script, CHECKPOINTS["low_frame_rate"], tmp_path_factory.mktemp("processes")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_a_killed_conversion_never_passes_for_done_and_leaves_nothing_to_the_next(report: dict[str, Any]) -> None:
    kills = report["kills"]
    assert kills["wrong"] == []
    assert kills["killed_at_work"] == 10
    assert kills["leftovers_seen"] >= 4


def test_two_processes_at_once_convert_once(report: dict[str, Any]) -> None:
    assert report["race"] == {"codes": [0, 0], "conversions": 1, "is_done": True}
