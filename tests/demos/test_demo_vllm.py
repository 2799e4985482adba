"""The demo that a stranger runs first: every bundled clip as its manifest says, and the files that it promises."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT
from tests.pipeline import read_manifest
from twostage_asr.engine import Transcript

COMPILER = re.compile(r"gcc|g\+\+|clang|^c\+\+|^cc$|^c[89]9$")
MANIFEST = ROOT / "demos" / "micro" / "clips" / "manifest.jsonl"


def path_without_compilers(directory: Path) -> str:
    """A PATH on which everything of this machine's is found but compilers, which a fresh machine may lack."""
    directory.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            link = directory / program.name
            if not COMPILER.search(program.name) and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def test_the_demo_transcribes_the_bundled_clips_without_a_compiler(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    path = path_without_compilers(tmp_path / "bin")
    assert shutil.which("ls", path=path)
    assert not shutil.which("g++", path=path)
    done = subprocess.run(
        [sys.executable, ROOT / "demos" / "demo_vllm.py", "--then-vllm", "--output", output],
        env=os.environ | {"PATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")},
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
    assert f"wrote {os.path.relpath(output)}" in done.stdout
    assert f"vLLM alone writes the same texts for {len(clips)} of {len(clips)} clips" in done.stdout


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
