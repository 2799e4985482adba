"""A process of its own that kills conversions and lets two race; prints what it saw as JSON.

    python forked_conversions.py CHECKPOINT WORK_DIRECTORY

Children are forked, because starting Python and importing torch would take seconds for each; and from here, because a
test runner has threads, which a fork does not survive.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.models.qwen3.modeling_qwen3  # noqa: F401  (imported here, so that children need not)

from twostage_asr.convert import export, publish, weights
from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.manifest import EngineManifest

NUM_KILLS = 10


class Steps:
    """The steps of a conversion: its tensors, flushes and renames. A kill comes before one of them."""

    def __init__(self) -> None:
        self.num_done = 0
        self.kill_before: int | None = None
        weights.Weight.pieces = self._counted(weights.Weight.pieces, 0.001)  # type: ignore[method-assign]
        os.fsync = self._counted(os.fsync, 0.01)
        Path.rename = self._counted(Path.rename, 0.05)  # type: ignore[method-assign]

    def _counted(self, function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        """It takes some time, so that two conversions at once meet."""

        def step(*arguments: object) -> object:
            if self.num_done == self.kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            self.num_done += 1
            time.sleep(seconds)
            return function(*arguments)

        return step


STEPS = Steps()


def fork(checkpoint: Path, output: Path, log: Path, *, force: bool, kill_before: int | None = None) -> int:
    """Convert in a child; every conversion that it begins is a line in `log`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        STEPS.num_done, STEPS.kill_before = 0, kill_before
        begin = export.publish

        def logged(*arguments: Any) -> None:
            with log.open("a") as file:
                file.write("begun\n")
            begin(*arguments)

        export.publish = logged
        ensure_converted(checkpoint, output=output, force=force, progress=False)
        code = 0
    finally:
        os._exit(code)


def digest(directory: Path) -> str:
    """Of all names and contents below a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    parts = [f"{p.relative_to(directory)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def passes_for_done(output: Path) -> bool:
    try:
        return export.is_complete(output, EngineManifest.read(output))
    except CheckpointError:
        return False


def kill_one(checkpoint: Path, output: Path, before: int, *, force: bool) -> bool:
    """Kill -9 a conversion before this step; returns whether it was still at work."""
    child = fork(checkpoint, output, output.parent / "killed.log", force=force, kill_before=before)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_many(checkpoint: Path, work: Path) -> dict[str, Any]:
    good = digest(ensure_converted(checkpoint, output=work / "good", progress=False))
    num_steps, moments = STEPS.num_done, random.Random(0)
    report: dict[str, Any] = {"killed_at_work": 0, "leftovers_seen": 0, "wrong": []}
    for number in range(NUM_KILLS):
        output = work / f"kill{number}" / "out"
        replaces = number % 2 == 1
        if replaces:
            ensure_converted(checkpoint, output=output, progress=False)
        output.parent.mkdir(exist_ok=True)
        report["killed_at_work"] += kill_one(checkpoint, output, moments.randrange(num_steps), force=replaces)
        if passes_for_done(output) and digest(output) != good:
            report["wrong"].append(f"kill {number}: half a conversion passes for done")
        report["leftovers_seen"] += any(publish._beside(output, kind).exists() for kind in ("partial", "old"))
        ensure_converted(checkpoint, output=output, progress=False)
        if digest(output) != good:
            report["wrong"].append(f"kill {number}: the next conversion differs")
        left = {entry.name for entry in output.parent.iterdir()} - {"out", ".out.lock", "killed.log"}
        if left:
            report["wrong"].append(f"kill {number}: {sorted(left)} left over")
    return report


def race(checkpoint: Path, work: Path) -> dict[str, Any]:
    output, log = work / "race" / "out", work / "race.log"
    children = [fork(checkpoint, output, log, force=False) for _ in range(2)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    return {"codes": codes, "conversions": log.read_text().count("begun"), "is_done": passes_for_done(output)}


def main(checkpoint: Path, work: Path) -> None:
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps({"kills": kill_many(checkpoint, work), "race": race(checkpoint, work)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
