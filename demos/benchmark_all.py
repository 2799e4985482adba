"""Every figure of small loads on one GPU in speed.md and streaming.md, from one command.

    python demos/benchmark_all.py --random --json figures.json            # the published sizes, random weights
    python demos/benchmark_all.py --model FunAudioLLM/Fun-ASR-Nano-2512 --parts small server --json figures.json

first_text  the first text of a process, with cold and with warm caches (first_text.py)
small       a few clips, in memory and from MP3, without and with word times (benchmark_small.py)
streaming   live sessions (benchmark_streaming.py)
lanes       RTFx of a list of clips, with the fast lane and without, in turn
server      requests at a time, and /health beside them (benchmark_server.py)

They run in this order, and the file is written after each figure. The parts after the first share a model with one
vLLM engine, so that no further one loads meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twostage_asr.engine.console import quiet_libraries, spare_loaded_objects

quiet_libraries()  # before torch and vLLM are imported

import benchmark_server
import benchmark_small
import benchmark_streaming
import first_text
import numpy as np

from twostage_asr.engine import AutoModelVLLM, LiveOptions
from twostage_asr.engine.bench.load import random_lengths, random_load
from twostage_asr.engine.bench.machine import hardware, versions
from twostage_asr.engine.bench.measure import transcribe
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.decoder.two_lanes import TwoLaneDecoder
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.vad import load_vad

CLIP_S = (4.7, 10.0)
SERVED_CLIPS, SERVED_TOKENS = 512, 16  # of 4.7 s, as other servers are measured
Figures = Iterable[dict[str, Any]]


def small(transcriber: Transcriber, args: argparse.Namespace, folder: Path) -> Figures:
    for seconds in CLIP_S if args.random else CLIP_S[-1:]:  # the bundled clip is as long as it is
        own = benchmark_small.parse_arguments([*args.source, "--seconds", str(seconds), "--passes", str(args.passes)])
        (folder / str(seconds)).mkdir()
        for row in benchmark_small.rows(transcriber, benchmark_small.loads_of(own, folder / str(seconds)), own):
            yield {"seconds": seconds if args.random else None} | asdict(row)


def streaming(transcriber: Transcriber, args: argparse.Namespace, folder: Path) -> Figures:
    own = [*args.source, "--sessions", *args.sessions, "--seconds", str(args.seconds)]
    own += ["--agreement"] if args.random else []
    options = benchmark_streaming.parse_arguments(own)
    with benchmark_streaming.serving(transcriber, options) as service:
        for num, found in benchmark_streaming.rows(service, LiveOptions(vad=load_vad()), options):
            counts = {"lag_s": found.lag, "partials": len(found.partial), "finals": len(found.final)}
            yield {"sessions": num, "p50_p95_s": found.percentiles} | counts


def lanes(transcriber: Transcriber, args: argparse.Namespace, folder: Path) -> Figures:
    """Passes with the fast lane and without, in turn, so that what slows the machine for a while slows both."""
    load = random_load(random_lengths(args.clips), "memory", folder)
    ways = {"both": transcriber}
    if isinstance(transcriber.decoder, TwoLaneDecoder):
        ways["large"] = replace(transcriber, decoder=transcriber.decoder.large)
    for timestamps in (False, True):
        rtfx: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(1 + args.pairs):
            for name in list(ways)[:: -1 if number % 2 else 1]:  # each is as often the first
                done = transcribe(ways[name], load, timestamps=timestamps)
                if number:  # the first passes warm up
                    rtfx[name].append(done.audio_s / done.wall_s)
        medians = {name: statistics.median(values) for name, values in rtfx.items()}
        yield {"timestamps": timestamps, "rtfx": rtfx, "medians": medians} | compared(rtfx)


def compared(rtfx: dict[str, list[float]]) -> dict[str, Any]:
    """The ratios of the passes with the fast lane to those beside them without it, where there are both."""
    if "large" not in rtfx:
        return {}
    ratios = [both / large for both, large in zip(rtfx["both"], rtfx["large"], strict=True)]
    lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    return {"ratio": {"median": median, "quartiles": [lower, upper]}}


def server(transcriber: Transcriber, args: argparse.Namespace, folder: Path) -> Figures:
    own = [*args.source, "--sessions", "--concurrency", *args.concurrency, "--seconds", str(args.seconds / 4)]
    own += ["--clips", str(min(SERVED_CLIPS, args.clips)), "--clip-seconds", str(CLIP_S[0])]
    own += ["--tokens", str(SERVED_TOKENS)] if args.random else []
    yield benchmark_server.measure(transcriber, benchmark_server.parse_arguments(own), folder)


SHARED: dict[str, Callable[..., Figures]] = {"small": small, "streaming": streaming, "lanes": lanes, "server": server}


def add(report: dict[str, Any], name: str, figures: Figures) -> None:
    """Measure a part, and say and write each of its figures as it comes."""

    def write() -> None:
        if path := report["options"]["json"]:
            path.write_text(json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")

    report[name] = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "load_average": os.getloadavg()}
    print(json.dumps({name: report[name]}), flush=True)
    report[name]["figures"] = found = []
    write()
    for each in figures:
        found.append(each)
        print(json.dumps(each, ensure_ascii=False), flush=True)
        write()


def measure(report: dict[str, Any], parts: dict[str, Any], args: argparse.Namespace) -> None:
    """Load a model, and measure these parts of it."""
    options = {} if args.backend == "torch" else {"decoder_processes": 1, "fast_lane": True}
    with AutoModelVLLM(args.model, backend=args.backend, **options) as model:
        model.transcriber.wait_until_complete()
        spare_loaded_objects()
        for name, part in parts.items():
            with tempfile.TemporaryDirectory() as folder:
                add(report, name, part(model.transcriber, args, Path(folder)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint directory or hub id")
    source.add_argument("--random", action="store_true", help="weights of Fun-ASR-Nano's sizes")
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--parts", nargs="+", choices=["first_text", *SHARED], default=["first_text", *SHARED])
    parser.add_argument("--passes", type=int, default=25, help="of small")
    parser.add_argument("--sessions", nargs="+", default=["1", "16"], help="of streaming")
    parser.add_argument("--seconds", type=float, default=20.0, help="of streaming; a quarter of it for each of server")
    parser.add_argument("--clips", type=int, default=3000, help="of lanes")
    parser.add_argument("--pairs", type=int, default=8, help="of passes with and without the fast lane, of lanes")
    parser.add_argument("--concurrency", nargs="+", default=["1", "8", "32", "128"], help="of server")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    # Outside a clone, git says why there is none.
    revision = subprocess.getoutput(f"git -C '{Path(__file__).parent}' describe --always --dirty")
    report = {"revision": revision, "options": dict(vars(args))}
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            args.model = f"{folder}/checkpoint"
            write_checkpoint(Path(args.model))
        args.source = ["--random"] if args.random else ["--model", args.model]
        if "first_text" in args.parts:
            own = first_text.parse_arguments(["--model", args.model, "--backend", args.backend])
            add(report, "first_text", first_text.measure(*own))  # while this process has nothing on the GPU
        device = EngineConfig().torch_device()
        add(report, "machine", [hardware(device) | versions(device)])
        if parts := {name: part for name, part in SHARED.items() if name in args.parts}:
            measure(report, parts, args)


if __name__ == "__main__":
    main()
