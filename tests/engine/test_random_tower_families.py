"""Random checkpoints of the benchmark: of the published sizes, and whole."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from twostage_asr.encoders.qwen3_asr import Qwen3ASRTower, Qwen3ASRTowerConfig
from twostage_asr.engine.bench.load import noise
from twostage_asr.engine.bench.random_tower_families import (
    GLM_ASR_NANO,
    QWEN3_ASR_0_6B,
    Sizes,
    write_glm_asr,
    write_qwen3_asr,
    write_qwen3_forced_aligner,
)
from twostage_asr.engine.words.forced_aligner import Qwen3ForcedAligner

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 512,
}
QWEN_TOWER = Qwen3ASRTowerConfig(
    d_model=64, encoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=128, output_dim=64
)
GLM_TOWER = GLMASRTowerConfig(
    hidden_size=64, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2, llm_dim=64, rotary_dim=16
)


@pytest.mark.parametrize(("write", "tower"), [(write_qwen3_asr, QWEN_TOWER), (write_glm_asr, GLM_TOWER)])
def test_a_random_checkpoint_converts_and_verifies(
    write: Callable[[Path, Sizes], None], tower: Qwen3ASRTowerConfig | GLMASRTowerConfig, tmp_path: Path
) -> None:
    write(tmp_path, replace(QWEN3_ASR_0_6B, tower=tower, llm=SMALL, first_special=300))
    verification = verify_conversion(tmp_path, ensure_converted(tmp_path, progress=False))
    assert verification.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("make", "num_params"),
    [
        (lambda: Qwen3ASRTower(QWEN3_ASR_0_6B.tower), 186_376_192),
        (lambda: GLMASRTower(GLM_ASR_NANO.tower), 635_048_960 + 29_366_272),
    ],
    ids=["qwen3_asr", "glm_asr"],
)
def test_the_towers_have_as_many_parameters_as_the_published_ones(
    make: Callable[[], torch.nn.Module], num_params: int
) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == num_params


def test_a_random_forced_aligner_times_the_words_of_random_texts(tmp_path: Path) -> None:
    sizes = replace(QWEN3_ASR_0_6B, tower=QWEN_TOWER, llm=SMALL, first_special=300)
    write_qwen3_forced_aligner(tmp_path, sizes)
    aligner = Qwen3ForcedAligner.from_pretrained(tmp_path, device="cpu")
    (found,) = aligner.align_words([noise(0, 16_000)], ["abcd efgh ijkl"], ["English"])
    assert found.words is not None and [word.text for word in found.words] == ["abcd", "efgh", "ijkl"]
