"""The two micro checkpoints as acoustic models, read straight from model.pt."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.paths import CHECKPOINTS
from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.encoders.sensevoice import SenseVoiceConfig


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=CHECKPOINTS)
def micro_dir(request: pytest.FixtureRequest) -> Path:
    return CHECKPOINTS[request.param]


@pytest.fixture(scope="session")
def acoustic_weights(micro_dir: Path) -> dict[str, Tensor]:
    """float32 tensors of stage 1 under the checkpoint's names."""
    stored = torch.load(micro_dir / "model.pt", weights_only=True)["state_dict"]
    return {name: tensor.float() for name, tensor in stored.items() if not name.startswith("llm.")}


@pytest.fixture(scope="session")
def acoustic(micro_dir: Path, acoustic_weights: dict[str, Tensor]) -> FunASRNanoAcoustic:
    model = FunASRNanoAcoustic(_micro_config(micro_dir)).eval().requires_grad_(False)
    model.load_state_dict(acoustic_weights)
    return model


def _micro_config(directory: Path) -> FunASRNanoAcousticConfig:
    stored = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    encoder = stored["audio_encoder_conf"]
    shared = {
        name: encoder[name] for name in ("attention_heads", "linear_units", "num_blocks", "tp_blocks", "kernel_size")
    }
    vocab_size = stored["ctc_vocab_size"]
    return FunASRNanoAcousticConfig(
        encoder=SenseVoiceConfig(output_dim=encoder["output_size"], memory_shift=encoder["sanm_shfit"], **shared),
        adaptor=_adaptor_config(stored["audio_adaptor_conf"]),
        ctc=CTCConfig(
            decoder=_adaptor_config(stored["ctc_decoder_conf"]), vocab_size=vocab_size, blank_id=vocab_size - 1
        ),
        low_frame_rate=stored["audio_adaptor_conf"]["use_low_frame_rate"],
    )


def _adaptor_config(stored: dict[str, Any]) -> AdaptorConfig:
    return AdaptorConfig(
        **{name: stored[name] for name in ("encoder_dim", "llm_dim", "ffn_dim", "n_layer", "downsample_rate")}
    )
