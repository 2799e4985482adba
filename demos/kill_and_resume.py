"""Does a job end with the same output however often it is killed? Kills one at random moments, and compares.

    python demos/kill_and_resume.py --model demos/micro/checkpoint --files 5000 --kills 100 --work demos/out/kills

The model is loaded once. Each cycle forks a process that works on the job and kills it with SIGKILL at a random moment
after its first result, so that the cycles cost work and not loading. An uninterrupted run of the same files comes
first. Called again, the script goes on where it was.
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
from dataclasses import replace
from pathlib import Path

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


def work(folder: JobFolder, model: Transcriber, finished: mmap.mmap) -> None:
    """Work on the job, and count in the shared memory each result that the model gives, before it is kept."""
    options = transcribe_options(batch_size=BATCH, timestamps=False, check=False)

    def counted(items: Iterator[AudioInput]) -> Generator[tuple[int, Transcript], None, None]:
        for result in model.run(items, options):
            finished[:8] = struct.pack("q", count(finished) + 1)
            yield result

    with JobRun(folder) as run:
        for _ in run.run(counted):
            pass


def start(folder: JobFolder, model: Transcriber, finished: mmap.mmap) -> int:
    """A forked process at work on the job; the model's lock belongs to the process that loads it."""
    if pid := os.fork():
        return pid
    work(folder, replace(model, lock=ModelLock()), finished)
    os._exit(0)


def opened(output: Path, clips: Path) -> JobFolder:
    spec = JobSpec(inputs=(str(clips),), model={"model": "micro"}, options={}, shard_size=100)
    folder = JobFolder.open(output, spec)
    assert folder is not None
    return folder


def count(finished: mmap.mmap) -> int:
    return int(struct.unpack("q", finished[:8])[0])


def kill_once(folder: JobFolder, model: Transcriber, finished: mmap.mmap, most_s: float) -> bool:
    """One cycle: whether the process was killed, rather than ended by itself."""
    before, pid = count(finished), start(folder, model, finished)
    while count(finished) == before and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(random.uniform(0, most_s))
    try:
        os.kill(pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    except (ProcessLookupError, ChildProcessError):
        return False


def shards(output: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((output / "transcripts").iterdir())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=str(Path(__file__).with_name("micro") / "checkpoint"))
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("demos/out/kills"))
    args = parser.parse_args()
    make_clips(args.work / "clips", args.files)
    torch.set_num_threads(1)  # a forked process has none of the threads of its parent
    with AutoModelVLLM(model=args.model, backend="torch", device="cpu", dtype="fp32") as loaded:
        model = loaded.transcriber
        whole, killed = (opened(args.work / name, args.work / "clips") for name in ("whole", "killed"))
        finished, rate_path = mmap.mmap(-1, 8), args.work / "rate.json"
        if not rate_path.exists():
            begun = time.monotonic()
            os.waitpid(start(whole, model, finished), 0)
            rate_path.write_text(json.dumps(args.files / (time.monotonic() - begun)))
        rate = json.loads(rate_path.read_text())
        print(f"uninterrupted: {rate:.1f} files/s", flush=True)
        state = args.work / "cycles.json"
        cycles, results = json.loads(state.read_text()) if state.exists() else (0, 0)
        most_s = 1.4 * args.files / args.kills / rate
        while cycles < args.kills and job_status(killed.directory).left:
            finished[:8] = struct.pack("q", 0)
            cycles += kill_once(killed, model, finished, most_s)
            results += count(finished)
            state.write_text(json.dumps([cycles, results]))
        finished[:8] = struct.pack("q", 0)
        os.waitpid(start(killed, model, finished), 0)
        results += count(finished)
    same = shards(args.work / "whole") == shards(args.work / "killed")
    print(f"{cycles} kills; output {'equal' if same else 'DIFFERS'}; {job_status(killed.directory)}")
    print(f"{results} results for {args.files} files: rework {100 * (results / args.files - 1):.2f} %")


if __name__ == "__main__":
    main()
