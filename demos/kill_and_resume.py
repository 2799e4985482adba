"""Does a job end with the same output however often it is killed? Kills one at random moments, and compares.

    python demos/kill_and_resume.py --model demos/micro/checkpoint --files 5000 --kills 100 --work demos/out/kills
    python demos/kill_and_resume.py --files 1000 --kills 10 --inputs parquet --work demos/out/kills_parquet
    python demos/kill_and_resume.py --files 600 --kills 10 --devices cpu,cpu --work demos/out/kills_devices

The model is loaded once. Each cycle forks a process that works on the job and kills it with SIGKILL at a random moment
after its first result, so that the cycles cost work and not loading. With `--devices` each process starts its engines
itself. The first few are killed while they list the inputs. An uninterrupted run of the same files comes before all.
Called again, the script goes on where it was.
"""

import argparse
import json
import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.jobs import JobFolder, JobRun, JobSpec, job_status
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.run_options import transcribe_options
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.transcript import Transcript

CLIP_S = 0.6
BATCH = 8  # clips that are encoded together, so that a cycle of a few seconds finishes some
LISTINGS = 5  # that are killed
LISTING_S = 50e-6  # for each file; a moment of this time is chosen
ROUNDING = 1e-5  # the largest difference of two confidences that single precision explains
MODEL = {"backend": "torch", "dtype": "fp32"}


def make_clips(folder: Path, count: int) -> None:
    """Pieces of the bundled clips, from all over them."""
    if folder.is_dir() and len(list(folder.iterdir())) == count:
        return
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(Path(__file__).with_name("micro").glob("clips/*.flac"))
    waves = [wave for wave in map(decode_audio, sources) if len(wave) > 32_000]
    chance = np.random.default_rng(0)
    for number in range(count):
        wave = waves[number % len(waves)]
        begin = int(chance.integers(0, len(wave) - int(CLIP_S * 16_000)))
        soundfile.write(folder / f"{number:05d}.wav", wave[begin : begin + int(CLIP_S * 16_000)], 16_000)


