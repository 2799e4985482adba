"""How much faster are several GPUs of one host than one, and is the default as fast as options chosen by hand?

    python demos/benchmark_devices.py --counts 1,2 --passes 1

Each run has a process of its own, so that the GPUs are free again before the next: one for each number of devices,
without options, and then one device with those of `--tuned`. One device is measured as most users have it, in the
process itself. Before anything is counted, passes over the clips warm up what the next ones use, for `--warm-s` at
least, in which an engine with much to do starts others beside it. The share of linear is the rate with n devices over
n times the rate with one.

Each figure is printed, and the report is written, as soon as it is there. With 20,000 clips, an H200 takes about 20 s
for a pass; with loading, the command above should take 8 to 9 minutes on two of them, of which the last two are for
`--tuned`. `--counts 1,2,4 --passes 1 --tuned null` should take as long on four.

Without a GPU, `--kind cpu --counts 1,2 --clips 20 --passes 1 --warm-s 0 --model demos/micro/checkpoint
--engine '{"backend": "torch"}' --tuned '{"backend": "torch"}'` shows that it runs.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.bench.load import Load, random_lengths, random_load
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.console import spare_loaded_objects
from twostage_asr.engine.cores import usable_cores

TUNED = '{"decoder_processes": 4, "vllm": {"attention_backend": "TRITON_ATTN"}}'  # for an H200 with 16 cores
Run = dict[str, Any]  # the figures of one run and form


def one_pass(model: AutoModelVLLM, load: Load) -> tuple[float, float]:
    """Wall time and this process's CPU time, in seconds. Each clip must give one transcript."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    results = list(model.runner.run(load.items, load.options(timestamps=True)))
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    failed = [transcript for _, transcript in results if transcript.status == "error"]
    if failed or sorted(place for place, _ in results) != list(range(len(load.items))):
        raise SystemExit(f"{len(results)} results for {len(load.items)} clips, {len(failed)} failed: {failed[:1]}")
    return wall_s, cpu_s


def measure(args: argparse.Namespace, count: int, engine: dict[str, Any]) -> Iterator[Run]:
    """The figures with this number of devices, for each form."""
    lengths = random_lengths(args.clips)
    audio_s = sum(lengths) / SAMPLE_RATE
    memory = random_load(lengths, "memory", args.work)
    wav = replace(memory, form="wav", items=expand_inputs(sorted((args.work / "wav").iterdir())))
    names = [f"{args.kind}:{i}" if args.kind != "cpu" else "cpu" for i in range(count)]
    where: dict[str, Any] = {"device": args.kind} if count == 1 else {"devices": names}
    begun = time.perf_counter()
    with AutoModelVLLM(args.model, **where, **engine) as model:
        load_s = time.perf_counter() - begun
        spare_loaded_objects()
        ready, num_warm = time.perf_counter(), 0
        while not num_warm or time.perf_counter() < ready + args.warm_s:
            one_pass(model, memory)
            num_warm += 1
        for load in (memory, wav):
            passes = [one_pass(model, load) for _ in range(args.passes)]
            wall_s = statistics.median(wall for wall, _ in passes)
            yield {
                "devices": count,
                "form": load.form,
                "load_s": load_s,
                "warm_passes": num_warm,
                "wall_s": [wall for wall, _ in passes],
                "rtfx": audio_s / wall_s,
                "clips_per_s": args.clips / wall_s,
                "first_process_cpu_us_per_clip": 1e6 * min(cpu for _, cpu in passes) / args.clips,
            }


def in_own_process(count: int, options: dict[str, Any]) -> Iterator[Run]:
    """What `measure` gives there, as it comes."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", json.dumps([count, options])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from (json.loads(line) for line in process.stdout if line.startswith('{"devices"'))
    if process.returncode:
        print(f"{count} devices: the process ended, exit status {process.returncode}", flush=True)


def compared(run: Run, runs: list[Run]) -> None:
    """Add to a run, and say, what it is in comparison with one device without options, if that was measured."""
    one = next((other for other in runs if other["devices"] == 1 and other["form"] == run["form"]), None)
    share = None if one is None else run["rtfx"] / one["rtfx"] / run["devices"]
    run["share_of_linear"] = share
    print(
        f"{run['devices']} x {run['form']:6} {run['name']:7}: {run['rtfx']:9.1f} times real time, "
        f"{run['clips_per_s']:8.1f} clips/s, {'' if share is None else f'{100 * share:5.1f} % of linear, '}"
        f"first process {run['first_process_cpu_us_per_clip']:.0f} us of CPU a clip, loaded in {run['load_s']:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="default: random weights of Fun-ASR-Nano's size")
    parser.add_argument("--counts", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--passes", type=int, default=3, help="that are counted, for each form")
    parser.add_argument("--warm-s", type=float, default=45.0)
    parser.add_argument("--kind", choices=["cuda", "npu", "cpu"], default="cuda")
    parser.add_argument("--engine", type=json.loads, default={}, help="arguments of AutoModelVLLM, as JSON")
    parser.add_argument("--tuned", type=json.loads, default=TUNED, help="those of the last run; null: leave it out")
    parser.add_argument("--work", type=Path, default=Path("demos/out/devices"), help="takes 0.3 MB for each clip")
    parser.add_argument("--json", type=Path, default=Path("demos/out/devices.json"))
    parser.add_argument("--only", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or args.work / "model"
    if args.only is not None:
        # It says which engines were chosen, and how many milliseconds after the start others have loaded.
        logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8.0f %(name)s: %(message)s")
        for run in measure(args, *args.only):
            print(json.dumps(run), flush=True)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.model.exists():
        write_checkpoint(args.model)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        random_load(random_lengths(args.clips), "wav", Path(folder) / "wav")
        sys.argv += ["--work", folder, "--model", str(args.model)]
        wanted = [("default", count, args.engine) for count in args.counts]
        if args.tuned is not None:
            wanted.append(("tuned", 1, args.tuned))
        runs: list[Run] = []
        for name, count, options in wanted:
            for run in in_own_process(count, options):
                runs.append({"name": name} | run)
                compared(runs[-1], runs)
                report = {"clips": args.clips, "cores": usable_cores(), "wanted": wanted, "runs": runs}
                args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
