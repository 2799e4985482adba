"""twostage-asr.toml and the environment: what counts most, and errors that name the place."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from tests.demos.pages import blocks
from twostage_asr.engine import ConfigError
from twostage_asr.engine.cli import build_parser, main
from twostage_asr.engine.cli.command import MODEL_OPTIONS
from twostage_asr.engine.cli.config_file import CONFIG_NAME, CONFIG_VARIABLE, config_path, options_of

FILE = """
[model]
model = "from the file"
device = "cpu"
vllm = {max_num_seqs = 8}

[transcribe]
format = ["srt", "json"]
hotwords = ["张三", "John Smyth"]
speakers = true
itn = false
temperature = 1
known-speaker = []

[serve]
port = 9000
allow-host = "a.example"
max-requests = 7
"""


def options(command: str, text: str, tmp_path: Path, environ: dict[str, str] | None = None) -> dict[str, Any]:
    path = tmp_path / CONFIG_NAME
    path.write_text(text, encoding="utf-8")
    return options_of(path, command, build_parser()[1].choices, MODEL_OPTIONS, environ or {})


def test_values_are_what_the_command_line_would_have_made_of_them(tmp_path: Path) -> None:
    model = {"model": "from the file", "device": "cpu"}
    assert options("transcribe", FILE, tmp_path) == {
        **model,
        "vllm": {"max_num_seqs": 8},
        "format": ["srt", "json"],
        "hotwords": ["张三", "John Smyth"],
        "speakers": True,
        "itn": False,
        "temperature": 1.0,
        "known_speakers": [],
    }
    served = options("serve", FILE, tmp_path)
    assert served == {
        **model, "vllm": {"max_num_seqs": 8}, "port": 9000, "allow_host": ["a.example"], "max_requests": 7,
    }  # fmt: skip
    assert options("align", FILE, tmp_path) == model
    both = "[align]\ndevice = 'its own'\n[model]\ndevice = 'of all'\n"
    assert options("align", both, tmp_path) == {"device": "its own"}
    assert options("convert", '[model]\ndtype = "bf16"', tmp_path) == {}  # the dtype of weights is another option


def test_a_flag_counts_more_than_a_variable_and_that_more_than_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr("twostage_asr.engine.cli.doctor.run", lambda args: seen.append(args) or 0)
    monkeypatch.chdir(tmp_path)
    lines = "[model]\ndevice = 'file'\ndtype = 'bf16'\nbackend = 'torch'\n[doctor]\nnetwork = false\njson = true\n"
    (tmp_path / CONFIG_NAME).write_text(lines)
    monkeypatch.setenv("TWOSTAGE_ASR__MODEL__DEVICE", "variable")
    monkeypatch.setenv("TWOSTAGE_ASR__DOCTOR__DTYPE", "fp32")
    assert main(["doctor", "--device", "auto", "--no-json"]) == 0
    (args,) = seen
    assert (args.device, args.dtype, args.backend) == ("auto", "fp32", "torch")  # a flag that says the default counts
    assert (args.network, args.json, args.fast_lane) == (False, False, "auto")


def test_variables_hold_several_words_and_switches(tmp_path: Path) -> None:
    environ = {
        "TWOSTAGE_ASR__TRANSCRIBE__HOTWORDS": "张三 'John Smyth'",
        "TWOSTAGE_ASR__TRANSCRIBE__ITN": "false",
        "TWOSTAGE_ASR__SERVE_REALTIME__PORT": "1",
        "TWOSTAGE_ASR_API_KEYS": "secret",
    }
    assert options("transcribe", "", tmp_path, environ) == {"hotwords": ["张三", "John Smyth"], "itn": False}
    assert options("serve-realtime", "", tmp_path, environ) == {"port": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[transcibe]\nformat = 'srt'", "[transcibe] format: unknown table (did you mean transcribe?)"),
        ("[transcribe]\nouput-dir = 'x'", "[transcribe] ouput-dir: unknown key (did you mean output-dir?)"),
        ("[serve]\napi-keys = ['x']", "[serve] api-keys: unknown key (did you mean api-key-file?)"),
        ("[model]\nport = 1", "[model] port: unknown key; known: backend, "),
        ("api-keys = 'secret'", "toml: api-keys stands in no table; begin with [model]"),  # and no value
        ("[serve]\nport = 99999", "[serve] port = 99999: a port is 0 to 65535, got '99999'"),
        ("[serve]\nport = true", "[serve] port = True: needs a string"),
        ("[serve]\nmax-requests = 1.5", "[serve] max-requests = 1.5: needs a whole number"),
        ("[serve]\nno-docs = 'yes'", "[serve] no-docs = 'yes': needs true or false"),
        ("[serve]\nlanguage = ['a']", "[serve] language = ['a']: needs a string"),
        ("[model]\nvllm = 'x'", "[model] vllm = 'x': needs a JSON object, got x"),
        ("[model]\nhub = 'xy'", "[model] hub = 'xy': allowed: ms, hf"),
        ("[model\n", "strings need quotes, tables are [names]"),
        (f"[model]\nvllm = {'[' * 9000}{']' * 9000}", "toml: tables and lists are nested more than 32 deep"),
        (f"[model]\nvllm{'.a' * 900} = 1", "toml: tables and lists are nested more than 32 deep"),
    ],
)
def test_errors_name_the_file_the_key_the_value_and_what_is_allowed(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        options("serve", text, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / CONFIG_NAME)) and message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SERVE__PROT", ": unknown key (did you mean port?)"),
        ("PORT", ": needs the form TWOSTAGE_ASR__TABLE__KEY"),
        ("SERVE__ALLOW_HOST", """ = "it's": No closing quotation; a word with a quote needs quotes"""),
    ],
)
def test_variables_that_cannot_be_used_are_errors(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^TWOSTAGE_ASR__{name}") as caught:
        options("serve", "", tmp_path, {f"TWOSTAGE_ASR__{name}": "it's"})
    assert message in str(caught.value)


def test_a_file_is_no_variable_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("TWOSTAGE_ASR__x.toml")
    path.write_text("[transcribe]\nhotwords = ['O\"Brien']\n[model]\nvllm = {day = 2026-11-29}\n")
    found = options_of(path, "transcribe", build_parser()[1].choices, MODEL_OPTIONS, {})
    assert found == {"hotwords": ['O"Brien'], "vllm": {"day": "2026-11-29"}}


@pytest.mark.parametrize("command", ["transcribe", "serve"])
def test_the_example_of_the_page_is_taken(command: str, tmp_path: Path) -> None:
    (example,) = (block for block in blocks("demos/command_line.md") if block.kind == "toml")
    found = options(command, example.text, tmp_path)
    assert found["model"].startswith("FunAudioLLM/") and len(found) == {"transcribe": 6, "serve": 4}[command]


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path(None, {}) is None
    Path(CONFIG_NAME).touch()
    assert config_path(None, {}) == Path(CONFIG_NAME)
    assert config_path(None, {CONFIG_VARIABLE: "b.toml"}) == Path("b.toml")
    assert config_path(Path("a.toml"), {CONFIG_VARIABLE: "b.toml"}) == Path("a.toml")
    with pytest.raises(ConfigError, match=r"a.toml: no such file of options"):
        options_of(Path("a.toml"), "eval", build_parser()[1].choices, MODEL_OPTIONS, {})


def test_yaml_is_read_by_the_servers_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("ASR: {id: m, port: 11001, config: {m: {model_path: a/b, max_new_tokens: 100}}}\n")
    parsers = build_parser()[1].choices
    found = options_of(path, "serve", parsers, MODEL_OPTIONS, {})
    assert (found["model"], found["served_model_name"], found["port"]) == ("a/b", "m", 11001)
    assert (found["max_new_tokens"], found["max_model_len"]) == (100, 4196)
    with pytest.raises(ConfigError, match="transcribe needs TOML"):
        options_of(path, "transcribe", parsers, MODEL_OPTIONS, {})
