"""The towers of Qwen3-ASR and GLM-ASR-Nano on an NVIDIA GPU: the CPU's numbers, nobody's neighbours, and no waiting."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from tests.tones import clip
from twostage_asr.encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from twostage_asr.encoders.llm_asr import AdaptorKind, LLMASRTower, LLMASRTowerConfig
from twostage_asr.encoders.qwen3_asr import Qwen3ASRTower, Qwen3ASRTowerConfig
from twostage_asr.engine.acoustic.base import StageOneOptions
from twostage_asr.engine.acoustic.threads import one_thread
from twostage_asr.engine.acoustic.tower import TowerModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")

SECONDS = (0.3, 0.9, 3.37, 8.5, 29.9)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
QWEN = Qwen3ASRTowerConfig(
    d_model=256, encoder_layers=4, encoder_attention_heads=4, encoder_ffn_dim=512, output_dim=128
)
GLM = GLMASRTowerConfig(
    hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, llm_dim=128, rotary_dim=32
)


def llm_asr(adaptor: AdaptorKind) -> LLMASRTower:
    config = LLMASRTowerConfig(
        num_mels=80, encoder_dim=256, num_layers=4, num_positions=1500, adaptor=adaptor, llm_dim=128, n_layer=2
    )
    tower = LLMASRTower(config)
    tower.audio_encoder.get_buffer("positional_embedding").normal_()
    return tower


TOWERS: dict[str, Callable[[], Qwen3ASRTower | GLMASRTower | LLMASRTower]] = {
    "qwen3_asr": lambda: Qwen3ASRTower(QWEN),
    "glm_asr": lambda: GLMASRTower(GLM),
    "llm_asr_linear": lambda: llm_asr("Linear"),
    "llm_asr_transformer": lambda: llm_asr("Transformer"),
    "llm_asr_qformer": lambda: llm_asr("QFormer"),
}


def tower_model(name: str, device: torch.device, dtype: torch.dtype) -> TowerModel:
    torch.manual_seed(0)
    tower = TOWERS[name]().eval()
    for weight in tower.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    model = TowerModel(tower.to(device, dtype), StageOneOptions(device=device, dtype=dtype, embeds_dtype=torch.float32))
    model.prepare()
    return model


def encode(model: TowerModel, waveforms: list[np.ndarray]) -> list[torch.Tensor]:
    with one_thread(active=True):  # as in a run: for another number of threads the layers compile once more
        return [utterance.audio_embeds for utterance in model.encode(waveforms, with_ctc=False).utterances()]


def least_cosine(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Of all clips' rows; what rows have in common, their mean, says nothing of whether they are right."""
    a, b = torch.cat(one), torch.cat(other)
    return float(F.cosine_similarity(a - a.mean(0), b - a.mean(0)).min())


@pytest.fixture(params=TOWERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def waveforms() -> list[np.ndarray]:
    return [clip(seconds, seed) for seed, seconds in enumerate(SECONDS)]


def test_float32_gives_the_numbers_of_the_cpu(name: str, waveforms: list[np.ndarray]) -> None:
    ours = encode(tower_model(name, CUDA, torch.float32), waveforms)
    assert least_cosine(encode(tower_model(name, CPU, torch.float32), waveforms), ours) > 0.9999


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.9999), (torch.bfloat16, 0.99)])
def test_neighbours_change_nothing(name: str, dtype: torch.dtype, least: float, waveforms: list[np.ndarray]) -> None:
    model = tower_model(name, CUDA, dtype)
    alone = [encode(model, [waveform])[0] for waveform in waveforms]
    assert least_cosine(alone, encode(model, waveforms)) > least


def test_bfloat16_points_where_float32_does(name: str, waveforms: list[np.ndarray]) -> None:
    models = [tower_model(name, CUDA, dtype) for dtype in (torch.float32, torch.bfloat16)]
    exact, rounded = (encode(model, waveforms) for model in models)
    assert least_cosine(exact, rounded) > 0.99


def test_a_batch_is_queued_without_a_wait(name: str, waveforms: list[np.ndarray]) -> None:
    model = tower_model(name, CUDA, torch.bfloat16)
    encode(model, waveforms)  # a graph of this size is captured, which waits
    assert not counters["graph_break"]  # each would cost a layer launches and copies
    torch.cuda.set_sync_debug_mode("error")
    try:
        with one_thread(active=True):
            batch = model.encode(waveforms, with_ctc=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(u.audio_embeds) for u in batch.utterances()] == [model.num_audio_tokens(len(w)) for w in waveforms]
