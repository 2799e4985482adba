"""The demo that a stranger runs first: every bundled clip as its manifest says, and the files that it promises."""

import json
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT
from tests.pipeline import read_manifest
from twostage_asr.engine import Transcript

MANIFEST = ROOT / "demos" / "micro" / "clips" / "manifest.jsonl"


def test_the_demo_transcribes_the_bundled_clips(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, ROOT / "demos" / "demo_vllm.py", "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    clips = read_manifest(MANIFEST)
    results = [Transcript.from_json(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(r.key, r.text) for r in results] == [(c["key"], c["text"]) for c in clips]
    for result in results:
        assert f"{result.key}: {result.text}" in done.stdout
        srt = (tmp_path / f"{result.key}.srt").read_text(encoding="utf-8")
        assert ("-->" in srt) == bool(result.text)
    assert "RTFx" in done.stdout
    assert str(output) in done.stdout


def test_the_demo_reports_a_bad_file_and_goes_on(tmp_path: Path) -> None:
    good = read_manifest(MANIFEST)[0]
    command = [sys.executable, ROOT / "demos" / "demo_vllm.py", "--output", tmp_path / "out.jsonl"]
    done = subprocess.run(
        [*command, "--language", "en", "--input", good["source"], "nowhere.wav"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["ok", "error"]
    assert "nowhere: ERROR" in done.stdout
