"""Qwen3-ASR's tower: its counts, its windows, and the numbers of transformers' encoder."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3ASREncoderConfig
from transformers.models.qwen3_asr.modeling_qwen3_asr import Qwen3ASREncoder

from tests.tiny_models import randomise
from tests.tones import clip
from twostage_asr.encoders import qwen3_asr
from twostage_asr.encoders.qwen3_asr import Qwen3ASRTower, Qwen3ASRTowerConfig
from twostage_asr.encoders.transformer import PaddedKeys
from twostage_asr.encoders.whisper_features import log_mel

SIZES = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "output_dim": 32}
SECOND = 16_000
TOKEN_COUNTS = {50: 7, 99: 13, 100: 13, 101: 14, 108: 14, 109: 15, 200: 26, 800: 104, 3000: 390, 120_000: 15_600}


@pytest.fixture(scope="module")
def tower() -> Qwen3ASRTower:
    module = Qwen3ASRTower(Qwen3ASRTowerConfig(**SIZES, downsample_hidden_size=16)).eval().requires_grad_(False)
    randomise(module, 0)
    return module


def encode(tower: Qwen3ASRTower, clips: list[np.ndarray]) -> list[torch.Tensor]:
    lens = torch.tensor([len(one) for one in clips])
    features = log_mel(pad_sequence(list(map(torch.from_numpy, clips)), batch_first=True), lens, 128)
    encoded = tower(*tower.units(features, lens))
    counts = [tower.num_tokens(len(one)) for one in clips]
    units = torch.split(encoded, [-(-count // encoded.shape[1]) for count in counts])
    return [rows.flatten(0, 1)[:count] for rows, count in zip(units, counts, strict=True)]


@pytest.mark.parametrize(("frames", "tokens"), TOKEN_COUNTS.items())
def test_token_counts_are_those_of_the_package(tower: Qwen3ASRTower, frames: int, tokens: int) -> None:
    assert tower.num_tokens(160 * frames) == tower.num_tokens(160 * frames + 159) == tokens


@given(st.integers(8_000, 400_000))
def test_counts_are_what_the_tower_gives(num_samples: int) -> None:
    config = Qwen3ASRTowerConfig(**SIZES)
    frames = num_samples // 160
    halved = [frames % 100]
    for _ in range(3):
        halved.append((halved[-1] - 1) // 2 + 1)
    with torch.device("meta"):
        assert Qwen3ASRTower(config).num_tokens(num_samples) == frames // 100 * 13 + halved[-1]


@pytest.mark.parametrize("seconds", [0.5, 0.99, 1.0, 7.9, 8.0, 8.01, 17.3])
def test_the_encoder_gives_the_numbers_of_transformers(tower: Qwen3ASRTower, seconds: float) -> None:
    config = Qwen3ASREncoderConfig(**{**SIZES, "output_dim": 32}, downsample_hidden_size=16)
    reference = Qwen3ASREncoder(config).eval()
    own = {n: t for n, t in tower.state_dict().items() if not n.startswith("proj")}
    reference.load_state_dict(own, strict=False)
    waveform = clip(seconds)
    features = log_mel(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]), 128)
    num_frames = features.shape[2]
    padded = F.pad(features, (0, -num_frames % 100))
    mask = (torch.arange(padded.shape[2]) < num_frames).long()[None]
    with torch.inference_mode():
        hidden = reference(padded, mask).last_hidden_state
        expected = tower.proj2(F.gelu(tower.proj1(hidden)))
    torch.testing.assert_close(encode(tower, [waveform])[0], expected, rtol=0, atol=2e-5)


def test_eight_seconds_know_nothing_of_what_follows(tower: Qwen3ASRTower) -> None:
    waveform = clip(12.0)
    other = waveform.copy()
    other[9 * SECOND :] *= 0.5  # the clip's maximum, and so its floor, stays in the first seconds
    other[: 9 * SECOND] = waveform[: 9 * SECOND]
    waveform[SECOND // 2] = other[SECOND // 2] = 1.0
    a, b = encode(tower, [waveform, other])
    torch.testing.assert_close(a[:104], b[:104], rtol=0, atol=1e-6)
    assert (a[104 : 104 + 13] - b[104 : 104 + 13]).abs().max() > 1e-3  # attention sees the whole second window


def attend_rows(query: Tensor, key: Tensor, value: Tensor, *, keys: PaddedKeys, longest: int) -> Tensor:
    """One sequence after the other, in place of the kernel that only GPUs have."""
    attended = torch.full_like(query, torch.nan)
    for start, end, length in zip(keys.starts[:-1], keys.starts[1:], keys.lens, strict=True):
        assert end - start <= longest
        heads = (
            part.transpose(0, 1) for part in (query[start:end], key[start : start + length], value[start:][:length])
        )
        attended[start:end] = F.scaled_dot_product_attention(*heads).transpose(0, 1)
    return attended


def test_sequences_are_the_windows(tower: Qwen3ASRTower, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [clip(s, seed) for seed, s in enumerate((0.5, 2.345, 8.0, 8.2, 20.0))]
    windows = encode(tower, clips)
    monkeypatch.setattr(qwen3_asr, "is_half_on_gpu", lambda rows: True)
    monkeypatch.setattr(qwen3_asr, "attend_rows", attend_rows)
    for padded, sequence in zip(windows, encode(tower, clips), strict=True):
        torch.testing.assert_close(padded, sequence, rtol=0, atol=2e-5)


def test_neighbours_change_nothing(tower: Qwen3ASRTower) -> None:
    clips = [clip(s, seed) for seed, s in enumerate((0.5, 2.345, 8.2, 20.0))]
    for one, in_batch in zip(clips, encode(tower, clips), strict=True):
        torch.testing.assert_close(in_batch, encode(tower, [one])[0], rtol=0, atol=2e-5)


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="n_window_infer must be a multiple of 100, got 450"):
        Qwen3ASRTowerConfig(**SIZES, n_window_infer=450)
