"""CAM++ and ERes2NetV2: the published layout, a clip's independence of its batch, and FunASR 1.4.16's numbers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi as kaldi
from pytest import TempPathFactory
from torch import Tensor, nn

from tests.speaker_networks import NETWORKS, random_network
from twostage_asr.encoders.speaker_features import speaker_features

PEER = Path(__file__).parents[1] / "peers/funasr_speakers.py"
CLIP_LENS = (8_000, 24_000, 47_321)  # samples; 2.96 s are more frames than one of CAM++'s segments of context has


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: random_network(name) for name in NETWORKS}


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def network(name: str, networks: dict[str, nn.Module]) -> nn.Module:
    return networks[name]


@pytest.fixture(scope="module")
def waveforms() -> dict[str, Tensor]:
    return {f"clip{seed}": voiced(num_samples, seed) for seed, num_samples in enumerate(CLIP_LENS)}


@pytest.fixture(scope="module")
def funasr(networks: dict[str, nn.Module], waveforms: dict[str, Tensor], tmp_path_factory: TempPathFactory) -> Path:
    """FunASR's numbers for both networks, one file each."""
    directory = tmp_path_factory.mktemp("funasr")
    np.savez(directory / "clips.npz", **{key: waveform.numpy() for key, waveform in waveforms.items()})
    for name, network in networks.items():
        torch.save(network.state_dict(), directory / f"{name}.pt")
    finished = subprocess.run([sys.executable, str(PEER), directory], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return directory


def voiced(num_samples: int, seed: int) -> Tensor:
    """A buzz whose pitch and colour depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.arange(num_samples) / 16_000 * 2 * torch.pi * (90 + 60 * seed)
    harmonics = torch.arange(1, 12)[:, None]
    amplitudes = torch.rand(11, 1, generator=generator) / harmonics
    return 0.1 * (amplitudes * (harmonics * phase).sin()).sum(0) + 0.01 * torch.randn(num_samples, generator=generator)


def test_an_embedding_has_192_numbers(network: nn.Module) -> None:
    assert network(torch.randn(2, 50, 80)).shape == (2, 192)


def test_a_clip_does_not_depend_on_its_batch(network: nn.Module) -> None:
    features = torch.randn(3, 120, 80)
    alone = torch.cat([network(clip[None]) for clip in features])
    torch.testing.assert_close(network(features), alone, atol=2e-5, rtol=0)


def test_features_are_kaldis_without_their_mean() -> None:
    clips = torch.stack([voiced(24_000, seed) for seed in range(2)])
    expected = torch.stack([kaldi.fbank(clip[None], num_mel_bins=80) for clip in clips])
    torch.testing.assert_close(speaker_features(clips), expected - expected.mean(1, keepdim=True), atol=2e-3, rtol=0)


def test_numbers_equal_funasrs(name: str, network: nn.Module, waveforms: dict[str, Tensor], funasr: Path) -> None:
    theirs = {key: torch.from_numpy(array) for key, array in np.load(funasr / f"{name}.npz").items()}
    ours = {key: network(speaker_features(waveform[None]))[0] for key, waveform in waveforms.items()}
    for key, embedding in ours.items():
        same_features = network(theirs[f"{key}_features"][None])[0]
        torch.testing.assert_close(same_features, theirs[key], atol=1e-4, rtol=0)
        unit, their_unit = embedding / embedding.norm(), theirs[key] / theirs[key].norm()
        torch.testing.assert_close(unit, their_unit, atol=1e-4, rtol=0)
    assert nn.functional.cosine_similarity(ours["clip0"], ours["clip2"], dim=0) < 0.99  # weights that tell clips apart
