"""The command `twostage-asr`."""

import argparse
import sys

from .console import quiet_libraries
from .errors import ASRError
from .hub import HUBS, HubName


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="twostage-asr", description="Speech recognition with LLM decoders.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="prove a published model on this machine, and print a report")
    verify.add_argument("--model", required=True, help="hub id or directory")
    verify.add_argument("--hub", choices=HUBS, default="ms")
    args = parser.parse_args(arguments)
    quiet_libraries()
    try:
        return _verify(args.model, args.hub)
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


if __name__ == "__main__":
    sys.exit(main())
