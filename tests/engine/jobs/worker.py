"""A process that works on a job with a model of rules: the text of each input is its key.

python -m tests.engine.jobs.worker OUTPUT INPUTS SHARD_SIZE [delay in ms]. Each key that is done is appended to
OUTPUT.done before it is journaled, so that the caller sees what is done twice.
"""

import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.jobs import JobFolder, JobRun, JobSpec
from twostage_asr.engine.transcript import Transcript


def spec(inputs: Path, shard_size: int, **changes: object) -> JobSpec:
    fields = {"inputs": (str(inputs),), "model": {"model": "rules"}, "options": {}, "shard_size": shard_size}
    return JobSpec(**fields | changes)  # type: ignore[arg-type]


def answer(item: AudioInput) -> Transcript:
    """Fails for keys that begin with "bad"."""
    if item.key.startswith("bad"):
        return Transcript(item.key, status="error", error="bad audio", error_code="bad_audio")
    return Transcript(item.key, text=f"text of {item.key}", duration=1.0)


def transcribe(items: Iterator[AudioInput]) -> Generator[tuple[int, Transcript], None, None]:
    """Pairs are finished in the wrong order."""
    held: list[tuple[int, Transcript]] = []
    for place, item in enumerate(items):
        held.append((place, answer(item)))
        if len(held) == 2:
            yield from reversed(held)
            held = []
    yield from held


def main() -> None:
    output, inputs, shard_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    delay_s = int(sys.argv[4]) / 1000
    done = os.open(f"{output}.done", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while (folder := JobFolder.open(output, spec(inputs, shard_size))) is None:
        time.sleep(0.01)
    with JobRun(folder) as run:
        for transcript in run.run(transcribe):
            os.write(done, f"{transcript.key}\n".encode())
            time.sleep(delay_s)


if __name__ == "__main__":
    main()
