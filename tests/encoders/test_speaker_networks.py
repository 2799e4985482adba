"""CAM++ and ERes2NetV2: the published layout, a clip's independence of its batch, and FunASR 1.4.16's numbers.

They are what the folded networks give, which run; the modules that the weights are loaded into give the same.
"""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi as kaldi
from pytest import TempPathFactory
from torch import Tensor, nn

from tests.interpreted import interpret
from tests.speaker_networks import NETWORKS, random_network
from twostage_asr.convert.checkpoint import read_state_dict
from twostage_asr.encoders import campplus as campplus_module
from twostage_asr.encoders.campplus import CAMPPlus
from twostage_asr.encoders.campplus_inference import FoldedCAMPPlus
from twostage_asr.encoders.eres2netv2 import ERes2NetV2, without_norms
from twostage_asr.encoders.fbank import speaker_fbank
from twostage_asr.engine.speakers.loading import packaged_weights

PEER = Path(__file__).parents[1] / "peers/funasr_speakers.py"
KERNELS = Path(__file__).with_name("interpreted_campplus.py")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
CLIP_LENS = (8_000, 24_000, 47_321)  # samples; 2.96 s are more frames than one of CAM++'s segments of context has


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Random ones, and the published CAM++ if the package with its weights is installed; as they are loaded."""
    found = {name: random_network(name) for name in NETWORKS}
    path = packaged_weights()
    if path is not None:
        found["published"] = CAMPPlus().eval().requires_grad_(False)
        found["published"].load_state_dict(read_state_dict(path))
    return found


@pytest.fixture(params=[*NETWORKS, "published"])
def name(request: pytest.FixtureRequest, networks: dict[str, nn.Module]) -> str:
    found: str = request.param
    if found not in networks:
        pytest.skip("the extra speakers is not installed")
    return found


@pytest.fixture
def network(name: str, networks: dict[str, nn.Module]) -> nn.Module:
    """As it runs."""
    loaded = networks[name]
    if isinstance(loaded, CAMPPlus):
        return FoldedCAMPPlus(loaded, torch.float32)
    assert isinstance(loaded, ERes2NetV2)
    return without_norms(copy.deepcopy(loaded))


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
    torch.testing.assert_close(network(features), alone, atol=1e-4, rtol=0)


@pytest.fixture(params=["campplus", "published"])
def campplus(request: pytest.FixtureRequest, networks: dict[str, nn.Module]) -> CAMPPlus:
    if request.param not in networks:
        pytest.skip("the extra speakers is not installed")
    loaded = networks[request.param]
    assert isinstance(loaded, CAMPPlus)
    return loaded


@pytest.mark.parametrize("num_frames", [3, 148, 230])  # 230 are three segments of context
def test_folding_changes_no_number(campplus: CAMPPlus, num_frames: int) -> None:
    fbank = 3 * torch.randn(2, num_frames, 80, generator=torch.Generator().manual_seed(num_frames))
    folded = FoldedCAMPPlus(campplus, torch.float32)(fbank)
    expected = campplus(fbank)  # what is rounded of the large numbers is in the small ones as well
    torch.testing.assert_close(folded, expected, atol=2e-5 * expected.abs().max().item(), rtol=0)


def unusual_network() -> CAMPPlus:
    """Some of its normalisations have scales of zero and below."""
    network = random_network("campplus")
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm1d) and norm.affine:
            norm.weight[::5] *= -1.0
            norm.weight[1] = 0.0
    assert isinstance(network, CAMPPlus)
    return network


def test_no_normalisation_of_eres2netv2_is_left_and_no_number_changes(networks: dict[str, nn.Module]) -> None:
    loaded = copy.deepcopy(networks["eres2netv2"]).double()  # in float32, either one is off by up to 2e-5
    assert isinstance(loaded, ERes2NetV2)
    folded = without_norms(copy.deepcopy(loaded))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    fbank = 3 * torch.randn(1, 60, 80, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(folded(fbank), loaded(fbank), atol=1e-9, rtol=1e-9)


def test_scales_of_zero_and_below_are_folded_too() -> None:
    unusual = unusual_network()
    fbank = torch.randn(2, 148, 80, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FoldedCAMPPlus(unusual, torch.float32)(fbank), unusual(fbank), atol=1e-4, rtol=1e-4)


def test_kernels_compute_what_pytorch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(campplus_module, "_BLOCKS", ((1, 1), (2, 2), (1, 2)))
    torch.save(unusual_network().state_dict(), tmp_path / "campplus.pt")
    interpret(KERNELS, tmp_path / "campplus.pt")


@needs_cuda
@pytest.mark.parametrize("num_frames", [37, 148, 230])
def test_kernels_on_a_gpu_give_the_same_embeddings(campplus: CAMPPlus, num_frames: int) -> None:
    fbank = torch.cat([speaker_fbank(voiced(240 + 160 * num_frames, seed)[None]) for seed in range(4)])
    on_gpu = FoldedCAMPPlus(campplus, torch.float16).cuda()(fbank.cuda()).cpu()
    assert nn.functional.cosine_similarity(on_gpu, campplus(fbank)).min() > 0.9995


def test_half_precision_turns_an_embedding_by_less_than_two_degrees(campplus: CAMPPlus) -> None:
    fbank = torch.cat([speaker_fbank(voiced(24_000, seed)[None]) for seed in range(4)])
    halved = FoldedCAMPPlus(campplus, torch.float16)(fbank)
    assert halved.dtype == torch.float32
    assert nn.functional.cosine_similarity(halved, campplus(fbank)).min() > 0.9995


def test_features_are_kaldis_without_their_mean() -> None:
    clips = torch.stack([voiced(24_000, seed) for seed in range(2)])
    expected = torch.stack([kaldi.fbank(clip[None], num_mel_bins=80) for clip in clips])
    torch.testing.assert_close(speaker_fbank(clips), expected - expected.mean(1, keepdim=True), atol=2e-3, rtol=0)


def test_numbers_equal_funasrs(name: str, network: nn.Module, waveforms: dict[str, Tensor], funasr: Path) -> None:
    theirs = {key: torch.from_numpy(array) for key, array in np.load(funasr / f"{name}.npz").items()}
    ours = {key: network(speaker_fbank(waveform[None]))[0] for key, waveform in waveforms.items()}
    for key, embedding in ours.items():
        same_features = network(theirs[f"{key}_features"][None])[0]
        torch.testing.assert_close(same_features, theirs[key], atol=1e-4, rtol=0)
        unit, their_unit = embedding / embedding.norm(), theirs[key] / theirs[key].norm()
        torch.testing.assert_close(unit, their_unit, atol=1e-4, rtol=0)
    assert nn.functional.cosine_similarity(ours["clip0"], ours["clip2"], dim=0) < 0.99  # weights that tell clips apart
