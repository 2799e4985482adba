"""The benchmark's arithmetic is right, its harness runs, and a peer that is absent or fails costs nothing."""

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.paths import CHECKPOINTS, CLIPS
from twostage_asr.engine import AutoModelVLLM, ConfigError, DecodeError
from twostage_asr.engine.audio.decode import SAMPLE_RATE
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.bench import load as clip_loads
from twostage_asr.engine.bench import machine, peer
from twostage_asr.engine.bench.command import BenchOptions
from twostage_asr.engine.bench.figures import busy_s, concurrency, most_at_once, percentile_s
from twostage_asr.engine.bench.load import FEW_S, given_load, noise, random_clips, random_lengths, random_load
from twostage_asr.engine.bench.machine import GPUMeter, process_age_s, rss_bytes
from twostage_asr.engine.bench.measure import Latency, Pass, measure, stage_seconds
from twostage_asr.engine.bench.peer import PeerJob, PeerTask, run_peer
from twostage_asr.engine.bench.report import (
    PeerLatency,
    PeerPass,
    PeerReport,
    Report,
    median_rtfx,
    side_by_side,
    word_times_share,
)
from twostage_asr.engine.cli import main
from twostage_asr.engine.timeline import Span

CPU = torch.device("cpu")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

TIMELINE = [
    Span("read", 0.0, 0.5, 3),
    Span("encode", 0.5, 1.0, 2),
    Span("encode", 1.5, 2.0, 1),
    Span("decode", 1.0, 3.0, 1),
    Span("decode", 1.0, 2.0, 1),
    Span("decode", 2.0, 4.0, 1),  # begins as the one before it ends
    Span("decode", 6.0, 7.0, 1),
    Span("align", 7.0, 7.25, 3),
]
DECODING = [span for span in TIMELINE if span.stage == "decode"]


# Figures


def test_stages_of_a_timeline() -> None:
    assert stage_seconds(TIMELINE) == {"read": 0.5, "encode": 1.0, "decode": 4.0, "align": 0.25}
    assert stage_seconds([]) == {"read": 0, "encode": 0, "decode": 0, "align": 0}


def test_clips_in_stage_2() -> None:
    assert concurrency(DECODING) == [(1.0, 2), (2.0, 2), (3.0, 1), (4.0, 0), (6.0, 1), (7.0, 0)]
    assert most_at_once(DECODING) == 2
    assert most_at_once([]) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20))
def test_concurrency_counts_every_second_of_every_span(pieces: list[tuple[int, int]]) -> None:
    spans = [Span("decode", start, start + length, 1) for start, length in pieces]
    open_in = [sum(span.start <= second < span.end for span in spans) for second in range(71)]
    steps = concurrency(spans)
    assert [next((count for t, count in reversed(steps) if t <= second), 0) for second in range(71)] == open_in
    assert most_at_once(spans) == max(open_in)
    assert busy_s(spans) == sum(count > 0 for count in open_in)


