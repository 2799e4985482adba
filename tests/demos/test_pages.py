"""Every command and every Python block of every page runs, with the bundled model in place of published ones.

Commands run in the order of their page, in a folder of that page with the files of page_files.py. A command ends with
exit code 0, or with that of a comment `# exit code N` behind it. A fence `output` after a block holds lines of what the
block prints. What cannot run here is listed in page_exemptions.py, with the reason, and is parsed.
"""

import argparse
import ast
import contextlib
import errno
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from demos import gallery
from tests import tiny_models
from tests.demos.page_exemptions import EXEMPTIONS, Exemption
from tests.demos.page_files import write_page_files
from tests.demos.pages import KINDS, PAGES, Block, Command, anchors, blocks, commands, prose
from tests.engine.server.conftest import Running, running
from tests.fake_voices import FakeVoices
from tests.paths import ROOT
from twostage_asr.engine import AutoModelVLLM, auto
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.cli import main, serve
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.loader import load_transcriber
from twostage_asr.engine.model import LoadedModel
from twostage_asr.engine.server import front_ends, process
from twostage_asr.engine.speakers import loading
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.transcript import WarningCode

MICRO = ("demos/micro/checkpoint", "FunAudioLLM/Fun-ASR-Nano-2512", "FunAudioLLM/Fun-ASR-MLT-Nano-2512")
QWEN = ("Qwen/Qwen3-ASR-0.6B", "Qwen/Qwen3-ASR-1.7B")
ALIGNER = ("Qwen/Qwen3-ForcedAligner-0.6B",)
FOLDERS = ("/data/calls",)  # -> talks
PUBLISHED = re.compile(r"\b(?:FunAudioLLM|Qwen|zai-org|ZhipuAI)/[\w.-]+")
SERVER = re.compile(r"\b(?:localhost|127\.0\.0\.1|HOST):8899\b")
SECONDS = 300  # that curl may take
PIPES = ("|", "&&")
REDIRECTIONS = (">", ">>", "<")
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if block.kind in ("sh", "python")]


class Parsed(BaseException):
    """A program has parsed its arguments, and would begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTranscriber(Transcriber):
    """A model that stays loaded when a command closes it."""

    def close(self) -> None:
        """The fixture that loaded it closes it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the blocks run."""

    directory: Callable[[str], Path]  # of a page
    replaced: dict[str, str]  # names of published models -> directories
    server: Running

    def localized(self, text: str) -> str:
        for name, directory in self.replaced.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", directory, text)
        return SERVER.sub(f"127.0.0.1:{self.server.port}", text)


@pytest.fixture(scope="module")
def place(
    engine_dirs: dict[str, Path], torch_models: dict[str, AutoModelVLLM], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    engine_dir, made = engine_dirs["low_frame_rate"], tmp_path_factory.mktemp("pages")
    voices: Any = FakeVoices(lambda waveform: 0)
    parts = {
        field.name: getattr(torch_models["low_frame_rate"].transcriber, field.name) for field in fields(LoadedModel)
    }
    shared = SharedTranscriber(**{**parts, "speakers": voices})
    tiny_models.qwen3_asr(made / "qwen")
    tiny_models.qwen3_forced_aligner(made / "aligner")
    folders = {**dict.fromkeys(MICRO, engine_dir), **dict.fromkeys(QWEN, made / "qwen")}
    folders |= {**dict.fromkeys(ALIGNER, made / "aligner"), **dict.fromkeys(FOLDERS, Path("talks"))}
    write_page_files(_new(made / "files"))

    def directory(page: str) -> Path:
        found = made / page.replace("/", "_")
        if not found.exists():
            shutil.copytree(made / "files", found, symlinks=True)
        return found

    def load(model_dir: Path, config: EngineConfig) -> Transcriber:
        return shared if model_dir == engine_dir else load_transcriber(model_dir, EngineConfig(backend="torch"))

    with (
        pytest.MonkeyPatch.context() as patch,
        AutoModelVLLM(engine_dir, backend="torch", dtype="fp32") as served,
    ):
        patch.setattr(auto, "load_transcriber", load)
        patch.setattr(loading, "find_weights", lambda name, **_: Path(name))
        ours = {field.name: getattr(served.transcriber, field.name) for field in fields(LoadedModel)}
        with running(_Model(SharedTranscriber(**{**ours, "speakers": voices}))) as server:
            yield Place(directory, {name: str(path) for name, path in folders.items()}, server)


@dataclass(frozen=True, slots=True)
class _Model:
    transcriber: Transcriber


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory


def exemption(page: str, text: str) -> Exemption | None:
    return next((each for each in EXEMPTIONS if each.page in ("*", page) and text.startswith(each.start)), None)


# --- running


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.directory(block.page))
    if block.kind == "python":
        printed = run_python(block, place)
    else:
        printed = "".join(run_command(block, command, place) for command in commands(block.text))
    missing = [line for line in block.output.splitlines() if line.strip() not in printed]
    assert not missing, printed


def run_command(block: Block, command: Command, place: Place) -> str:
    """What it prints. Fails for another exit code than the page says."""
    if exemption(block.page, command.text):
        for words in separate(command.words):
            check_words(words, command.variables)
        return ""
    words = shlex.split(place.localized(shlex.join(command.words)))
    program, *arguments = words
    match Path(program).name:
        case "twostage-asr":
            code, printed = called(lambda: main(arguments))
        case "python":
            code, printed = called(lambda: run_script(arguments))
        case "make" if arguments == ["demo"]:
            demo = ["demos/demo_vllm.py", "--model-dir", place.replaced[MICRO[0]], "--output", "out/transcripts.jsonl"]
            code, printed = called(lambda: run_script(demo))
        case "curl":
            code, printed = run_curl(words)
        case "cat":
            code, printed = 0, "".join(Path(name).read_text(encoding="utf-8") for name in arguments)
        case _:
            pytest.fail(f"no rule says how to run {command.line!r}, and no exemption why it is not run")
    assert code == command.exit_code, printed
    return printed


def called(program: Callable[[], int | None]) -> tuple[int, str]:
    """The exit code, and all that was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = program()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int | None) else 1
    return code or 0, printed.getvalue()


