"""`twostage-asr verify`: check a published model on this machine; see verification.py."""

import argparse

from ..hub.resolve import HUBS
from .command import Commands


def add_parser(commands: Commands) -> None:
    verify = commands.add_parser("verify", help="prove a published model on this machine, and print a report")
    verify.add_argument("--model", required=True, help="hub id or directory")
    verify.add_argument("--hub", choices=HUBS, default="ms")
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .verification import verify_model  # imports torch

    failed = 0
    for finding in verify_model(args.model, args.hub):
        print(finding, flush=True)
        failed += finding.outcome == "fail"
    print(f"{failed} failed" if failed else "all that could be checked holds")
    return 1 if failed else 0
