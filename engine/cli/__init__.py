"""The command `twostage-asr`: one file for each sub-command, and the modules that only they use.

In: command line arguments. Out: files, text on stdout, an exit code. Read transcribe.py first.
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..console import quiet_libraries
from ..errors import ASRError
from . import align, batch, bench, completion, convert, doctor, evaluate, serve, stream, transcribe, verify
from .command import INTERRUPTED, MODEL_OPTIONS
from .config_file import config_path, options_of
from .parser import PROGRAM, WRONG_USAGE, CommandParser, Commands

COMMANDS = (transcribe, batch, stream, serve, align, evaluate, doctor, verify, bench, convert, completion)
_ADVICE = {
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EACCES: "name one that you may read and write",
    errno.EROFS: "name a folder that can be written to",
    errno.ENOENT: "check the name; relative ones begin at the working directory",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_standard_streams()
    parser, commands = build_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return WRONG_USAGE
    quiet_libraries()
    for output in (sys.stdout, sys.stderr):  # file names that are printed need not be valid Unicode
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        args = _parsed(parser, commands, arguments)
        code: int = args.run(args)
    except ASRError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{PROGRAM}: {_described(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _open_standard_streams() -> None:
    """Let a standard stream that the caller has closed be the null device.

    Without this the next file that is opened would have its number, and get what C libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the program ends


def build_parser() -> tuple[CommandParser, Commands]:
    """The parser of the program, and those of its commands."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Speech recognition with LLM decoders.",
        epilog=f"Begin with `{PROGRAM} doctor`, which says what can run here.\nThen `{PROGRAM} transcribe FILE --model "
        f"MODEL` writes a first transcript.\n`{PROGRAM} COMMAND --help` lists the options of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands: Commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser, commands


def _parsed(parser: CommandParser, commands: Commands, arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments, with what the file of options and the environment set where the command line says nothing."""
    chosen = commands.choices.get(arguments[0])
    if chosen is not None:
        chosen.refuse_unknown_options(arguments[1:])
    elif not arguments[0].startswith("-"):
        known = ", ".join(commands.choices)
        parser.refuse_unknown("command", arguments[0], commands.choices, otherwise=f"; known: {known}")
    else:
        parser.refuse_unknown_options(arguments[:1])
    args = parser.parse_args(arguments)
    path = config_path(args.config)
    found = options_of(path, args.command, commands.choices, MODEL_OPTIONS)
    for action in commands.choices[args.command]._actions:
        action.default = argparse.SUPPRESS  # parsed again, the arguments are what the command line gives
    args.given = frozenset(vars(parser.parse_args(arguments)))
    for name, value in found.items():
        if name not in args.given:
            setattr(args, name, value)
    if path is not None and path != args.config and sys.stderr.isatty():
        print(f"{PROGRAM}: options are read from {path}", file=sys.stderr)
    if getattr(args, "needs_model", False) and args.model is None:
        args.error("which model? --model NAME_OR_FOLDER, such as --model FunAudioLLM/Fun-ASR-Nano-2512")
    return args


def _described(error: OSError) -> str:
    """What could not be read or written, why, and what to do about it."""
    if error.strerror is None:
        return str(error)
    place = f"{error.filename}: " if error.filename is not None else ""
    advice = _ADVICE.get(error.errno or 0)
    if error.errno == errno.ENOENT and not place:  # of the module tempfile, which names the folders that it has tried
        advice = "let TMPDIR be a folder that can be written to"
    return f"{place}{error.strerror}" + (f"; {advice}" if advice else "")