def run_script(arguments: list[str]) -> None:
    """`python arguments...`, in this process."""
    path = ROOT / arguments[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        patch.syspath_prepend(str(path.parent))
        runpy.run_path(str(path), run_name="__main__")


def run_curl(words: list[str]) -> tuple[int, str]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        [words[0], "--silent", "--show-error", "--fail-with-body", *words[1:]],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def run_python(block: Block, place: Place) -> str:
    """What it prints."""
    if exemption(block.page, block.text):
        check_names(block)
        return ""
    talk = decode_audio(Path("talk.wav"))
    given = {"microphone": [talk[start : start + 1600] for start in range(0, len(talk), 1600)]}
    code = compile(place.localized(block.text), str(block), "exec")
    _, printed = called(lambda: exec(code, {"__name__": "__main__", **given}))
    return printed


# --- checking what does not run


def separate(words: list[str]) -> Iterator[list[str]]:
    """The commands of a pipe, each without the files that it reads and writes."""
    current: list[str] = []
    is_file = False
    for word in [*words, "|"]:
        if word in PIPES:
            yield current
            current = []
        elif not is_file and word not in REDIRECTIONS:
            current.append(word)
        is_file = word in REDIRECTIONS


def check_words(words: list[str], variables: dict[str, str]) -> None:
    """Parse a command of a program of ours; of others, nothing is checked but what they name of the project."""
    program, *arguments = words
    match Path(program).name:
        case "twostage-asr" if arguments[0].startswith("serve"):
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                begun(lambda: main(arguments))
        case "twostage-asr":
            parsed(lambda: main(arguments))
        case "python" if (ROOT / arguments[0]).is_file():
            parsed(lambda: run_script(arguments))
        case "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(arguments[0])}:", makefile, re.MULTILINE), f"make {arguments[0]}"
        case "pip" | "uv":
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            extras = set(re.findall(r"[\w-]+", " ".join(re.findall(r"\[(.+?)\]", " ".join(arguments)))))
            assert extras <= set(project["optional-dependencies"])


def parsed(program: Callable[[], int | None]) -> None:
    """Fails if the program does not take its arguments."""
    parse, parse_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):

        def parse_all(parser: argparse.ArgumentParser, *given: Any, **more: Any) -> None:
            patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known)  # which parse_args calls
            parse(parser, *given, **more)
            raise Parsed

        def parse_some(parser: argparse.ArgumentParser, *given: Any, **more: Any) -> None:
            parse_known(parser, *given, **more)
            raise Parsed

        patch.setattr(argparse.ArgumentParser, "parse_args", parse_all)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_some)
        program()


