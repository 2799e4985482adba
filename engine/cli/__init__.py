"""The command `twostage-asr`: one file for each sub-command, and the modules that only they use.

In: command line arguments. Out: files, text on stdout, an exit code. Read transcribe.py first.
"""

import argparse
import difflib
import io
import itertools
import sys
from collections.abc import Iterable

from .. import __version__
from ..console import quiet_libraries
from ..errors import ASRError
from . import align, batch, bench, convert, evaluate, serve, stream, transcribe, verify
from .command import INTERRUPTED, WRONG_USAGE

COMMANDS = (transcribe, batch, stream, serve, align, evaluate, verify, bench, convert)


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="twostage-asr",
        description="Speech recognition with LLM decoders.",
        epilog="twostage-asr COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    if not arguments:
        parser.print_help(sys.stderr)
        return WRONG_USAGE
    if arguments[0] in commands.choices:
        _refuse_unknown_options(commands.choices[arguments[0]], arguments[1:])
    args = parser.parse_args(arguments)
    quiet_libraries()
    for output in (sys.stdout, sys.stderr):  # file names that are printed need not be valid Unicode
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


def _refuse_unknown_options(parser: argparse.ArgumentParser, arguments: Iterable[str]) -> None:
    """Exit with a message that names the first unknown option and the nearest known one.

    argparse alone would report a missing required option first.
    """
    known = list(parser._option_string_actions)
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        name = argument.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            near = difflib.get_close_matches(name, known, n=1)
            parser.error(f"unknown option {name}" + (f" (did you mean {near[0]}?)" if near else ""))
