"""`twostage-asr completion`: the script by which a shell completes commands, options and file names."""

import argparse
import re
from pathlib import Path

import shtab

from .parser import CommandParser, Commands, new_parser

SHELLS = ("bash", "zsh", "fish")
# In a script of shtab for zsh: the names of a long option that takes a value, and the text that says what it does.
_ZSH_OPTION = re.compile(r'^(  (?:"\*?--[\w-]+|\{--[\w-]+(?:,--[\w-]+)*\}"))(\[(?:[^]\\]|\\.)*\]:)', re.MULTILINE)


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "completion",
        help="print what lets a shell complete this program's commands and options",
        usage="SHELL",
        examples=(
            "twostage-asr completion bash > ~/.local/share/bash-completion/completions/twostage-asr",
            "twostage-asr completion zsh > ~/.zfunc/_twostage-asr  # a folder in fpath",
            "twostage-asr completion fish > ~/.config/fish/completions/twostage-asr.fish",
        ),
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from . import build_parser

    parser, commands = build_parser()
    for command in commands.choices.values():
        _complete_files(command)
    script = shtab.complete(parser, args.shell)
    print(_mended(script) if args.shell == "zsh" else script)
    return 0


def _mended(script: str) -> str:
    """Let zsh complete each of several files, and a value after `--name=`. shtab's own script does neither."""
    return _ZSH_OPTION.sub(r"\1=\2", script.replace('"(*)::', '"*:'))


def _complete_files(parser: CommandParser) -> None:
    """Let file names be completed where an argument is one."""
    for action in parser._actions:
        is_file = action.type is Path or action.dest in ("inputs", "source")
        if is_file and action.choices is None:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
