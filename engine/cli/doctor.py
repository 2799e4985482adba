"""`twostage-asr doctor`: say what this machine has, what would run on it, and what to do about the rest."""

import argparse
import json
import textwrap
from dataclasses import asdict

from .command import add_engine_options, engine_options
from .parser import Commands, add_switch, new_parser

_WIDTH = 100  # of the findings, in columns


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "doctor",
        help="say what this machine has, what would run on it, and how fast",
        usage="",
        more="The exit code is 0 where a model can run with these options, and else 1.",
        examples=(
            "twostage-asr doctor",
            "twostage-asr doctor --device cpu --measure",
            "twostage-asr doctor --json",
        ),
    )
    add_switch(parser, "--json", default=False, help="everything as one JSON object")
    add_switch(
        parser, "--measure", default=False, help="measure the processor for a few seconds, to estimate the speed"
    )
    add_switch(parser, "--network", default=True, help="ask the model hubs whether they can be reached")
    parser.add_argument(
        "--gpu-memory-utilization", type=float, default=0.8, metavar="SHARE", help="of a GPU's memory, for vLLM"
    )
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .diagnosis import diagnose
    from .outlook import would_run

    engine = {**engine_options(args), "gpu_memory_utilization": args.gpu_memory_utilization}
    findings = [*diagnose(has_network=args.network), *would_run(engine, measures=args.measure)]
    can_run = all(finding.state != "bad" for finding in findings)
    if args.json:
        print(json.dumps({"can_run": can_run, "findings": [asdict(one) for one in findings]}, indent=2))
        return 0 if can_run else 1
    for finding in findings:
        label = f"{finding.state:<5} {finding.subject:<10} "
        print(textwrap.fill(finding.found, _WIDTH, initial_indent=label, subsequent_indent=" " * len(label)))
        if finding.advice:
            indent = f"{'':{len(label)}}"
            print(
                textwrap.fill(f"-> {finding.advice}", _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}   ")
            )
    print("a model can run here" if can_run else "no model can run here with these options")
    return 0 if can_run else 1
