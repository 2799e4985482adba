"""How much faster are several GPUs of one host than one? Clips in memory, and as WAV files.

    python demos/benchmark_devices.py --counts 1,2,4 --clips 20000 --engine '{"decoder_processes": 4}'

Each number of devices has a process of its own, so that the GPUs are free again before the next. One device is measured
as most users have it, in the process itself. The first pass over the clips is not counted: it warms up what the next
ones use. The share of linear is the rate with n devices over n times the rate with one.

Without a GPU, `--kind cpu --counts 1,2 --clips 20 --model demos/micro/checkpoint --engine '{"backend": "torch"}'` shows
that it runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.bench.load import Load, random_lengths, random_load
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.console import spare_loaded_objects

FORMS = ("memory", "wav")


def one_pass(model: AutoModelVLLM, load: Load) -> tuple[float, float]:
    """Wall time and this process's CPU time, in seconds. Each clip must give one transcript."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    results = list(model.runner.run(load.items, load.options(timestamps=True)))
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    failed = [transcript for _, transcript in results if transcript.status == "error"]
    if failed or sorted(place for place, _ in results) != list(range(len(load.items))):
        raise SystemExit(f"{len(results)} results for {len(load.items)} clips, {len(failed)} failed: {failed[:1]}")
    return wall_s, cpu_s


def measure(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """The figures with this number of devices."""
    lengths = random_lengths(args.clips)
    audio_s = sum(lengths) / SAMPLE_RATE
    memory = random_load(lengths, "memory", args.work)
    wav = replace(memory, form="wav", items=expand_inputs(sorted((args.work / "wav").iterdir())))
    names = [f"{args.kind}:{i}" if args.kind != "cpu" else "cpu" for i in range(count)]
    where: dict[str, Any] = {"device": args.kind} if count == 1 else {"devices": names}
    figures: dict[str, Any] = {"devices": count}
    begun = time.perf_counter()
    with AutoModelVLLM(args.model, **where, **args.engine) as model:
        figures["load_s"] = time.perf_counter() - begun
        spare_loaded_objects()
        for load in (memory, wav):
            one_pass(model, load)
            passes = [one_pass(model, load) for _ in range(args.passes)]
            wall_s = statistics.median(wall for wall, _ in passes)
            figures[load.form] = {
                "wall_s": [wall for wall, _ in passes],
                "rtfx": audio_s / wall_s,
                "clips_per_s": args.clips / wall_s,
                "first_process_cpu_us_per_clip": 1e6 * min(cpu for _, cpu in passes) / args.clips,
            }
    return figures


def in_own_process(count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", str(count)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    figures: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return figures


def with_shares(runs: Sequence[dict[str, Any]]) -> None:
    """Add to each run, and say, its share of linear, by the run with the fewest devices."""
    first = min(runs, key=lambda run: run["devices"])
    for run in runs:
        for form in FORMS:
            linear = first[form]["rtfx"] * run["devices"] / first["devices"]
            run[form]["share_of_linear"] = run[form]["rtfx"] / linear
            print(
                f"{run['devices']} x {form:6}: {run[form]['rtfx']:9.1f} times real time, "
                f"{run[form]['clips_per_s']:8.1f} clips/s, {100 * run[form]['share_of_linear']:5.1f} % of linear, "
                f"first process {run[form]['first_process_cpu_us_per_clip']:.0f} us of CPU a clip"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="default: random weights of Fun-ASR-Nano's size")
    parser.add_argument("--counts", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--passes", type=int, default=3, help="that are counted, for each form")
    parser.add_argument("--kind", choices=["cuda", "npu", "cpu"], default="cuda")
    parser.add_argument("--engine", type=json.loads, default={}, help="arguments of AutoModelVLLM, as JSON")
    parser.add_argument("--work", type=Path, default=Path("demos/out/devices"), help="takes 0.3 MB for each clip")
    parser.add_argument("--json", type=Path, default=Path("demos/out/devices.json"))
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or args.work / "model"
    if args.only is not None:
        print(json.dumps(measure(args, args.only)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.model.exists():
        write_checkpoint(args.model)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        random_load(random_lengths(args.clips), "wav", Path(folder) / "wav")
        sys.argv += ["--work", folder, "--model", str(args.model)]
        runs = [in_own_process(count) for count in args.counts]
    with_shares(runs)
    report = {"clips": args.clips, "cores": os.cpu_count(), "engine": args.engine, "runs": runs}
    args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
