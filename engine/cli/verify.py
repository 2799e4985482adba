"""`twostage-asr verify`: check a published model on this machine; see verification.py."""

import argparse

from .command import add_which_model
from .parser import Commands, new_parser


def add_parser(commands: Commands) -> None:
    verify = new_parser(
        commands,
        "verify",
        help="prove a published model on this machine, and print a report",
        usage="--model MODEL",
        examples=(
            "twostage-asr verify --model FunAudioLLM/Fun-ASR-Nano-2512",
            "twostage-asr verify --model Qwen/Qwen3-ASR-0.6B --hub hf",
        ),
    )
    add_which_model(verify)
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .verification import verify_model  # imports torch

    failed = 0
    for finding in verify_model(args.model, args.hub):
        print(finding, flush=True)
        failed += finding.outcome == "fail"
    print(f"{failed} failed" if failed else "all that could be checked holds")
    return 1 if failed else 0
