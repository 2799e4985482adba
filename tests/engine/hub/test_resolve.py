"""Model ids and paths -> directories, against a mirror of both hubs on this machine.

All that is asked of the hubs is asked by two processes, since their libraries and torch take seconds to import: the
first meets every repository, the second finds what the first has left behind, and then no hub.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub_mirror import Fetched, HubMirror
from tests.hub_repositories import LARGE, SUPPORTED, UNSUPPORTED
from twostage_asr.convert.families import TELLING_FILES
from twostage_asr.engine.errors import ConfigError, HubError
from twostage_asr.engine.hub.resolve import HUBS, resolve_model

MODEL, OTHER = "FunAudioLLM/Fun-ASR-Nano-2512", "Qwen/Qwen3-ASR-0.6B"
GATED, ABSENT, PORTAL = "FunAudioLLM/Gated", "FunAudioLLM/Nope", "someone/behind-a-login"
PAGES = {name: f"someone/page-for-{name}" for name in ("config.yaml", "model.pt")}
TITLES = {"hf": "Hugging Face (hub='hf')", "ms": "ModelScope (hub='ms')"}
CUT = {hub: f"someone/cut-on-{hub}" for hub in HUBS}
MOVED = {hub: f"someone/moved-on-{hub}" for hub in HUBS}
CUT_SIZE, CUT_AFTER = 24_000_000, 22_000_000  # bytes
CHUNK = 10 << 20  # bytes that huggingface_hub may hold in memory when a connection breaks
CLOSED = "http://127.0.0.1:9"  # nobody listens on the discard port
CHILD = """
import json, os, sys
from huggingface_hub import constants
from tests.hub_repositories import SUPPORTED
from twostage_asr.engine.console import quiet_libraries
from twostage_asr.engine.errors import ASRError
from twostage_asr.engine.hub.resolve import resolve_model

quiet_libraries()

def answer(hub, model, revision, endpoint):
    constants.HF_HUB_OFFLINE = endpoint is None  # as the variable would have set it for a whole process
    os.environ["HF_ENDPOINT"] = os.environ["MODELSCOPE_ENDPOINT"] = endpoint or sys.argv[1]
    files = SUPPORTED[model].files if model in SUPPORTED else None
    try:
        return str(resolve_model(model, hub=hub, revision=revision, files=files))
    except ASRError as error:
        return f"{type(error).__name__}: {error}"

