"""What a job costs besides the model: listing, journal, shards and memory, with a model that takes no time.

    python demos/benchmark_job.py --files 100000 --work demos/out/job

Prints the CPU time of a file for listing; for each tenth of the files, that for everything else, the rate and the
resident memory. Divide these times by the model's for a file to have their share.

Other programs on the machine slow each instruction down. So the CPU time of a tenth is also given in yardsticks: a
fixed piece of work that is timed a hundred times within it.
"""

import argparse
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.jobs import JobFolder, JobRun, JobSpec
from twostage_asr.engine.transcript import Segment, Transcript, Word

NUM_FOLDERS = 100
WORDS = tuple(Word(f"word{i}", 0.1 * i, 0.1 * i + 0.1, 0.9) for i in range(10))
TEXT = " ".join(word.text for word in WORDS)
MEASURE = Transcript("key", TEXT, "en", WORDS, (Segment(0.0, 1.0, TEXT, WORDS, 0.9),), 1.0, 0.9)


def transcribe(items: Iterator[AudioInput]) -> Generator[tuple[int, Transcript], None, None]:
    """Ten words for each input, without reading it."""
    segments = (Segment(0.0, 1.0, TEXT, WORDS, 0.9),)
    for place, item in enumerate(items):
        yield place, Transcript(item.key, TEXT, "en", WORDS, segments, 1.0, 0.9)


def make_files(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"{number % NUM_FOLDERS:02d}" / f"{number:07d}.wav"
        if number < NUM_FOLDERS:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


class Yardstick:
    """Times a fixed piece of work at every so many ticks: the JSON text of a transcript, twenty times over."""

    def __init__(self, every: int) -> None:
        self._every = max(every, 1)
        self._num_ticks = 0
        self._num_times = 0
        self.total = 0.0  # s of CPU

    def tick(self) -> None:
        self._num_ticks += 1
        if self._num_ticks % self._every == 0:
            begun = time.thread_time()  # another thread publishes shards meanwhile
            for _ in range(20):
                MEASURE.to_json()
            self.total += time.thread_time() - begun
            self._num_times += 1

    @property
    def mean(self) -> float:
        """Of one piece."""
        return self.total / (20 * self._num_times)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path("demos/out/job"))
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    make_files(args.work / "in", args.files)
    begun = time.process_time()
    folder = JobFolder.open(
        args.work / "out", JobSpec(inputs=(str(args.work / "in"),), model={"model": "none"}, options={})
    )
    assert folder is not None
    print(
        f"listing: {1e6 * (time.process_time() - begun) / args.files:.1f} us of CPU a file; RSS {resident_mb():.0f} MB"
    )
    tenth = args.files // 10
    begun, wall, yard = time.process_time(), time.perf_counter(), Yardstick(tenth // 100)
    total = 0.0
    with JobRun(folder) as run:
        for number, _ in enumerate(run.run(transcribe), start=1):
            yard.tick()
            if number % tenth == 0:
                now, now_wall = time.process_time(), time.perf_counter()
                cost, rate = (now - begun - yard.total) / tenth, tenth / (now_wall - wall)
                total += cost / 10
                print(
                    f"{number:>9} files: {1e6 * cost:.1f} us of CPU a file, {cost / yard.mean:.3f} yardsticks, "
                    f"{rate:.0f} files/s, RSS {resident_mb():.0f} MB",
                    flush=True,
                )
                begun, wall, yard = time.process_time(), time.perf_counter(), Yardstick(tenth // 100)
    print(f"journal and shards: {1e6 * total:.1f} us of CPU a file")


if __name__ == "__main__":
    main()
