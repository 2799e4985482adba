"""Whisper's features: the numbers of transformers' extractors, and nothing that depends on the neighbours."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor

from tests.tones import clip
from twostage_asr.encoders.whisper_features import MIN_SAMPLES, log_mel

LENGTHS = (8_000, 16_000, 16_001, 16_159, 40_003)


def features(clips: list[np.ndarray], num_mels: int = 128) -> list[torch.Tensor]:
    lens = torch.tensor([len(one) for one in clips])
    batch = log_mel(pad_sequence(list(map(torch.from_numpy, clips)), batch_first=True), lens, num_mels)
    return [one[:, : n // 160] for one, n in zip(batch, lens.tolist(), strict=True)]


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_a_clip_has_the_features_that_transformers_gives_it(num_samples: int) -> None:
    waveform = clip(num_samples / 16_000)
    reference = Qwen3ASRFeatureExtractor()(waveform, sampling_rate=16_000, padding=True, n_window=0)["input_features"][
        0
    ]
    torch.testing.assert_close(features([waveform])[0], torch.as_tensor(reference), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_thirty_seconds_are_those_of_the_whisper_extractor(num_mels: int) -> None:
    waveform = clip(3.3)
    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    reference = extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
    padded = np.pad(waveform, (0, 480_000 - len(waveform)))
    torch.testing.assert_close(features([padded], num_mels)[0], reference, rtol=0, atol=1e-5)


def test_neighbours_change_nothing() -> None:
    clips = [clip(n / 16_000, seed) for seed, n in enumerate(LENGTHS)]
    for one, in_batch in zip(clips, features(clips), strict=True):
        torch.testing.assert_close(in_batch, features([one])[0], rtol=0, atol=1e-6)


def test_what_lies_beyond_a_clip_is_zero() -> None:
    clips = torch.from_numpy(clip(1.0)).repeat(2, 1)
    clips[0, 8_000:] = 0.0
    batch = log_mel(clips, torch.tensor([8_000, 16_000]), 128)
    assert batch.shape == (2, 128, 100)
    assert not batch[0, :, 50:].any()


def test_silence_is_the_floor() -> None:
    (silence,) = features([np.zeros(8_000, np.float32)])
    assert silence.unique().tolist() == [-1.5]


@pytest.mark.parametrize("num_samples", [MIN_SAMPLES - 1, 8_001])
def test_a_length_that_cannot_be_is_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match=f"must be in {MIN_SAMPLES}..8000 samples, got {num_samples}"):
        log_mel(torch.zeros(1, 8_000), torch.tensor([num_samples]), 128)