print(json.dumps([answer(*asked) for asked in json.load(sys.stdin)]))
"""
Question = tuple[str, str, str | None, str | None]  # hub, model, revision, endpoint or None for offline mode


class Answers(NamedTuple):
    """What `resolve_model` returned or raised, and what the mirror sent meanwhile."""

    by_question: dict[Question, str]
    fetched: list[Fetched]
    sent: Counter[tuple[str, str]]
    log: str

    def of(self, hub: str, model: str, revision: str | None = None) -> str:
        """The one answer."""
        (answer,) = (a for question, a in self.by_question.items() if question[:3] == (hub, model, revision))
        return answer

    def names(self, hub: str, model: str) -> list[str]:
        """The files that were fetched, in this order."""
        return [fetched.name for fetched in self.fetched if (fetched.hub, fetched.model) == (hub, model)]


class Hubs(NamedTuple):
    endpoint: str
    cache: Path
    repositories: Path
    first: Answers
    again: Answers


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Hubs:
    repositories, cache = tmp_path_factory.mktemp("repositories"), tmp_path_factory.mktemp("cache")
    nano = dict.fromkeys((GATED, PORTAL, *PAGES.values(), *CUT.values(), *MOVED.values()), SUPPORTED[MODEL])
    models = {model: it.write(repositories / model) for model, it in (SUPPORTED | UNSUPPORTED | nano).items()}
    for model in CUT.values():
        os.truncate(models[model] / "model.pt", CUT_SIZE)
    with HubMirror(
        models,
        refused=frozenset({GATED}),
        pages=frozenset({PORTAL, *((model, name) for name, model in PAGES.items())}),
        cuts={(model, "model.pt"): CUT_AFTER for model in CUT.values()},
        commits={model: changed(models[model], repositories / "changed" / model) for model in MOVED.values()},
    ) as mirror:
        asked = [*(set(models) - {*CUT.values(), *MOVED.values()}), ABSENT]
        first = ask(
            mirror,
            cache,
            [
                *((hub, model, None, mirror.endpoint) for hub in HUBS for model in asked),
                *((hub, MODEL, "v9", mirror.endpoint) for hub in HUBS),
                *((hub, model, None, mirror.endpoint) for hub in HUBS for model in (CUT[hub], MOVED[hub])),
            ],
        )
        again = [(hub, model, None, mirror.endpoint) for hub in HUBS for model in (MODEL, CUT[hub], MOVED[hub])]
        without = [(hub, model, None, at) for at in (CLOSED, None) for hub in HUBS for model in (OTHER, ABSENT)]
        return Hubs(mirror.endpoint, cache, repositories, first, ask(mirror, cache, again + without))


def changed(old: Path, new: Path) -> Path:
    """A commit in which every file has the same size and another content."""
    shutil.copytree(old, new)
    for path in new.rglob("*.*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b".", b"!").replace(b": ", b" :"))
    return new


def ask(mirror: HubMirror, cache: Path, questions: list[Question]) -> Answers:
    mirror.fetched.clear()
    mirror.sent.clear()
    environment = {
        **mirror.environment(cache),
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, mirror.endpoint],
        env=os.environ | environment,
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    by_question = dict(zip(questions, answers, strict=True))
    return Answers(by_question, list(mirror.fetched), Counter(mirror.sent), done.stderr)


@pytest.fixture(params=HUBS)
def hub(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("model", SUPPORTED)
def test_what_is_needed_is_fetched_once_and_nothing_else(hubs: Hubs, hub: str, model: str) -> None:
    fetched = Path(hubs.first.of(hub, model))
    assert fetched.is_relative_to(hubs.cache)
    names = hubs.first.names(hub, model)
    assert sorted(names) == sorted(SUPPORTED[model].needed)
    for name in names:
        assert (fetched / name).read_bytes() == (hubs.repositories / model / name).read_bytes()


@pytest.mark.parametrize("model", SUPPORTED)
def test_the_files_that_tell_what_a_model_is_come_first(hubs: Hubs, hub: str, model: str) -> None:
    names = hubs.first.names(hub, model)
    telling = set(names) & set(TELLING_FILES)
    assert set(names[: len(telling)]) == telling != set()


@pytest.mark.parametrize("model", UNSUPPORTED)
def test_what_does_not_run_here_is_refused_before_its_weights(hubs: Hubs, hub: str, model: str) -> None:
    answer = hubs.first.of(hub, model)
    assert answer.startswith(f"CheckpointError: {model} on ") and UNSUPPORTED[model].says in answer
    assert hubs.first.sent[hub, model] < 100_000 < LARGE
    assert set(hubs.first.names(hub, model)) <= set(TELLING_FILES)


def test_how_much_is_coming_is_said_before(hubs: Hubs, hub: str) -> None:
    repository, directory = hubs.repositories / MODEL, hubs.first.of(hub, MODEL)
    rest = SUPPORTED[MODEL].needed - {"config.yaml"}
    size = sum((repository / name).stat().st_size for name in rest)
    title = f"{MODEL} on {TITLES[hub]} from {hubs.endpoint} to {directory}; "
    assert f"fetching {size / 1e6:.2f} MB in {len(rest)} files of {title}" in hubs.first.log


def test_a_file_that_was_cut_off_is_continued(hubs: Hubs, hub: str) -> None:
    model = CUT[hub]
    answer = hubs.first.of(hub, model)
    assert answer.startswith("HubError") and "HTTP status 503" in answer
    assert answer.endswith("what has arrived is kept, and the next attempt goes on from there")
    weights = Path(hubs.again.of(hub, model)) / "model.pt"
    assert weights.read_bytes() == (hubs.repositories / model / "model.pt").read_bytes()
    parts = [f for f in (*hubs.first.fetched, *hubs.again.fetched) if (f.hub, f.name) == (hub, "model.pt")]
    parts = [f for f in parts if f.model == model]
    assert CUT_AFTER - CHUNK <= parts[-1].start <= CUT_AFTER
    assert sum(part.num_bytes for part in parts) <= CUT_SIZE + CHUNK


def test_all_files_are_of_one_commit_also_when_another_comes_meanwhile(hubs: Hubs, hub: str) -> None:
    old, new = (directory / MOVED[hub] for directory in (hubs.repositories, hubs.repositories / "changed"))
    fetched = Path(hubs.first.of(hub, MOVED[hub]))
    assert commit_of(fetched, old, new) == (old if hub == "hf" else new)
    assert commit_of(Path(hubs.again.of(hub, MOVED[hub])), old, new) == new


def commit_of(fetched: Path, *commits: Path) -> Path | None:
    """The one of `commits` that all files of SUPPORTED[MODEL] are of."""
    contents = {name: (fetched / name).read_bytes() for name in SUPPORTED[MODEL].needed}
    same = (c for c in commits if all((c / name).read_bytes() == content for name, content in contents.items()))
    return next(same, None)


def test_what_is_in_the_cache_is_not_fetched_again(hubs: Hubs, hub: str) -> None:
    assert hubs.again.of(hub, MODEL) == hubs.first.of(hub, MODEL)
    assert hubs.again.names(hub, MODEL) == []


@pytest.mark.parametrize("endpoint", [CLOSED, None])
def test_without_a_hub_the_copy_in_the_cache_is_used(hubs: Hubs, hub: str, endpoint: str | None) -> None:
    directory = hubs.first.of(hub, OTHER)
    assert hubs.again.by_question[hub, OTHER, None, endpoint] == directory
    assert sum(f"the copy in {directory} is used" in line for line in hubs.again.log.splitlines()) == 2
    absent = hubs.again.by_question[hub, ABSENT, None, endpoint]
    assert absent.startswith(f"HubError: {ABSENT} could not be fetched, since {TITLES[hub]} at ")
    assert "cannot be reached; a local directory needs no hub" in absent
    assert endpoint is not None or "HF_HUB_OFFLINE" in absent
    assert hubs.again.sent[hub, OTHER] == hubs.again.sent[hub, ABSENT] == 0


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        (ABSENT, None, f"HubError: {ABSENT} does not exist on"),
        (MODEL, "v9", f"HubError: {MODEL} (revision v9) does not exist on"),
        (GATED, None, f"refuses {GATED}: it does not exist, or is private or gated and needs a login"),
        (PORTAL, None, f"answered with a page of HTML when asked for {PORTAL}: it is no hub, or a login page"),
        (PAGES["config.yaml"], None, f"delivered other bytes of {PAGES['config.yaml']} than it lists, as a login page"),
        (PAGES["model.pt"], None, f"delivered other bytes of {PAGES['model.pt']} than it lists, as a login page"),
    ],
)
def test_what_went_wrong_is_told_apart(hubs: Hubs, hub: str, model: str, revision: str | None, message: str) -> None:
    answer = hubs.first.of(hub, model, revision)
    assert answer.startswith("HubError: ") and message in answer
    assert f"{TITLES[hub]} at {hubs.endpoint}" in answer


def test_a_directory_is_taken_as_it_is_without_any_hub_library(tmp_path: Path) -> None:
    code = (
        "import sys; from twostage_asr.engine.hub.resolve import resolve_model; print(resolve_model(sys.argv[1]))\n"
        "assert not {'modelscope', 'huggingface_hub', 'torch'} & set(sys.modules)"
    )
    for given in (str(tmp_path), os.path.relpath(tmp_path)):
        done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == given
    assert resolve_model(tmp_path, hub="hf") == tmp_path


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
    with pytest.raises(ConfigError, match="FunAudioLLM/Fun-ASR-Nano-2512 does not exist"):
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
    with pytest.raises(HubError, match=r'pip install ".\[modelscope\]", or use hub=\'hf\''):
        resolve_model(MODEL)
