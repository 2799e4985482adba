"""demos/load_test.py and demos/client_python.py: everybody gets the right text, and nobody waits long for another."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import plain, wav
from tests.engine.server.turns import short_turns
from tests.paths import ROOT
from tests.pipeline import Clip

DEMOS = ROOT / "demos"


def run_load(server: str, *arguments: str) -> list[Any]:
    command = [sys.executable, str(DEMOS / "load_test.py"), "--server", server, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("kind", "levels"), [("http", [2, 32]), ("ws", [16])])
def test_everybody_gets_the_right_text(server: Running, kind: str, levels: list[int]) -> None:
    address = server.http if kind == "http" else server.ws
    clients = ["--concurrency", *map(str, levels), "--processes", "2"]
    with short_turns(server, 1.0):
        reports = run_load(address, *clients, "--seconds", "4", "--speed", "30")
    assert [report["concurrency"] for report in reports] == levels
    for report, num_clients in zip(reports, levels, strict=True):
        assert report["outcomes"].keys() == {"ok"} and report["outcomes"]["ok"] >= num_clients, report
        assert report["per_second"] <= report["outcomes"]["ok"] / report["seconds"]  # less what came too late


def test_so_many_arrive_as_the_rate_says(server: Running) -> None:
    [report] = run_load(server.http, "--rate", "20", "--seconds", "1", "--processes", "2")
    assert report["outcomes"] == {"ok": 40}  # those of the warm-up's second included


def test_the_client_prints_what_is_said(server: Running, clips: list[Clip], tmp_path: Path) -> None:
    clip = plain(clips)[0]
    file = tmp_path / "a.wav"
    file.write_bytes(wav(clip))
    command = [sys.executable, str(DEMOS / "client_python.py"), "--server", server.ws, "--file", str(file)]
    command += ["--speed", "8", "--language", clip["language"] or "auto", "--hotwords", "Smyth"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert clip["text"] in done.stdout, done.stderr