def begun(program: Callable[[], int | None]) -> None:
    """Fails if a server refuses its options; it is stopped where it would load its ASR model."""

    def stop(*_: object) -> None:
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(process, "bind", lambda address: [])
        patch.setattr(process, "set_up_log", lambda level: None)
        patch.setattr(front_ends, "number_of_front_ends", lambda asked, device: 0)
        patch.setattr(serve, "_loaded", stop)
        patch.setattr(loading, "load_speaker_model", lambda name, device: FakeVoices())
        program()


def check_names(block: Block) -> None:
    """Names are defined, and modules of ours have what is imported from them."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "--quiet", "-"]
    done = subprocess.run(ruff, input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for module, names in re.findall(r"^from (twostage_asr\S*) import (.+)$", block.text, re.MULTILINE):
        assert set(names.split(", ")) <= names_in(module), module


def names_in(module: str) -> set[str]:
    """What a module defines or lists in `__all__`, found without importing it: it may need what is not installed."""
    origin = getattr(importlib.util.find_spec(module), "origin", None)
    assert isinstance(origin, str), module
    tree = ast.parse(Path(origin).read_text(encoding="utf-8"))
    listed = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return listed | {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


# --- the pages themselves


def test_every_exemption_is_needed() -> None:
    """And none is for a block that is gone."""
    texts = [(block.page, command.text) for block in RUN if block.kind == "sh" for command in commands(block.text)]
    texts += [(block.page, block.text) for block in RUN if block.kind == "python"]
    used = [exemption(page, text) for page, text in texts]
    assert [each for each in EXEMPTIONS if each not in used] == []
    assert all(each.reason for each in EXEMPTIONS)


def test_every_block_says_what_it_is() -> None:
    assert [str(block) for block in BLOCKS if block.kind not in KINDS] == []
    for block in BLOCKS:
        match block.kind:
            case "json":
                json.loads(block.text)
            case "yaml":
                yaml.safe_load(block.text)
            case "toml":
                tomllib.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_have_options_that_there_are(page: str) -> None:
    for inline in re.findall(r"`(twostage-asr [a-z-]+ [^`]*--[^`]+|python demos/[^`]+)`", prose(page)):
        known = help_of(shlex.split(inline))
        options = [word.partition("=")[0] for word in shlex.split(inline) if word.startswith("--")]
        assert [option for option in options if option not in known] == [], inline


def help_of(words: list[str]) -> str:
    run = main if words[0] == "twostage-asr" else run_script
    arguments = words[1:3] if words[0] != "twostage-asr" else words[1:2]
    code, printed = called(lambda: run([arguments[0], "--help"]))
    assert code == 0, printed
    return printed


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_published_models_are_those_that_are_supported() -> None:
    known = {name for names in AutoModelVLLM.supported_models().values() for name in names} | set(ALIGNER)
    named = {(page, name) for page in PAGES for name in PUBLISHED.findall((ROOT / page).read_text(encoding="utf-8"))}
    assert {(page, name) for page, name in named if name.rstrip(".") not in known} == set()


def test_the_troubleshooting_page_quotes_messages_that_there_are() -> None:
    """All but those of its table of other programs; `...` stands for any text."""
    page = (ROOT / "demos/troubleshooting.md").read_text(encoding="utf-8").partition("## A server's answers")[0]
    ours = re.sub(r"vLLM, pip and the shell say.*?\n\n\|.*?\n\n", "", page, flags=re.DOTALL)
    cells = re.findall(r"^\| (`.*?) \|", ours, re.MULTILINE)
    quoted = [part for message in re.findall(r"`(.+?)`", " ".join(cells)) for part in message.split(" ... ")]
    assert len(quoted) > 20
    files = [path for top in ("engine", "convert") for path in (ROOT / top).rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in files) + os.strerror(errno.ENOENT)
    joined = re.sub(r'["\']\s*\n\s*f?["\']', "", code).replace("\\'", "'").replace('\\"', '"')
    assert [part for part in quoted if part.strip(" .") not in joined] == []


def test_the_troubleshooting_page_explains_every_warning() -> None:
    page = (ROOT / "demos/troubleshooting.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page.partition("## What a warning says")[2], re.MULTILINE)
    assert set(listed) == set(get_args(WarningCode))


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "demos/gallery").glob("*.png"))
    assert {path.name for path in pictures} == set(gallery.COMMANDS)
    assert all(path.stat().st_size <= gallery.MOST_BYTES for path in pictures)
