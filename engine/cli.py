"""The command `twostage-asr`."""

import argparse
import json
import sys
from pathlib import Path

from .console import quiet_libraries
from .errors import ASRError
from .hub import HUBS, HubName

_TIMESTAMPS = {"off": (False,), "on": (True,), "both": (False, True)}


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="twostage-asr", description="Speech recognition with LLM decoders.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="prove a published model on this machine, and print a report")
    verify.add_argument("--model", required=True, help="hub id or directory")
    verify.add_argument("--hub", choices=HUBS, default="ms")
    _add_bench(commands)
    args = parser.parse_args(arguments)
    quiet_libraries()
    try:
        return _verify(args.model, args.hub) if args.command == "verify" else _bench(args)
    except ASRError as error:
        print(f"twostage-asr: {error}", file=sys.stderr)
        return 1


def _verify(model: str, hub: HubName) -> int:
    from .verification import verify_model  # imports torch

    failed = 0
    for finding in verify_model(model, hub):
        print(finding, flush=True)
        failed += finding.outcome == "fail"
    print(f"{failed} failed" if failed else "all that could be checked holds")
    return 1 if failed else 0


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    bench = commands.add_parser("bench", help="measure how fast this machine transcribes, and where the time goes")
    model = bench.add_mutually_exclusive_group()
    model.add_argument("--model", help="hub id or directory")
    model.add_argument("--random", action="store_true", help="the published sizes with random weights (the default)")
    bench.add_argument("--hub", choices=HUBS, default="ms")
    bench.add_argument("--input", type=Path, help="folder, list file or audio file, instead of random clips")
    bench.add_argument("--clips", type=int, default=512, help="number of random clips, of 1.5 to 30 s (default 512)")
    bench.add_argument("--files", choices=["none", "wav", "mp3"], default="none", help="write them to files first")
    bench.add_argument("--timestamps", choices=_TIMESTAMPS, default="both")
    bench.add_argument("--repeat", type=int, default=3, help="passes over the clips; the first is cold (default 3)")
    bench.add_argument("--latency", action="store_true", help="one clip alone, too: 10 s, or the first of --input")
    bench.add_argument("--peer", choices=["funasr"], help="the same with FunASR, if it is installed")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (PNG) of both stages over time")
    engine = bench.add_argument_group("the engine's options")
    engine.add_argument("--device", default="auto")
    engine.add_argument("--dtype", choices=["auto", "bf16", "fp32"], default="auto", help="of the LLM")
    engine.add_argument("--encoder-dtype", choices=["auto", "bf16", "fp32"], default="auto")
    engine.add_argument("--backend", choices=["auto", "vllm", "torch"], default="auto")
    engine.add_argument("--decoder-processes", type=int, metavar="N", help="vLLM engines in processes of their own")
    engine.add_argument("--vllm", type=_json_object, default={}, metavar="JSON", help='such as {"max_num_seqs": 256}')


def _json_object(text: str) -> dict[str, object]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"needs a JSON object, got {text}")
    return value


def _bench(args: argparse.Namespace) -> int:
    from .bench.command import BenchOptions, bench  # imports torch

    engine = ("device", "dtype", "encoder_dtype", "backend", "decoder_processes", "vllm")
    options = BenchOptions(
        model=args.model,
        hub=args.hub,
        source=args.input,
        num_clips=args.clips,
        form="memory" if args.files == "none" else args.files,
        timestamps=_TIMESTAMPS[args.timestamps],
        repeat=args.repeat,
        latency=args.latency,
        peer=args.peer,
        json_path=args.json,
        plot_path=args.plot,
        engine={name: getattr(args, name) for name in engine},
    )
    report = bench(options, say=lambda line: print(line, flush=True))
    return 1 if any(one.failed for one in report.passes) else 0


if __name__ == "__main__":
    sys.exit(main())
