"""Model ids and paths -> directories, against a hub on this machine; what goes wrong is told apart."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub_mirror import HubMirror
from twostage_asr.engine.errors import ConfigError, HubError
from twostage_asr.engine.hub import resolve_model

MODEL, GATED = "FunAudioLLM/Micro", "FunAudioLLM/Gated"


CLOSED = "http://127.0.0.1:9"  # nobody listens on the discard port
CHILD = """
import json, os, sys
from twostage_asr.engine.errors import HubError
from twostage_asr.engine.hub import resolve_model

def answer(model, revision, endpoint):
    os.environ["HF_ENDPOINT"] = os.environ["MODELSCOPE_ENDPOINT"] = endpoint
    try:
        return str(resolve_model(model, hub=sys.argv[1], revision=revision))
    except HubError as error:
        return f"HubError: {error}"

print(json.dumps({name: answer(*asked) for name, asked in json.loads(sys.argv[2]).items()}))
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    (directory / "Qwen3-0.6B").mkdir()
    (directory / "config.yaml").write_text("model: FunASRNano\n")
    (directory / "model.pt").write_bytes(os.urandom(300_000))
    (directory / "Qwen3-0.6B" / "config.json").write_text("{}")
    return directory


class Answers(NamedTuple):
    """What `resolve_model` returned or raised, in the order asked."""

    by_name: dict[str, str]
    endpoint: str
    downloads: int  # requests for model.pt's content
    cache: Path


@pytest.fixture(scope="module", params=["hf", "ms"])
def hub(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def answers(hub: str, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """All from one process per hub: modelscope takes seconds to import."""
    cache = tmp_path_factory.mktemp("cache")
    with HubMirror({MODEL: model_dir, GATED: model_dir}, refused=frozenset({GATED})) as mirror:
        asked = {
            "fetched": (MODEL, None, mirror.endpoint),
            "again": (MODEL, None, mirror.endpoint),
            "absent": ("FunAudioLLM/Nope", None, mirror.endpoint),
            "refused": (GATED, None, mirror.endpoint),
            "no such revision": (MODEL, "v9", mirror.endpoint),
            "unreachable": ("FunAudioLLM/Other", None, CLOSED),
        }
        environment = {**mirror.environment(cache), "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1"}
        by_name = ask(hub, asked, environment)
        downloads = [r for r in mirror.requests if r.startswith("GET") and r.endswith("model.pt")]
        return Answers(by_name, mirror.endpoint, len(downloads), cache)


def ask(hub: str, asked: Mapping[str, tuple[str, str | None, str]], environment: dict[str, str]) -> dict[str, str]:
    command = [sys.executable, "-c", CHILD, hub, json.dumps(asked)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    by_name: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return by_name


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_a_model_is_fetched_whole_and_once(answers: Answers, model_dir: Path) -> None:
    fetched = Path(answers.by_name["fetched"])
    assert fetched.is_relative_to(answers.cache)
    assert contents(fetched) == contents(model_dir)
    assert answers.by_name["again"] == str(fetched)
    assert answers.downloads == 1


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("absent", "FunAudioLLM/Nope", "does not exist on"),
        ("no such revision", f"{MODEL} (revision v9)", "does not exist on"),
        ("refused", GATED, "it does not exist, or is private or gated and needs a login"),
        ("unreachable", "FunAudioLLM/Other", "cannot be reached; a local directory needs no hub"),
    ],
)
def test_what_went_wrong_is_told_apart(answers: Answers, hub: str, name: str, model: str, message: str) -> None:
    answer = answers.by_name[name]
    assert answer.startswith("HubError: ") and model in answer and message in answer
    endpoint = CLOSED if name == "unreachable" else answers.endpoint
    assert f"(hub='{hub}') at {endpoint}" in answer


def test_offline_mode_is_named_and_uses_the_cache(model_dir: Path, tmp_path: Path) -> None:
    with HubMirror({MODEL: model_dir}) as mirror:
        environment = mirror.environment(tmp_path)
        asked = {"fetched": (MODEL, None, mirror.endpoint)}
        fetched = ask("hf", asked, environment)["fetched"]
        mirror.requests.clear()
        asked["absent"] = ("FunAudioLLM/Other", None, mirror.endpoint)
        answers = ask("hf", asked, {**environment, "HF_HUB_OFFLINE": "1"})
        assert not mirror.requests
    assert answers["fetched"] == fetched
    assert "cannot be reached" in answers["absent"] and "HF_HUB_OFFLINE" in answers["absent"]


def test_a_directory_is_taken_as_it_is_without_any_hub_library(model_dir: Path) -> None:
    code = (
        "import sys; from twostage_asr.engine.hub import resolve_model; print(resolve_model(sys.argv[1]))\n"
        "assert not {'modelscope', 'huggingface_hub', 'torch'} & set(sys.modules)"
    )
    for given in (str(model_dir), os.path.relpath(model_dir)):
        done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == given
    assert resolve_model(model_dir, hub="hf") == model_dir


@pytest.mark.parametrize(
    "path", ["./checkpoint", "../checkpoint", "/no-such-checkpoint", "~/no-such-checkpoint", "models/asr/checkpoint"]
)
def test_a_path_that_does_not_exist_is_never_sent_to_a_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=rf"{path} does not exist; a model directory or an owner/name on a hub"):
        resolve_model(path, hub="hf")


def test_a_missing_path_object_is_never_sent_to_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="FunAudioLLM/Micro does not exist"):
        resolve_model(Path(MODEL), hub="hf")


def test_files_and_words_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(ConfigError, match=r"model\.pt is a file; a model directory is needed"):
        resolve_model(tmp_path / "model.pt")
    for word in ("paraformer-zh", "a b/c", ""):
        with pytest.raises(ConfigError, match="neither a directory nor an owner/name"):
            resolve_model(word)
    with pytest.raises(ConfigError, match="hub is 'gitlab'; one of ms, hf is needed"):
        resolve_model(MODEL, hub="gitlab")  # type: ignore[arg-type]


def test_a_missing_modelscope_is_told_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope.hub", None)
    with pytest.raises(HubError, match=r'pip install "twostage-asr\[modelscope\]", or use hub=\'hf\''):
        resolve_model(MODEL)
