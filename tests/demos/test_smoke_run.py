"""The whole way from nothing to a checkpoint, at its smallest: it does not transcribe, but it converts and loads."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.paths import ROOT
from tests.variants import CTC_PREFIXES, Variant, write_variant
from twostage_asr.convert.export import ensure_converted
from twostage_asr.engine import AutoModelVLLM

MAX_BYTES = 10_000_000
CLIP = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.05


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smoke") / "checkpoint"
    paths = [str(ROOT), str(ROOT / "demos" / "micro"), os.environ.get("PYTHONPATH", "")]
    finished = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("smoke_run.py")), "--smoke", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert "step      4" in finished.stdout
    assert "zh_hotword" in finished.stdout
    return out


def test_the_checkpoint_has_the_files_of_the_hub_and_a_note_and_stays_small(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert files == {
        "about.json",
        "config.yaml",
        "configuration.json",
        "model.pt",
        "multilingual.tiktoken",
        *(
            f"Qwen3-0.6B/{name}"
            for name in (
                "config.json",
                "generation_config.json",
                "merges.txt",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.json",
            )
        ),
    }
    assert sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) < MAX_BYTES


@pytest.mark.parametrize(
    "variant",
    [
        Variant(),
        Variant(full_rate=True),
        Variant(has_ctc=False),
        Variant(prefix="module."),
        Variant(has_ctc=False, prefix="module.", is_wrapped=False),
    ],
    ids=str,
)
def test_the_checkpoint_and_its_variants_convert_and_transcribe(made: Path, tmp_path: Path, variant: Variant) -> None:
    write_variant(made, tmp_path / "variant", variant)
    converted = ensure_converted(tmp_path / "variant", progress=False)
    with AutoModelVLLM(converted, backend="torch", dtype="fp32", encoder_dtype="fp32") as model:
        (result,) = model.generate([CLIP], max_new_tokens=4)
    assert result.status != "error"


def test_a_variant_without_ctc_has_no_such_tensor(made: Path, tmp_path: Path) -> None:
    write_variant(made, tmp_path, Variant(has_ctc=False))
    names = torch.load(tmp_path / "model.pt", weights_only=True)["state_dict"]
    assert names
    assert not any(name.startswith(CTC_PREFIXES) for name in names)
