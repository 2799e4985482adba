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


def slow_down() -> None:
    """Sleep before every tensor, flush and rename, so that a kill lands anywhere in a conversion."""
    pieces, flush, rename = weights.Weight.pieces, os.fsync, Path.rename

    def slow(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slowed(*arguments: object) -> object:
            time.sleep(seconds)
            return function(*arguments)

        return slowed

    weights.Weight.pieces = slow(pieces, 0.001)  # type: ignore[method-assign]
    os.fsync = slow(flush, 0.01)
    Path.rename = slow(rename, 0.05)  # type: ignore[method-assign]


def fork(checkpoint: Path, output: Path, log: Path, *, force: bool) -> int:
    """Convert in a child; every conversion that it begins is a line in `log`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        slow_down()
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


def kill_one(checkpoint: Path, output: Path, after_s: float, *, force: bool) -> bool:
    """Kill -9 a conversion after some time; returns whether it was still at work."""
    child = fork(checkpoint, output, output.parent / "killed.log", force=force)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_many(checkpoint: Path, work: Path) -> dict[str, Any]:
    good = digest(ensure_converted(checkpoint, output=work / "good", progress=False))
    start = time.monotonic()
    os.waitpid(fork(checkpoint, work / "timed", work / "timed.log", force=False), 0)
    duration_s = time.monotonic() - start
    moments = random.Random(0)
    report: dict[str, Any] = {"killed_at_work": 0, "leftovers_seen": 0, "wrong": []}
    for number in range(NUM_KILLS):
        output = work / f"kill{number}" / "out"
        replaces = number % 2 == 1
        if replaces:
            ensure_converted(checkpoint, output=output, progress=False)
        output.parent.mkdir(exist_ok=True)
        report["killed_at_work"] += kill_one(checkpoint, output, moments.uniform(0.02, 1) * duration_s, force=replaces)
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
