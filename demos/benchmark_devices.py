"""How much faster are several GPUs of one host than one, and is the default as fast as options chosen by hand?

    python demos/benchmark_devices.py --counts 1,2 --passes 1 --tuned null

Each run has a process of its own, so that the GPUs are free again before the next: one for each number of devices,
without options, and then one device with those of `--tuned`. One device is measured as most users have it, in the
process itself. Each device has `--clips`, however many there are: with four engines it holds about 6,000 of them, and
a job that is shorter for each device would measure its begin and end. The share of linear is the rate with n devices
over n times the rate with one.

Before anything is counted, clips are transcribed until each device's further engines have loaded, as its log says, for
`--warm-s` at most; then WARM_CLIPS for each warm up what the next passes use. Where engines are missing after that
time, the figures are marked.

Each figure is printed, and the report is written, as soon as it is there, with what shows the bound: how busy the
thread was that hands out the work, and those that run the engines; for how many seconds each device waited for inputs,
and could not hand back results; and how many cores the busiest processes kept busy. A thread that is near 100 % may be
what bounds the rate, because Python runs one at a time. With one device, one thread does both.

With 20,000 clips for each, an H200 takes about 25 s for a pass from memory and 35 s from WAV. With 20 s for the model
and the files, 60 s for loading, 100 s until the further engines are there, and a warm-up of 10 s, the command above
should take 8 minutes on two of them. It needs 12 GB of disk.

Without a GPU, `--kind cpu --counts 1,2 --clips 20 --passes 1 --model demos/micro/checkpoint
--engine '{"backend": "torch"}' --tuned '{"backend": "torch"}'` shows that it runs.
"""

import argparse
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.bench.load import Load, random_lengths, random_load
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.console import spare_loaded_objects
from twostage_asr.engine.cores import usable_cores
from twostage_asr.engine.devices.replicas import Replicas

SHOWN_PROCESSES = 8
WARM_CLIPS = 8_000  # as many as a device has in flight with four engines, and 2,000 more
TUNED = '{"decoder_processes": 4, "vllm": {"attention_backend": "TRITON_ATTN"}}'  # for an H200 with 16 cores
Run = dict[str, Any]  # the figures of one run and form
_SAID = re.compile(
    r"(?:(?P<device>(?:cuda|npu|cpu)[:\d]*): )?"
    r"(?:(?P<first>\d+) vLLM engine\(s\), (?P<most>\d+) when prompts wait"
    r"|(?P<now>\d+) vLLM engines decode|a further vLLM engine did not (?:load|start)|a vLLM engine (?P<failed>failed))"
)


