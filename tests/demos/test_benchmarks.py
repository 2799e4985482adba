"""One command makes the figures of small loads, and writes each as soon as it is there."""

import json
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT


def run(engine_dir: Path, report: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    command = [sys.executable, str(ROOT / "demos" / "benchmark_all.py"), "--model", str(engine_dir), "--json", report]
    command += ["--backend", "torch", "--passes", "1", "--clips", "2", "--seconds", "5", "--pairs", "2"]
    done = subprocess.run([*map(str, command), *arguments], capture_output=True, text=True, timeout=600, check=False)
    return done, json.loads(report.read_text(encoding="utf-8"))


def test_each_part_is_measured_and_written(engine_dirs: dict[str, Path], tmp_path: Path) -> None:
    short = ["--sessions", "2", "--concurrency", "1", "--parts", "lanes", "server", "small", "streaming"]
    done, found = run(engine_dirs["low_frame_rate"], tmp_path / "figures.json", *short)
    assert done.returncode == 0, done.stderr[-4000:]
    parts = ("machine", "small", "streaming", "lanes", "server")
    assert list(found) == ["revision", "options", *parts]
    machine, small, streaming, lanes, server = (found[name]["figures"] for name in parts)
    assert machine[0]["cores"] >= 1
    loads = [(row["clips"], row["form"], row["timestamps"]) for row in small]
    assert loads == [
        (n, form, times) for times in (False, True) for n, form in ((1, "memory"), (8, "memory"), (1, "mp3"))
    ]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["accepted"] > 0 for row in small)
    assert streaming[0]["sessions"] == 2 and streaming[0]["partials"] >= 1
    assert [row["timestamps"] for row in lanes] == [False, True]
    assert all(len(row["rtfx"]["both"]) == 2 for row in lanes)
    (level,) = server[0]["http"]
    assert level["outcomes"].keys() == {"ok"}, level


def test_what_was_measured_before_an_interruption_is_in_the_file(engine_dirs: dict[str, Path], tmp_path: Path) -> None:
    done, found = run(
        engine_dirs["low_frame_rate"], tmp_path / "figures.json", "--parts", "lanes", "server", "--concurrency", "none"
    )
    assert done.returncode != 0 and "none" in done.stderr
    assert len(found["lanes"]["figures"]) == 2
