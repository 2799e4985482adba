"""The command `twostage-asr`: one file here a sub-command."""

import argparse
import io
import sys

from ..console import quiet_libraries
from ..errors import ASRError
from . import align, bench, evaluate, serve, stream, transcribe, verify
from .command import INTERRUPTED

COMMANDS = (transcribe, stream, serve, align, evaluate, verify, bench)


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="twostage-asr", description="Speech recognition with LLM decoders.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    args = parser.parse_args(arguments)
    quiet_libraries()
    for output in (sys.stdout, sys.stderr):  # the names of files need not be text
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        code: int = args.run(args)
    except (ASRError, OSError) as error:
        print(f"twostage-asr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("twostage-asr: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code
