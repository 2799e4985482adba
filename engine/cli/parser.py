"""The parser of the commands: errors in one line, defaults of all options in the help, and examples below it.

    parser = new_parser(commands, "eval", help="...", usage="REF HYP", examples=("twostage-asr eval a.txt b.txt",))

Each parser has `--config` (config_file.py) and two values that its command reads: `run`, which the command sets, and
`error`, which ends the program with a message about wrong usage.
"""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ..checks import nearest
from .config_file import CONFIG_NAME, CONFIG_VARIABLE, variable_name

PROGRAM = "twostage-asr"
WRONG_USAGE = 2  # argparse's own code

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
OptionGroup: TypeAlias = argparse._ActionsContainer  # a parser, or a group of its options


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, with this program's errors and help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{PROGRAM}: {message}; see {self.prog} --help\n")

    def named_options(self) -> dict[str, argparse.Action]:
        """The options by their first long name without dashes, which is their key in twostage-asr.toml."""
        names = ((_long_name(action), action) for action in self._actions)
        return {name.removeprefix("--"): action for name, action in names if name not in ("", "--help", "--config")}

    def refuse_unknown(self, kind: str, name: str, known: Iterable[str], *, otherwise: str = "") -> NoReturn:
        """Exit with a message that names what is unknown, and the nearest known name or `otherwise`."""
        near = nearest(name, known)
        self.error(f"unknown {kind} {name}" + (f" (did you mean {near}?)" if near else otherwise))

    def refuse_unknown_options(self, arguments: Iterable[str]) -> None:
        """Refuse the first unknown option. argparse alone would report a missing required argument first."""
        known = list(self._option_string_actions)
        for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
            name = argument.partition("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                self.refuse_unknown("option", name, [option for option in known if option.startswith("--")])


def new_parser(
    commands: Commands, name: str, *, help: str, usage: str, examples: Sequence[str], more: str = ""
) -> CommandParser:
    """The parser of one command.

    Args:
        help: what the command does, in the list of commands and at the top of its own help.
        usage: the positional and required arguments.
        examples: command lines, with remarks after a `#`.
        more: sentences that follow `help` in the command's own help.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    parser: CommandParser = commands.add_parser(
        name,
        help=help,
        usage=f"{PROGRAM} {name} {usage} [options]".replace("  ", " "),
        description=f"{help[0].upper()}{help[1:]}.{' ' if more else ''}{more}",
        epilog=f"examples:\n{lines}\n\nOptions may also stand in {CONFIG_NAME}, in its tables [{name}] and [model],\n"
        f"or in variables, as {variable_name(name, 'KEY')}.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a file of options (default: the one that {CONFIG_VARIABLE} names, or {CONFIG_NAME} in this folder)",
    )
    parser.set_defaults(error=parser.error)
    return parser


def add_switch(group: OptionGroup, name: str, *, default: bool | None, help: str) -> None:
    """Add `--name` and `--no-name`. With the default None, the help must say what happens without either."""
    action = group.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=help)
    action.help = help  # some Python versions append a default of their own


def _long_name(action: argparse.Action) -> str:
    return next((name for name in action.option_strings if name.startswith("--")), "")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Appends the default to the help of each option that does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not action.option_strings or "default" in text or action.default in (None, argparse.SUPPRESS):
            return text
        return f"{text} (default: {_shown(action.default)})".replace("%", "%%").lstrip()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | dict):
        return " ".join(map(str, value)) or "none"
    return str(value)