def write_list(clips: Path, form: str) -> Path:
    """What the job is given: the folder itself, or a list of its files."""
    if form == "folder":
        return clips
    from pyarrow import Table
    from pyarrow.parquet import write_table

    paths = sorted(clips.iterdir())
    path = clips.with_suffix(".parquet")
    write_table(Table.from_pydict({"key": [f"calls/{p.stem}" for p in paths], "source": list(map(str, paths))}), path)
    return path


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job whose processes are killed, or are not."""

    output: Path
    inputs: Path
    loaded: Transcriber | None  # None: each process starts engines on the devices
    engine: dict[str, Any]
    finished: mmap.mmap  # the number of results that the model has given in this cycle

    @contextmanager
    def model(self) -> Iterator[Any]:
        if self.loaded is not None:
            yield replace(self.loaded, lock=ModelLock())  # the lock belongs to the process that loaded it
            return
        with AutoModelVLLM(**self.engine) as model:
            yield model.runner

    def work(self) -> None:
        """Do the job, and count each result that the model gives, before it is kept."""
        options = transcribe_options(batch_size=BATCH, timestamps=False, check=False)
        spec = JobSpec(inputs=(str(self.inputs),), model={"model": "micro"}, options={}, shard_size=100)
        folder = JobFolder.open(self.output, spec)
        assert folder is not None
        with self.model() as model, JobRun(folder) as run:

            def counted(items: Iterator[AudioInput]) -> Generator[tuple[int, Transcript], None, None]:
                for result in model.run(items, options):
                    self.finished[:8] = struct.pack("q", self.count + 1)
                    yield result

            for _ in run.run(counted):
                pass

    @property
    def is_listed(self) -> bool:
        return (self.output / "job.json").exists()

    @property
    def count(self) -> int:
        return int(struct.unpack("q", self.finished[:8])[0])

    def start(self) -> int:
        """A forked process at work on the job."""
        self.finished[:8] = struct.pack("q", 0)
        if pid := os.fork():
            return pid
        self.work()
        os._exit(0)

    def finish(self) -> float:
        """An uninterrupted process, which ends with the job; returns its seconds after the first result."""
        pid, begun = self.start(), time.monotonic()
        while not self.count and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.01)
            begun = time.monotonic()
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"the process has failed, status {status}; its output says why")
        return time.monotonic() - begun

    def kill_once(self, least_results: int, most_s: float) -> bool:
        """One cycle: whether the process was killed, rather than ended by itself."""
        pid = self.start()
        while self.count < least_results:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return False
            time.sleep(0.001)
        time.sleep(random.uniform(0, most_s))
        os.kill(pid, signal.SIGKILL)  # of a process that has ended by itself, its parent finds out below
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def lines(output: Path) -> list[bytes]:
    return [line for path in sorted((output / "transcripts").iterdir()) for line in path.read_bytes().splitlines()]


def largest_difference(one: Any, other: Any) -> float:
    """Of the numbers in two values of JSON; infinite if anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return max((largest_difference(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(largest_difference, one, other), default=0.0)
    return 0.0 if one == other else float("inf")


def compare(whole: Path, killed: Path) -> str:
    """What differs. Rounding depends on which clips a batch joins, and shows in confidences."""
    pairs = list(zip(lines(whole), lines(killed), strict=True))
    differing = [largest_difference(json.loads(one), json.loads(other)) for one, other in pairs if one != other]
    if max(differing, default=0.0) > ROUNDING:
        return f"output DIFFERS in {sum(value > ROUNDING for value in differing)} lines"
    same = f"{len(pairs) - len(differing)} of {len(pairs)} lines are equal byte for byte"
    return f"{same}, the others but for numbers that differ by up to {max(differing):.1g}" if differing else same


def kill_again_and_again(job: Job, work: Path, kills: int, listing_s: float, most_s: float) -> tuple[int, int]:
    """Returns how often it was killed, and how many results the model gave in all."""
    state = work / "cycles.json"
    cycles, results = json.loads(state.read_text()) if state.exists() else (0, 0)
    if not state.exists():
        is_listed = [job.kill_once(0, listing_s) and job.is_listed for _ in range(LISTINGS)]
        print(f"{is_listed.count(False)} kills before the inputs were listed", flush=True)
    while cycles < kills and (not job.is_listed or job_status(job.output).left):
        cycles += job.kill_once(1, most_s)
        results += job.count
        state.write_text(json.dumps([cycles, results]))
    job.finish()
    return cycles, results + job.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=str(Path(__file__).with_name("micro") / "checkpoint"))
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inputs", choices=["folder", "parquet"], default="folder")
    parser.add_argument("--devices", type=lambda text: text.split(","), help="such as cpu,cpu (default: one engine)")
    parser.add_argument("--work", type=Path, default=Path("demos/out/kills"))
    args = parser.parse_args()
    make_clips(args.work / "clips", args.files)
    torch.set_num_threads(1)  # a forked process has none of the threads of its parent
    where = {"device": "cpu"} if args.devices is None else {"devices": args.devices}
    engine = {"model": args.model, **MODEL, **where}
    with ExitStack() as opened:
        loaded = None if args.devices else opened.enter_context(AutoModelVLLM(**engine)).transcriber
        inputs, finished = write_list(args.work / "clips", args.inputs), mmap.mmap(-1, 8)
        whole, killed = (
            Job(output=args.work / name, inputs=inputs, loaded=loaded, engine=engine, finished=finished)
            for name in ("whole", "killed")
        )
        rate_path = args.work / "rate.json"
        if not rate_path.exists():
            rate_path.write_text(json.dumps(args.files / whole.finish()))
        rate = json.loads(rate_path.read_text())
        print(f"uninterrupted: {rate:.1f} files/s", flush=True)
        listing_s, most_s = LISTING_S * args.files, 1.4 * args.files / args.kills / rate
        cycles, results = kill_again_and_again(killed, args.work, args.kills, listing_s, most_s)
    print(f"{cycles} kills; {compare(whole.output, killed.output)}; {job_status(killed.output)}")
    print(f"{results} results for {args.files} files: rework {100 * (results / args.files - 1):.2f} %")


if __name__ == "__main__":
    main()
