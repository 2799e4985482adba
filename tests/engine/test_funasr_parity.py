"""Our prompts and greedy tokens are FunASR 1.4.16's, float32, on the same weights and clips."""

from typing import Any

import pytest

from tests.paths import CHECKPOINTS, CLIPS
from tests.peers.compare_with_funasr import compare, funasr_results
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    base = tmp_path_factory.mktemp("funasr")
    return {name: funasr_results(path, CLIPS, base / name) for name, path in CHECKPOINTS.items()}


@pytest.mark.parametrize("checkpoint", ["low_frame_rate", "full_rate"])
def test_transformers_backend_writes_what_funasr_writes(
    torch_models: dict[str, AutoModelVLLM], clips: list[Clip], theirs: dict[str, Any], checkpoint: str
) -> None:
    rows = list(compare(torch_models[checkpoint].transcriber, clips, theirs[checkpoint]))
    assert [row for row in rows if not (row.prompts_agree and row.tokens_agree)] == []
    assert [row.ours for row in rows] == [row.theirs for row in rows]


def test_vllm_backend_writes_what_funasr_writes(
    vllm_model: AutoModelVLLM, clips: list[Clip], theirs: dict[str, Any]
) -> None:
    rows = list(compare(vllm_model.transcriber, clips, theirs["low_frame_rate"]))
    assert [row for row in rows if not (row.prompts_agree and row.tokens_agree)] == []
