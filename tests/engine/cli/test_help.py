"""The help: every option says what it does and its default, and the examples are command lines that parse."""

import argparse
import contextlib
import io
import shlex
import subprocess

import pytest

from twostage_asr.engine.cli import build_parser, main

PARSER, COMMANDS = build_parser()
NAMES = list(COMMANDS.choices)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_does_and_its_default(name: str) -> None:
    parser = COMMANDS.choices[name]
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.dest != "help":
            shown = formatter._expand_help(action)
            assert shown, action.dest
            assert not action.option_strings or shown.count("default") == 1, action.option_strings


@pytest.mark.parametrize("name", NAMES)
def test_examples_parse(name: str) -> None:
    """Files that an option must find need not exist here."""
    epilog = COMMANDS.choices[name].epilog or ""
    examples = [line.strip() for line in epilog.splitlines() if line.startswith("  ")]
    assert 2 <= len(examples) <= 3
    for example in examples:
        program, *arguments = shlex.split(example.partition(" > ")[0], comments=True)
        assert program == "twostage-asr" and arguments[0] == name
        assert isinstance(PARSER.parse_args(arguments), argparse.Namespace)
    assert f"twostage-asr.toml, in its tables [{name}] and [model]" in epilog


def test_the_program_says_what_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "Begin with `twostage-asr doctor`" in printed
    for name in NAMES:
        assert f"    {name}" in printed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script_that_knows_commands_and_options(shell: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["completion", shell]) == 0
    script = printed.getvalue()
    assert "serve-realtime" in script and "max-line-width" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
