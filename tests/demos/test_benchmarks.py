"""One command makes the figures of small loads, and writes each as soon as it is there."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.paths import ROOT
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.waveform import Waveform
from twostage_asr.engine.bench.load import Load, noise
from twostage_asr.engine.bench.measure import Outcome, transcribe
from twostage_asr.engine.decoder.base import LLMSource
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder
from twostage_asr.engine.decoder.two_lanes import TwoLaneDecoder
from twostage_asr.engine.manifest import LLM_DIR_NAME, EngineManifest
from twostage_asr.engine.transcriber import Transcriber

sys.path.append(str(ROOT / "demos"))
import benchmark_all
import benchmark_stages


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


def test_the_parts_of_a_clip_are_measured_over_all_clips(
    torch_models: dict[str, AutoModelVLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    transcriber = torch_models["low_frame_rate"].transcriber
    batches: list[int] = []
    encode = transcriber.acoustic.encode

    def noted(waveforms: Sequence[Waveform], **options: Any) -> Any:
        batches.append(len(waveforms))
        return encode(waveforms, **options)

    monkeypatch.setattr(transcriber.acoustic, "encode", noted)
    rows: dict[str, int] = {}  # tokens that steps wrote meanwhile; the first of a text comes with its prompt
    before = transcriber.decoder.counts.tokens
    for row in benchmark_stages.stages(transcriber, [noise(number, 16_000) for number in range(9)], 3):
        assert row.ms_per_clip > 0 and row.ms_per_clip == pytest.approx(1000 / row.per_second, rel=0.2)
        now = transcriber.decoder.counts.tokens
        rows[row.part], before = now - before, now
    assert batches[:6] == [8, 1, 8, 1, 9, 9]
    stage_1 = {"stage 1, batches of 8": 0, "stage 1, batches of 9": 0}
    assert rows == stage_1 | {"both stages, 1 token(s)": 0, "both stages, 3 token(s)": 2 * 9 * 2}


def test_what_was_measured_before_an_interruption_is_in_the_file(engine_dirs: dict[str, Path], tmp_path: Path) -> None:
    done, found = run(
        engine_dirs["low_frame_rate"], tmp_path / "figures.json", "--parts", "lanes", "server", "--concurrency", "none"
    )
    assert done.returncode != 0 and "none" in done.stderr
    assert len(found["lanes"]["figures"]) == 2


def test_passes_with_the_fast_lane_take_turns_with_passes_of_the_large_one(
    torch_models: dict[str, AutoModelVLLM],
    engine_dirs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine_dir = engine_dirs["low_frame_rate"]
    source = LLMSource(engine_dir / LLM_DIR_NAME, EngineManifest.read(engine_dir).llm, torch.float32, 1024)
    fast, large = (TorchDecoder(source, device=torch.device("cpu"), max_sequences=4) for _ in range(2))
    decoder = TwoLaneDecoder(fast, large)
    decoder.wait_until_ready()
    decoder.wait_until_loaded()
    passes: list[tuple[bool, str, bool, bool]] = []

    def noted(transcriber: Transcriber, load: Load, *, timestamps: bool) -> Outcome:
        before = fast.counts.tokens, large.counts.tokens
        done = transcribe(transcriber, load, timestamps=timestamps)
        way = "large" if transcriber.decoder is large else "both"
        passes.append((timestamps, way, fast.counts.tokens > before[0], large.counts.tokens > before[1]))
        return done

    monkeypatch.setattr(benchmark_all, "transcribe", noted)
    transcriber = replace(torch_models["low_frame_rate"].transcriber, decoder=decoder)
    args: Any = SimpleNamespace(clips=2, pairs=2)
    found = list(benchmark_all.lanes(transcriber, args, tmp_path))
    decoder.close()
    both, alone = ("both", True, False), ("large", False, True)
    assert passes == [(times, *way) for times in (False, True) for way in (both, alone, alone, both, both, alone)]
    assert [row["timestamps"] for row in found] == [False, True]
    for row in found:
        first, second = (a / b for a, b in zip(row["rtfx"]["both"], row["rtfx"]["large"], strict=True))
        assert row["ratio"]["median"] == pytest.approx((first + second) / 2)
        assert row["medians"].keys() == {"both", "large"}


def test_lanes_are_compared_pass_by_pass() -> None:
    """The ratios are 2, 3, 1 and 4."""
    rtfx = {"both": [2.0, 9.0, 4.0, 8.0], "large": [1.0, 3.0, 4.0, 2.0]}
    assert benchmark_all.compared(rtfx) == {"ratio": {"median": 2.5, "quartiles": [1.75, 3.25]}}
    (one,) = benchmark_all.compared({"both": [6.0], "large": [3.0]}).values()
    assert one == {"median": 2.0, "quartiles": [2.0, 2.0]}
    assert benchmark_all.compared({"both": [6.0]}) == {}
