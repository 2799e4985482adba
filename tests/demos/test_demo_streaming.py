"""The streaming demo on real vLLM: text while it is spoken, what is confirmed stays, and the whole at the end."""

import itertools
import re
import subprocess
import sys

from tests.paths import ROOT
from tests.pipeline import read_manifest

LINE = re.compile(r"\[ *(\d+) ms\] (.*)\|(.*)")


def test_the_demo_shows_live_text() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "demos" / "demo_streaming.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *live, final = done.stdout.splitlines()
    clips = {clip["key"]: clip for clip in read_manifest(ROOT / "demos" / "micro" / "clips" / "manifest.jsonl")}
    assert final == f"Final: {clips['en_long']['text']}"
    found = [match.groups() for match in map(LINE.fullmatch, live) if match]
    assert [int(ms) for ms, _, _ in found] == [720 * i for i in range(1, len(live) + 1)]
    confirmed = [text for _, text, _ in found]
    assert all(after.startswith(before) for before, after in itertools.pairwise(confirmed))
    assert len(confirmed[-1]) > len(clips["en_long"]["text"]) / 2
