"""Options of all commands from a file and from the environment.

    [model]                                    # for every command that loads a model
    model = "FunAudioLLM/Fun-ASR-Nano-2512"
    device = "cuda"

    [transcribe]                               # for one command
    format = "srt,jsonl"
    hotwords = ["张三", "John Smyth"]
    speakers = true

    [serve]
    port = 9000

The keys are the names of the flags, and the values are what follows these; a flag without a value is true or false.
Relative paths begin at the working directory.
The variable TWOSTAGE_ASR__SERVE__PORT stands for `port` in the table [serve]. A flag counts more than a variable, a
variable more than the file, and the file more than the program's defaults; a command's own table counts more than
[model]. API keys stand in no file of options: TWOSTAGE_ASR_API_KEYS or api-key-file has them.

`serve` also reads the YAML of Zerolan's services, which engine/server/config_file.py describes.
"""

import argparse
import json
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checks import nearest
from ..errors import ConfigError
from ..text_files import read_text

if TYPE_CHECKING:
    from .parser import CommandParser

CONFIG_NAME = "twostage-asr.toml"
CONFIG_VARIABLE = "TWOSTAGE_ASR_CONFIG"
VARIABLE_PREFIX = "TWOSTAGE_ASR__"
SHARED_TABLE = "model"
_PLAIN = (None, str, int, float, Path)  # types of options that take one value as it is
_MOST_NESTED = 32  # tables and lists within each other; options need four
_SWITCHES = {"true": True, "1": True, "false": False, "0": False}

Parsers: TypeAlias = "Mapping[str, CommandParser]"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that a file or the environment sets."""

    place: str  # for errors
    table: str
    key: str
    value: Any
    is_variable: bool = False  # whose value is always text


def variable_name(table: str, key: str) -> str:
    """The environment variable that stands for a key of a table."""
    return f"{VARIABLE_PREFIX}{table}__{key}".upper().replace("-", "_")


def config_path(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read: the one that was given, the variable's, or the one in the working directory."""
    if given is not None:
        return given
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE])
    found = Path(CONFIG_NAME)
    return found if found.is_file() else None


def options_of(
    path: Path | None, command: str, parsers: Parsers, shared: frozenset[str], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The values that the file and the environment set for a command, by the names of its parsed arguments.

    Args:
        path: see config_path.
        parsers: of all commands, by name.
        shared: the names of the parsed arguments that [model] sets.

    Raises:
        ConfigError: the file cannot be read; a table or key is unknown, or a value does not fit. The message names the
            file or variable, the key, the value, and what is allowed.
    """
    sources = ([] if path is None else list(_of_file(path, command)), list(_of_environment(environ)))
    found: dict[str, Any] = {}
    for settings in sources:
        for setting in settings:
            _check_name(setting, parsers, shared)
        actions = parsers[command].named_options()
        for table in (SHARED_TABLE, command):
            for setting in settings:
                action = actions.get(setting.key) if setting.table == table else None
                if action is not None and (table == command or action.dest in shared):
                    found[action.dest] = _value(action, setting)
    return found


def _of_file(path: Path, command: str) -> Iterator[Setting]:
    if path.suffix.lower() in (".yaml", ".yml"):
        if not command.startswith("serve"):
            raise ConfigError(f"{path}: YAML is a file of Zerolan's services, which serve reads; {command} needs TOML")
        from ..server.config_file import read_config_file

        tables: Mapping[str, Any] = {command: read_config_file(path).options()}
    else:
        tables = _toml(path)
    for table, values in tables.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: {table} stands in no table; begin with [{SHARED_TABLE}]")  # it may be a secret
        for key, value in values.items():
            yield Setting(f"{path}, [{table}] {key}", table, key, value)


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of options; --config and {CONFIG_VARIABLE} name one that exists")
    try:
        tables = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}; strings need quotes, tables are [names]") from error
    except RecursionError:  # its traceback would be thousands of lines
        raise ConfigError(_nested(path)) from None
    within: list[Any] = [tables]
    for _ in range(_MOST_NESTED):
        lists = [one if isinstance(one, list) else one.values() for one in within]
        within = [one for values in lists for one in values if isinstance(one, list | dict)]
    if within:
        raise ConfigError(_nested(path))
    return tables


def _nested(path: Path) -> str:
    return f"{path}: tables and lists are nested more than {_MOST_NESTED} deep"


def _of_environment(environ: Mapping[str, str]) -> Iterator[Setting]:
    for name, value in environ.items():
        if name.startswith(VARIABLE_PREFIX):
            table, separator, key = name.removeprefix(VARIABLE_PREFIX).lower().replace("_", "-").partition("--")
            if not separator:
                raise ConfigError(f"{name}: needs the form {variable_name('TABLE', 'KEY')}")
            yield Setting(name, table, key, value, is_variable=True)


def _check_name(setting: Setting, parsers: Parsers, shared: frozenset[str]) -> None:
    if setting.table == SHARED_TABLE:
        known = {
            key for parser in parsers.values() for key, one in parser.named_options().items() if one.dest in shared
        }
    elif setting.table in parsers:
        known = set(parsers[setting.table].named_options())
    else:
        raise ConfigError(f"{setting.place}: unknown table{_nearest(setting.table, {SHARED_TABLE, *parsers})}")
    if setting.key not in known:
        raise ConfigError(f"{setting.place}: unknown key{_nearest(setting.key, known)}")


def _nearest(name: str, known: set[str]) -> str:
    near = nearest(name, sorted(known))
    return f" (did you mean {near}?)" if near else f"; known: {', '.join(sorted(known))}"


def _value(action: argparse.Action, setting: Setting) -> Any:
    """The value as argparse would have made it from the command line."""
    value, is_variable = setting.value, setting.is_variable
    if action.nargs == 0:
        switch = _SWITCHES.get(str(value).lower()) if isinstance(value, bool) or is_variable else None
        if switch is None:
            raise ConfigError(f"{setting.place} = {value!r}: needs true or false")
        return switch
    if action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction):
        values = _words(setting) if is_variable else value if isinstance(value, list) else [value]
        return [_one_value(action, setting, one) for one in values]
    return _one_value(action, setting, value)


def _words(setting: Setting) -> list[str]:
    """The words of a variable, divided as a shell divides them."""
    try:
        return shlex.split(setting.value)
    except ValueError as error:
        raise ConfigError(
            f'{setting.place} = {setting.value!r}: {error}; a word with a quote needs quotes, as "O\'Brien"'
        ) from error


def _one_value(action: argparse.Action, setting: Setting, value: Any) -> Any:
    convert: Any = action.type or str
    if isinstance(value, list) and action.type not in _PLAIN:
        value = ",".join(map(str, value))
    if isinstance(value, dict) and action.type not in _PLAIN:
        value = json.dumps(value, default=str)  # JSON has no dates
    try:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise TypeError
        converted = convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{setting.place} = {value!r}: {error}") from error
    except (TypeError, ValueError) as error:
        kinds = {int: "a whole number", float: "a number"}
        raise ConfigError(f"{setting.place} = {value!r}: needs {kinds.get(convert, 'a string')}") from error
    if action.choices is not None and converted not in action.choices:
        raise ConfigError(f"{setting.place} = {value!r}: allowed: {', '.join(map(str, action.choices))}")
    return converted