def test_percentiles() -> None:
    assert percentile_s([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile_s([0.0, 1.0], 95) == pytest.approx(0.95)
    assert percentile_s([], 50) is None


def a_pass(timestamps: bool, is_warm: bool, rtfx: float, *, num_clips: int = 512, form: str = "wav") -> PeerPass:
    return PeerPass(
        form=form, num_clips=num_clips, timestamps=timestamps, is_warm=is_warm, wall_s=100 / rtfx, rtfx=rtfx
    )


def latency(*, num_clips: int, p50_s: float, p95_s: float) -> Latency:
    return Latency(
        form="wav",
        num_clips=num_clips,
        timestamps=True,
        audio_s=10,
        num_passes=20,
        mean_s=p50_s,
        p50_s=p50_s,
        p90_s=p95_s,
        p95_s=p95_s,
        p99_s=p95_s,
        rtfx=10 / p50_s,
        encode_p50_s=0.01,
    )


def test_the_median_is_that_of_the_warm_passes() -> None:
    passes = [a_pass(False, False, 1), a_pass(False, True, 10), a_pass(False, True, 30), a_pass(True, False, 7)]
    passes += [a_pass(False, True, 5, num_clips=5), a_pass(False, True, 6, form="mp3")]
    assert median_rtfx(passes) == {
        ("wav", 512, False): 20, ("wav", 512, True): 7, ("wav", 5, False): 5, ("mp3", 512, False): 6,
    }  # fmt: skip


def test_the_price_of_word_times_is_their_share_of_the_wall_time() -> None:
    passes = [a_pass(False, True, 100), a_pass(True, True, 80), a_pass(True, True, 1, num_clips=5)]
    assert word_times_share(passes) == {("wav", 512, True): pytest.approx(0.2)}


def test_side_by_side_says_how_many_times_faster_ours_is() -> None:
    report = Report(date="", load="", scope="", engine={}, versions={}, hardware={}, prepare_s=0)
    report.passes = [a_pass(False, True, 300), a_pass(False, True, 400, num_clips=5000)]  # type: ignore[list-item]
    report.latency = [latency(num_clips=1, p50_s=0.1, p95_s=0.2), latency(num_clips=4, p50_s=0.2, p95_s=0.2)]
    theirs = PeerReport(
        name="funasr",
        version="1.4.16",
        error=None,
        passes=[a_pass(False, True, 100), a_pass(True, True, 50)],
        latency=[
            PeerLatency(form="wav", num_clips=1, timestamps=True, p50_s=0.25, p95_s=0.3),
            PeerLatency(form="mp3", num_clips=1, timestamps=True, p50_s=0.1, p95_s=0.1),
            PeerLatency(form="wav", num_clips=4, timestamps=False, p50_s=0.1, p95_s=0.1),
        ],
    )
    assert [line.split()[-3:] for line in side_by_side(report, theirs)] == [
        ["funasr", "1.4.16", "ratio"],
        ["300.0", "100.0", "3.00"],
        ["400.0", "not", "run"],
        ["100", "250", "2.50"],
        ["200", "300", "1.50"],
    ]


# Loads


def test_random_clips_are_the_same_in_every_call(tmp_path: Path) -> None:
    first, second = (random_load(random_lengths(20), "memory", tmp_path).items for _ in range(2))
    assert all(np.array_equal(load(one), load(other)) for one, other in zip(first, second, strict=True))
    assert not np.array_equal(load(first[0])[:100], load(first[1])[:100])


def test_fewer_clips_are_the_first_of_more(tmp_path: Path) -> None:
    fewer, more = (random_load(random_lengths(count), "memory", tmp_path) for count in (3, 20))
    assert all(np.array_equal(load(a), load(b)) for a, b in zip(fewer.items, more.head(3).items, strict=True))


def test_many_clips_take_no_more_memory_than_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_loads, "NOISE_SAMPLES", 60 * SAMPLE_RATE)
    clips = random_clips([7 * SAMPLE_RATE] * 50)
    (noise_bytes,) = {id(clip.base): clip.base.nbytes for clip in clips if clip.base is not None}.values()
    assert noise_bytes == 4 * 60 * SAMPLE_RATE and {len(clip) for clip in clips} == {7 * SAMPLE_RATE}


def test_random_clips_are_as_long_as_utterances() -> None:
    seconds = np.array(random_lengths(2000)) / SAMPLE_RATE
    assert 1.5 <= seconds.min() < 2 and 28 < seconds.max() <= 30 and 9 < seconds.mean() < 10


def test_every_random_clip_decodes_four_tokens_a_second_of_the_mean_clip(tmp_path: Path) -> None:
    options = random_load([4 * SAMPLE_RATE, 16 * SAMPLE_RATE], "memory", tmp_path).options(timestamps=False)
    assert (options.params.max_new_tokens, options.params.ignore_eos, options.timestamps) == (40, True, False)


def test_wav_files_hold_the_clips(tmp_path: Path) -> None:
    in_memory, in_files = (random_load(random_lengths(3), form, tmp_path / "clips").items for form in ("memory", "wav"))
    for one, other in zip(in_memory, in_files, strict=True):
        assert np.abs(load(one) - load(other)).max() <= 1 / 32768


def test_mp3_files_hold_the_clips_at_48_khz_in_stereo(tmp_path: Path) -> None:
    (item,) = random_load([3 * SAMPLE_RATE], "mp3", tmp_path / "clips").items
    with av.open(item.source) as file:
        stream = file.streams.audio[0]
        assert (stream.rate, stream.channels, stream.bit_rate) == (48_000, 2, 128_000)
    assert len(load(item)) == pytest.approx(3 * SAMPLE_RATE, abs=SAMPLE_RATE // 10)


def test_a_folder_is_searched_for_audio(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.wav", "deep/a.WAV"):
        soundfile.write(tmp_path / name, noise(0, SAMPLE_RATE), SAMPLE_RATE)
    (tmp_path / "notes.txt").write_text("not audio")
    assert [item.key for item in given_load(tmp_path).items] == ["b", "deep/a"]
    assert given_load(tmp_path).options(timestamps=True).params.ignore_eos is False
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no audio"):
        given_load(tmp_path / "empty")


# The harness


def test_the_command_measures_prints_and_writes(
    engine_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peer.PEERS, "funasr", "json.tool")  # which ends with an error at once
    arguments = ["bench", "--model", str(engine_dirs["low_frame_rate"]), "--backend", "torch"]
    arguments += ["--files", "memory", "wav", "--clips", "2", "1"]
    outputs = ["--json", str(tmp_path / "report.json"), "--plot", str(tmp_path / "timeline.png")]
    assert main([*arguments, "--repeat", "2", "--latency", "1", "--peer", "funasr", *outputs]) == 0
    assert (tmp_path / "timeline.png").read_bytes().startswith(PNG_MAGIC)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(report) == [field.name for field in dataclasses.fields(Report)]
    assert [(one["form"], one["num_clips"], one["timestamps"], one["is_warm"]) for one in report["passes"]] == list(
        itertools.product(["memory", "wav"], [2, 1], [False, True], [False, True])
    )
    for one in report["passes"]:
        assert list(one) == [field.name for field in dataclasses.fields(Pass)]
        assert one["rtfx"] == pytest.approx(one["audio_s"] / one["wall_s"])
        assert one["tokens_per_s"] == pytest.approx(one["num_tokens"] / one["wall_s"])
        assert (one["most_in_stage_2"], one["failed"]) == (one["num_clips"], {})
        assert 0 < one["rss_bytes"] <= one["peak_rss_bytes"]
        assert 0 < one["latency_p50_s"] <= one["latency_p95_s"] <= one["wall_s"]
        assert 0 < one["first_result_s"] <= one["wall_s"]
        assert sum(one["stage_s"][stage] for stage in ("read", "encode", "align")) <= one["wall_s"]
    assert len({one["num_tokens"] / one["num_clips"] for one in report["passes"]}) == 1
    few = report["latency"]
    assert [(one["form"], one["num_clips"], one["timestamps"]) for one in few] == list(
        itertools.product(["memory", "wav"], [1], [False, True])
    )
    for one in few:
        assert list(one) == [field.name for field in dataclasses.fields(Latency)]
        assert one["audio_s"] == pytest.approx(one["num_clips"] * FEW_S)
        assert 0 < one["p50_s"] <= one["p90_s"] <= one["p99_s"]
        assert one["rtfx"] == pytest.approx(one["audio_s"] / one["mean_s"])
    assert report["peer"]["error"] and not report["peer"]["passes"]
    printed = capsys.readouterr().out
    assert sum(" warm " in line for line in printed.splitlines()) == 8
    assert "funasr: the process of funasr ended early" in printed


def test_clips_that_fail_are_named_and_change_the_exit_status(
    engine_dirs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "good.wav", noise(0, SAMPLE_RATE), SAMPLE_RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    arguments = ["bench", "--model", str(engine_dirs["low_frame_rate"]), "--backend", "torch", "--timestamps", "off"]
    assert main([*arguments, "--repeat", "1", "--input", str(tmp_path)]) == 1
    assert "FAILED broken: " in capsys.readouterr().out


def test_tokens_are_counted_as_vllm_writes_them(vllm_model: AutoModelVLLM, tmp_path: Path) -> None:
    load = random_load(random_lengths(5), "memory", tmp_path)
    one_by_one = dataclasses.replace(vllm_model.transcriber, max_batch_frames=1)
    one, timeline = measure(one_by_one, load, timestamps=True, is_warm=True, device=CPU)
    assert load.num_tokens is not None
    assert one.num_tokens == 5 * load.num_tokens
    assert one.audio_s == pytest.approx(sum(random_lengths(5)) / SAMPLE_RATE)
    assert {span.stage for span in timeline.spans} == {"read", "encode", "decode", "align"}


def test_given_audio_stops_where_its_text_ends(vllm_model: AutoModelVLLM) -> None:
    load = given_load(CLIPS)
    one, _ = measure(vllm_model.transcriber, load, timestamps=False, is_warm=True, device=CPU)
    assert one.num_clips == len(load.items) and not one.failed
    assert one.num_clips < one.num_tokens < 50 * one.num_clips


def test_nothing_is_measured_where_every_clip_fails(vllm_model: AutoModelVLLM, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="all 1 clips failed"):
        measure(vllm_model.transcriber, given_load(tmp_path / "none.wav"), timestamps=False, is_warm=True, device=CPU)


def test_wrong_options_are_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="repeat must be at least 1"):
        BenchOptions(repeat=0)
    with pytest.raises(ConfigError, match="exclude each other"):
        BenchOptions(source=tmp_path, forms=["wav"])
    with pytest.raises(ConfigError, match="no such directory"):
        BenchOptions(json_path=tmp_path / "nowhere" / "report.json")
    with pytest.raises(ConfigError, match="clips must be at least 1, got 0"):
        BenchOptions(clips=[5, 0])
    with pytest.raises(ConfigError, match="files: each can be given once, got wav, wav"):
        BenchOptions(forms=["wav", "wav"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install ".\[bench\]"'):
        BenchOptions(plot_path=tmp_path / "timeline.png")


def test_vllm_options_must_be_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--vllm", "[1]"])
    assert "needs a JSON object" in capsys.readouterr().err


# The machine


def test_the_gpu_meter_takes_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([20, 40, 60, *[40] * 1000])
    monkeypatch.setattr(machine, "gpu_busy_unknown", lambda device: None)
    monkeypatch.setattr(machine, "SAMPLE_EVERY_S", 0.001)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(shares))
    with GPUMeter(torch.device("cuda")) as meter:
        while len(meter._samples) < 3:
            time.sleep(0.001)
    assert meter.busy_share == pytest.approx(0.4)


def test_without_a_gpu_its_busy_share_is_unknown() -> None:
    with GPUMeter(CPU) as meter:
        pass
    assert meter.busy_share is None and meter.missing == "stage 1 runs on no GPU"


def test_a_process_grows_older() -> None:
    first = process_age_s()
    time.sleep(0.05)
    assert 0 < first < process_age_s() < time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_memory_of_started_processes_is_counted() -> None:
    own, before = rss_bytes()
    grow = "x = bytes(range(256)) * (400 << 10); print(1, flush=True); input()"  # 100 MiB, in a grandchild
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grow!r}])"
    with subprocess.Popen([sys.executable, "-c", run], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        own_meanwhile, others = rss_bytes()
        process.communicate(b"\n")
    assert others - before > 100 << 20
    assert abs(own_meanwhile - own) < 50 << 20
    assert rss_bytes()[1] - before < 10 << 20


# Peers


def task(**changes: object) -> PeerTask:
    jobs = [PeerJob(clips=[noise(0, SAMPLE_RATE)] * 2, num_tokens=4, timestamps=t, num_passes=2) for t in (False, True)]
    made = PeerTask(checkpoint="nowhere", device="cpu", language="中文", jobs=jobs)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_an_absent_peer_is_said() -> None:
    times = run_peer("no_such_peer", task())  # type: ignore[arg-type]
    assert (times.error, times.version, times.wall_s) == ("no_such_peer is not installed", None, [[], []])


def test_what_a_peer_measured_before_it_failed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_peer.py").write_text(
        "from twostage_asr.engine.worker_process import connect, receive, send\n"
        "parent = connect()\n"
        "task = receive(parent)\n"
        "send(parent, (1, float(len(task.jobs[1].clips[0]))))\n"
        "raise SystemExit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(peer.PEERS, "funasr", "failing_peer")
    times = run_peer("funasr", task())
    assert times.wall_s == [[], [16_000.0]]
    assert times.error is not None


def test_funasr_is_timed_in_a_process_of_its_own_and_reads_files_itself(tmp_path: Path) -> None:
    (item,) = random_load([SAMPLE_RATE], "mp3", tmp_path / "clips").items
    jobs = [dataclasses.replace(job, clips=[*job.clips, str(item.source)]) for job in task().jobs]
    times = run_peer("funasr", task(checkpoint=str(CHECKPOINTS["low_frame_rate"]), jobs=jobs))
    assert times.error is None
    assert [len(passes) for passes in times.wall_s] == [2, 2]
    assert all(seconds > 0 for passes in times.wall_s for seconds in passes)
