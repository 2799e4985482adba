"""`twostage-asr bench`: measure how fast this machine transcribes."""

import argparse
from pathlib import Path

from ..hub.resolve import HUBS
from .command import add_engine_options, engine_options
from .parser import Commands, new_parser

_FAMILIES = ("fun_asr_nano", "qwen3_asr", "qwen3_asr_1_7b", "glm_asr")
_FORMS = ("memory", "wav", "mp3")
_TIMESTAMPS = {"off": (False,), "on": (True,), "both": (False, True)}


def add_parser(commands: Commands) -> None:
    bench = new_parser(
        commands,
        "bench",
        help="measure how fast this machine transcribes, and where the time goes",
        usage="",
        examples=(
            "twostage-asr bench --random --clips 64 --repeat 2 --latency 1",
            "twostage-asr bench --model FunAudioLLM/Fun-ASR-Nano-2512 --input my_recordings/ --json speed.json",
        ),
    )
    model = bench.add_mutually_exclusive_group()
    model.add_argument("--model", help="hub id or directory (default: --random)")
    model.add_argument("--random", action="store_true", help="the published sizes with random weights (the default)")
    bench.add_argument("--family", choices=_FAMILIES, default=_FAMILIES[0], help="of random weights")
    bench.add_argument("--hub", choices=HUBS, default="ms", help="ms: ModelScope, hf: Hugging Face")
    bench.add_argument(
        "--input", type=Path, help="folder, list file or audio file (default: random clips of 1.5 to 30 s)"
    )
    bench.add_argument(
        "--clips",
        nargs="+",
        type=int,
        default=[512],
        metavar="N",
        help="numbers of random clips; fewer are the first of more",
    )
    bench.add_argument(
        "--files",
        nargs="+",
        choices=_FORMS,
        default=["memory"],
        help="where they lie: in memory (the default), or in files that are written first",
    )
    bench.add_argument("--timestamps", choices=_TIMESTAMPS, default="both", help="passes with or without word times")
    bench.add_argument("--repeat", type=int, default=3, help="passes over the clips; the first is cold")
    bench.add_argument(
        "--latency",
        nargs="*",
        type=int,
        metavar="N",
        help="how long N clips of 10 s (or N times the first of --input) take at once, for each N; 1 if none is given "
        "(default: not measured)",
    )
    bench.add_argument(
        "--peer", choices=["funasr", "vllm"], help="the same with FunASR, or with vLLM's own model (default: neither)"
    )
    bench.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything that was measured (default: nothing)"
    )
    bench.add_argument(
        "--plot", type=Path, metavar="FILE", help="write a picture (PNG) of both stages over time (default: none)"
    )
    add_engine_options(bench)
    bench.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..bench.command import BenchOptions, bench  # imports torch

    options = BenchOptions(
        model=None if args.random else args.model,
        family=args.family,
        hub=args.hub,
        source=args.input,
        clips=args.clips,
        forms=args.files,
        timestamps=_TIMESTAMPS[args.timestamps],
        repeat=args.repeat,
        latency=() if args.latency is None else args.latency or (1,),
        peer=args.peer,
        json_path=args.json,
        plot_path=args.plot,
        engine=engine_options(args),
    )
    report = bench(options, say=lambda line: print(line, flush=True))
    return 1 if any(one.failed for one in report.passes) else 0