class Engines(logging.Handler):
    """How many vLLM engines each device has, and will have, by what the log says; it says so on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = time.perf_counter()
        self.counts: dict[str, tuple[int, int]] = {}  # of each device with vLLM: now, and wanted

    def emit(self, record: logging.LogRecord) -> None:
        if not (said := _SAID.match(record.getMessage())):
            return
        device = said["device"] or "the device"
        now, wanted = self.counts.get(device, (0, 0))
        if said["first"]:
            now, wanted = int(said["first"]), int(said["most"])
        elif said["now"]:
            now = int(said["now"])
        else:
            now, wanted = now - bool(said["failed"]), wanted - 1
        self.counts[device] = now, wanted
        after_s = time.perf_counter() - self.begun
        print(f"{device}: {now} of {wanted} engines decode after {after_s:.0f} s", file=sys.stderr, flush=True)

    @property
    def have_loaded(self) -> bool:
        return all(now >= wanted for now, wanted in self.counts.values())


def cpu_times() -> dict[tuple[int, str], float]:
    """CPU time, in s, of this process and of those that it and they have started, by id and module."""
    stats: dict[int, tuple[int, float]] = {}  # parent, CPU time
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended by now
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            stats[int(folder.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    while more := {pid for pid, (parent, _) in stats.items() if parent in ours} - ours:
        ours |= more
    return {(pid, module_of(pid)): stats[pid][1] for pid in ours}


def module_of(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return (
            words[words.index("-m") + 1].removeprefix("twostage_asr.engine.") if "-m" in words else Path(words[0]).name
        )
    return "ended"


def busiest(before: dict[tuple[int, str], float], wall_s: float) -> list[tuple[str, float]]:
    """The processes that have kept most cores busy since `before`, and how many."""
    used = [(module, (cpu_s - before.get((pid, module), 0.0)) / wall_s) for (pid, module), cpu_s in cpu_times().items()]
    return sorted(used, key=lambda each: -each[1])[:SHOWN_PROCESSES]


def warm_up(model: AutoModelVLLM, load: Load, engines: Engines, most_s: float, num_warm: int) -> float:
    """Transcribe until all engines have loaded, for `most_s` s at most, which it returns, and `num_warm` clips."""
    begun = time.perf_counter()
    while not engines.have_loaded and time.perf_counter() < begun + most_s:
        with closing(model.runner.run(load.items, load.options(timestamps=True))) as results:
            for _ in results:
                if engines.have_loaded or time.perf_counter() > begun + most_s:
                    break
    grown_s = time.perf_counter() - begun
    one_pass(model, load.head(num_warm))
    return grown_s


@dataclass(frozen=True)
class Pass:
    """Seconds that one pass has taken."""

    wall_s: float
    cpu_s: float  # of this process
    thread_s: float  # of CPU time, of the thread that hands out the work; with one device, it also runs the engine
    devices: dict[str, dict[str, float]]  # how long each has been starved, blocked and busy; none if there is but one


def one_pass(model: AutoModelVLLM, load: Load) -> Pass:
    """Each clip must give one transcript."""
    spent = spent_by(model)
    begun, begun_cpu, begun_thread = time.perf_counter(), time.process_time(), time.thread_time()
    results = list(model.runner.run(load.items, load.options(timestamps=True)))
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    thread_s = time.thread_time() - begun_thread
    devices = {
        device: {name: seconds - spent[device][name] for name, seconds in by_now.items()}
        for device, by_now in spent_by(model).items()
    }
    failed = [transcript for _, transcript in results if transcript.status == "error"]
    if failed or sorted(place for place, _ in results) != list(range(len(load.items))):
        raise SystemExit(f"{len(results)} results for {len(load.items)} clips, {len(failed)} failed: {failed[:1]}")
    return Pass(wall_s, cpu_s, thread_s, devices)


def spent_by(model: AutoModelVLLM) -> dict[str, dict[str, float]]:
    """What the process of each device has spent until now."""
    spent = model.runner.spent if isinstance(model.runner, Replicas) else []
    return {f"{number} ({device})": asdict(over) for number, (device, over) in enumerate(spent)}


def measure(args: argparse.Namespace, engines: Engines, count: int, engine: dict[str, Any]) -> Iterator[Run]:
    """The figures with this number of devices, for each form."""
    lengths = random_lengths(num_clips := count * args.clips)
    audio_s = sum(lengths) / SAMPLE_RATE
    memory = random_load(lengths, "memory", args.work)
    wav = replace(memory, form="wav", items=expand_inputs(sorted((args.work / "wav").iterdir())[:num_clips]))
    names = [f"{args.kind}:{i}" if args.kind != "cpu" else "cpu" for i in range(count)]
    where: dict[str, Any] = {"device": args.kind} if count == 1 else {"devices": names}
    begun = time.perf_counter()
    with AutoModelVLLM(args.model, **where, **engine) as model:
        load_s = time.perf_counter() - begun
        spare_loaded_objects()
        grown_s = warm_up(model, memory, engines, args.warm_s, count * WARM_CLIPS)
        for load in (memory, wav):
            before, begun = cpu_times(), time.perf_counter()
            passes = [one_pass(model, load) for _ in range(args.passes)]
            processes = busiest(before, time.perf_counter() - begun)
            wall_s = statistics.median(each.wall_s for each in passes)
            yield {
                "devices": count,
                "form": load.form,
                "load_s": load_s,
                "engines_loaded_in_s": grown_s if engines.have_loaded else None,
                "engines": engines.counts,
                "wall_s": [each.wall_s for each in passes],
                "rtfx": audio_s / wall_s,
                "clips_per_s": num_clips / wall_s,
                "first_process_cpu_us_per_clip": 1e6 * min(each.cpu_s for each in passes) / num_clips,
                "first_thread_busy": statistics.median(each.thread_s / each.wall_s for each in passes),
                "spent_in_last_pass": passes[-1].devices,
                "cores_of_processes": processes,
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
        f"first process {run['first_process_cpu_us_per_clip']:.0f} us of CPU a clip, its thread busy "
        f"{100 * run['first_thread_busy']:.0f} %, loaded in {run['load_s']:.0f} s"
        f"{'' if run['engines_loaded_in_s'] is not None else '; ENGINES ARE MISSING'}",
    )
    print("    engines now, and wanted:", run["engines"])
    for device, spent in run["spent_in_last_pass"].items():
        busy = 100 * spent["busy_s"] / run["wall_s"][-1]
        print(
            f"    {device}: starved {spent['starved_s']:.2f} s, blocked {spent['blocked_s']:.2f} s, busy {busy:.0f} %"
        )
    print("    cores:", ", ".join(f"{name} {cores:.2f}" for name, cores in run["cores_of_processes"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="default: random weights of Fun-ASR-Nano's size")
    parser.add_argument("--counts", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--clips", type=int, default=20_000, help="for each device")
    parser.add_argument("--passes", type=int, default=3, help="that are counted, for each form")
    parser.add_argument("--warm-s", type=float, default=120.0, help="longest wait for further engines")
    parser.add_argument("--kind", choices=["cuda", "npu", "cpu"], default="cuda")
    parser.add_argument("--engine", type=json.loads, default={}, help="arguments of AutoModelVLLM, as JSON")
    parser.add_argument("--tuned", type=json.loads, default=TUNED, help="those of the last run; null: leave it out")
    parser.add_argument("--work", type=Path, default=Path("demos/out/devices"), help="takes 0.3 MB a clip")
    parser.add_argument("--json", type=Path, default=Path("demos/out/devices.json"))
    parser.add_argument("--only", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or args.work / "model"
    if args.only is not None:
        # It says which engines were chosen, and how many milliseconds after the start others have loaded.
        engines = Engines()
        logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8.0f %(name)s: %(message)s")
        logging.getLogger().addHandler(engines)
        for run in measure(args, engines, *args.only):
            print(json.dumps(run), flush=True)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.model.exists():
        write_checkpoint(args.model)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        random_load(random_lengths(max(args.counts) * args.clips), "wav", Path(folder) / "wav")
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
