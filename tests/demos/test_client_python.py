"""The realtime client says in one line why it cannot begin."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "demos/micro/clips/en_call.flac"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (["--file", "nosuch.wav"], "nosuch.wav: No such file or directory"),
        (["--file", str(CLIP)], "is `twostage-asr serve-realtime --model MODEL` running there?"),
    ],
)
def test_what_is_missing_is_said_in_one_line(source: list[str], said: str) -> None:
    command = [sys.executable, str(ROOT / "demos/client_python.py"), "--server", "ws://127.0.0.1:1", *source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and said in line


def test_what_is_being_spoken_takes_one_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "9")
    show = runpy.run_path(str(ROOT / "demos/client_python.py"))["show"]
    show({"sentences": [], "partial": "一二三四五"}, 0)
    assert capsys.readouterr().out == "\r\x1b[K二三四五"
