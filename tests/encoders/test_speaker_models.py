"""The speaker models equal FunASR 1.4.16's on the same weights and audio, float32, on the CPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twostage_asr.encoders.campplus import CAMPPlus
from twostage_asr.encoders.eres2netv2 import ERes2NetV2
from twostage_asr.encoders.fbank import speaker_fbank

PEER = Path(__file__).parents[1] / "peers/funasr_speakers.py"


def randomised(model: nn.Module) -> nn.Module:
    """With statistics as after training, so that every part of the model has an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0.0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def waveforms() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    loudness = torch.tensor([[0.1], [0.01], [1e-4]])  # the last one reaches the floor of the features
    return loudness * torch.randn(3, 24_000, generator=generator)


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"campplus": randomised(CAMPPlus()), "eres2netv2": randomised(ERes2NetV2())}


@pytest.fixture(scope="module")
def reference(
    models: dict[str, nn.Module], waveforms: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    directory = tmp_path_factory.mktemp("speakers")
    for name, model in models.items():
        torch.save(model.state_dict(), directory / f"{name}.pt")
    np.save(directory / "audio.npy", waveforms.numpy())
    files = [str(directory / name) for name in ("campplus.pt", "eres2netv2.pt", "audio.npy", "out.npz")]
    finished = subprocess.run([sys.executable, str(PEER), *files], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return dict(np.load(directory / "out.npz"))


@pytest.mark.parametrize("name", ["campplus", "eres2netv2"])
def test_embeddings_equal_funasr(
    name: str, models: dict[str, nn.Module], waveforms: Tensor, reference: dict[str, np.ndarray]
) -> None:
    with torch.inference_mode():
        ours = models[name](speaker_fbank(waveforms)).numpy()
    theirs = reference[name]
    assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("name", ["campplus", "eres2netv2"])
def test_a_batch_gives_what_each_clip_gives(name: str, models: dict[str, nn.Module], waveforms: Tensor) -> None:
    with torch.inference_mode():
        together = models[name](speaker_fbank(waveforms))
        alone = torch.cat([models[name](speaker_fbank(one[None])) for one in waveforms])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
