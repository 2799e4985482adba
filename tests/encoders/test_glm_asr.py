"""GLM-ASR-Nano's encoder: its counts and the rows that it keeps; the parity test compares the rest."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.tiny_models import randomise
from tests.tones import clip
from twostage_asr.encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from twostage_asr.encoders.whisper_features import log_mel

SIZES = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "llm_dim": 32}


@pytest.fixture(scope="module")
def tower() -> GLMASRTower:
    module = GLMASRTower(GLMASRTowerConfig(**SIZES, rotary_dim=16)).eval().requires_grad_(False)
    randomise(module, 0)
    return module


@pytest.mark.parametrize(("seconds", "tokens"), [(0.05, 1), (0.1, 1), (1.0, 12), (3.333, 41), (30.0, 375)])
def test_counts_are_the_true_ones(tower: GLMASRTower, seconds: float, tokens: int) -> None:
    assert tower.num_tokens(round(seconds * 16_000)) == tokens


def test_the_silence_behind_a_clip_is_heard(tower: GLMASRTower) -> None:
    waveform = torch.nn.functional.pad(torch.from_numpy(clip(2.0)), (0, 28 * 16_000))
    features = log_mel(waveform[None], torch.tensor([480_000]), 128).expand(2, -1, -1)
    encoded = tower(*tower.units(features, torch.tensor([32_000, 480_000])))
    assert encoded.shape == (2, 375, 32)
    torch.testing.assert_close(encoded[0], encoded[1])


def test_layers_compile_once_for_one_clip_and_once_for_more(
    tower: GLMASRTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for a GPU, but run by PyTorch itself: no C++ compiler is needed."""
    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compile_(f, dynamic=dynamic, backend=counter))
    monkeypatch.setattr(tower, "_run_layer", tower._run_layer)
    features = torch.randn(4, 128, 3000, generator=torch.Generator().manual_seed(0))
    expected = tower(features, torch.ones(4))
    tower.compile()
    for count in (3, 1, 4, 2):
        torch.testing.assert_close(tower(features[:count], torch.ones(count)), expected[:count], rtol=0, atol=1e-5)
    assert counter.frame_count == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"intermediate_size": 128}, r"intermediate_size must be 4 times hidden_size \(64\), got 128"),
        ({"rotary_dim": 24}, "rotary_dim must be even and divide a head's dimensions, got 24"),
    ],
)
def test_sizes_that_cannot_work_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GLMASRTowerConfig(**{**SIZES, "rotary_dim": 16, **wrong})
