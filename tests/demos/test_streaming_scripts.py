"""The scripts that measure live text run and print what their pages quote."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import CLIPS, ROOT
from tests.pipeline import Clip


def run(script: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, script.stem, module)  # where dataclasses look for their annotations
    monkeypatch.setattr("sys.argv", [script.name, *arguments, "--backend", "torch"])
    spec.loader.exec_module(module)
    module.main()


def test_live_words_are_compared_with_offline_ones(
    clips: list[Clip],
    engine_dirs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = CLIPS.read_text(encoding="utf-8").splitlines()[:3]
    sources = [
        json.dumps(json.loads(line) | {"source": clip["source"]}) for line, clip in zip(lines, clips, strict=False)
    ]
    (tmp_path / "three.jsonl").write_text("\n".join(sources), encoding="utf-8")
    model = str(engine_dirs["low_frame_rate"])
    script = ROOT / "demos" / "micro" / "evaluate_streaming.py"
    run(script, str(tmp_path / "three.jsonl"), "--model", model, monkeypatch=monkeypatch)
    live, segments, whole, summary = capsys.readouterr().out.splitlines()
    assert (
        live.split()[1:]
        == segments.split()[2:]
        == whole.split()[2:]
        == ["CER", "0.00", "%", "WER", "0.00", "%", "MER", "0.00", "%"]
    )
    assert summary.startswith("3 of 3 finals are") and summary.endswith(" 0 confirmed texts taken back")


@pytest.mark.parametrize(
    "how, fewest", [([], 1.5), (["--agreement"], 1.5), (["--agreement", "1"], 2.0), (["--agreement", "0"], 1.0)]
)
def test_latencies_of_many_sessions_are_measured(
    engine_dirs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: list[str],
    fewest: float,
) -> None:
    arguments = ["--model", str(engine_dirs["low_frame_rate"]), "--sessions", "2", "--seconds", "5"]
    run(ROOT / "demos" / "benchmark_streaming.py", *arguments, *how, monkeypatch=monkeypatch)
    head, row, drafts = capsys.readouterr().out.splitlines()
    tokens_per_step, accepted_share = float(drafts.split()[0]), float(drafts.split()[4])
    assert (accepted_share > 0) == (tokens_per_step > 1) == (fewest > 1) and tokens_per_step >= fewest
    assert head.split() == ["sessions", "first", "partial", "final", "lag", "partials,", "finals"]
    sessions, *seconds, partials, finals = map(float, row.replace(",", "").split())
    assert sessions == 2 and len(seconds) == 7 and min(partials, finals) >= 1
    assert seconds[0] > 0.7 and min(seconds[2:6]) > 0


@pytest.mark.parametrize("how", [[], ["--random", "--seconds", "1.5"]])
def test_latencies_of_few_clips_are_measured(
    engine_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    arguments = ["--model", str(engine_dirs["low_frame_rate"]), "--passes", "1", "--at-once", "2", "--lane", "torch"]
    run(ROOT / "demos" / "benchmark_small.py", *arguments, *how, monkeypatch=monkeypatch)
    first, whole, head, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("torch: first text after ") and whole.startswith("torch: all of it is there after ")
    assert head.split()[:2] == ["lane", "clips"]
    assert [row.split()[1:4] for row in rows] == [
        [clips, form, times] for times in ("without", "with") for clips, form in (("2", "memory"), ("1", "mp3"))
    ]
    assert all(float(row.split()[-2]) > 1.5 for row in rows), "the drafts save steps"
