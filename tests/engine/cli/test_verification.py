"""`verify` passes what is as published and names what is not; the hub is a mirror on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import tiny_models
from tests.hub_mirror import HubMirror
from tests.paths import CHECKPOINTS, CONVERSIONS
from tests.pipeline import Clip
from twostage_asr.engine.cli.verification import Release, check_tokenizers, verify_model
from twostage_asr.engine.families.fun_asr_nano import FunASRNano
from twostage_asr.engine.manifest import EngineManifest

MODEL = "owner/micro"
SCRIPT = """
import json, sys
from twostage_asr.engine.cli.verification import Example, Release, verify_model
examples = [Example(**example) for example in json.loads(sys.argv[2])]
releases = {{("hf", {model!r}): Release(sha256=json.loads(sys.argv[1]), examples=tuple(examples))}}
for finding in verify_model({model!r}, "hf", releases):
    print(json.dumps([finding.outcome, finding.subject, finding.detail]))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> Path:
    """The micro checkpoint with two example clips, as a hub would hold it."""
    directory = tmp_path_factory.mktemp("hub") / "micro"
    shutil.copytree(CHECKPOINTS["low_frame_rate"], directory, ignore=CONVERSIONS)
    (directory / "example").mkdir()
    for name, clip in zip(("a", "b"), clips, strict=False):
        shutil.copy(clip["source"], directory / "example" / f"{name}.flac")
    return directory


def verify(
    repository: Path, cache: Path, digests: Mapping[str, str], examples: list[dict[str, object]]
) -> list[tuple[str, str, str]]:
    with HubMirror({MODEL: repository}) as mirror:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(model=MODEL), json.dumps(digests), json.dumps(examples)],
            env=os.environ | mirror.environment(cache),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def test_a_model_as_published_passes(repository: Path, clips: list[Clip], tmp_path: Path) -> None:
    digest = hashlib.sha256((repository / "model.pt").read_bytes()).hexdigest()
    clip = clips[0]
    example = {"source": "example/a.flac", "text": clip["text"], "language": clip["language"]}
    findings = verify(repository, tmp_path, {"model.pt": digest}, [example])
    assert [f for f in findings if f[0] == "fail"] == []
    passed = {subject for outcome, subject, _ in findings if outcome == "pass"}
    assert {"model.pt", "conversion"} < passed
    assert {"prompt", "CTC vocabulary"} < {subject for outcome, subject, _ in findings if outcome == "info"}
    assert {subject.split(",")[0] for subject in passed} > {"vllm", "torch"}
    assert any(subject == "example/b.flac" for _, subject, _ in findings)


def test_what_differs_from_the_published_is_named(repository: Path, tmp_path: Path) -> None:
    example = {"source": "example/a.flac", "text": "something else", "language": None}
    findings = verify(repository, tmp_path, {"model.pt": "0" * 64}, [example])
    failed = {subject: detail for outcome, subject, detail in findings if outcome == "fail"}
    assert set(failed) == {"model.pt", "vllm, example/a.flac, hotwords []", "torch, example/a.flac, hotwords []"}
    assert "published: " + "0" * 64 in failed["model.pt"]


def test_a_model_that_the_hub_lacks_ends_the_report(repository: Path, tmp_path: Path) -> None:
    with HubMirror({"owner/other": repository}) as mirror:
        done = subprocess.run(
            [sys.executable, "-m", "twostage_asr", "verify", "--model", MODEL, "--hub", "hf"],
            env=os.environ | mirror.environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout.startswith("[FAIL] download and conversion: ")
    assert MODEL in done.stdout


@pytest.mark.parametrize(
    ("release", "outcome", "published"),
    [
        (Release(), "info", ("", "")),
        (Release(prompt=(19, 7), vocabulary=(2348, 2349, 2348)), "pass", ("19, 7", "2348, 2349, 2348")),
        (Release(prompt=(18, 5), vocabulary=(58_836, 60_515, 60_514)), "fail", ("18, 5", "58836, 60515, 60514")),
    ],
)
def test_the_tokenizers_say_what_was_found_in_them(
    engine_dirs: dict[str, Path], release: Release, outcome: str, published: tuple[str, str]
) -> None:
    engine_dir = engine_dirs["low_frame_rate"]
    prompt, vocabulary = check_tokenizers(engine_dir, EngineManifest.read(engine_dir), FunASRNano(), release)
    assert (prompt.outcome, vocabulary.outcome) == (outcome, outcome)
    assert prompt.detail.startswith("19 + 7 token ids, [")
    assert vocabulary.detail.startswith("2348 ranks, 2349 ids with special tokens, blank 2348")
    assert (prompt.detail.endswith(published[0]), vocabulary.detail.endswith(published[1])) == (True, True)


def test_a_forced_aligner_is_verified_as_far_as_it_goes(tmp_path: Path) -> None:
    tiny_models.qwen3_forced_aligner(tmp_path)
    findings = list(verify_model(str(tmp_path), "ms"))
    assert [f.subject for f in findings if f.outcome == "pass"] == ["conversion"]
    assert [f for f in findings if f.outcome == "fail"] == []
    assert "a forced aligner writes no text" in findings[-1].detail
