"""Options: wrong values are refused with the value and what is allowed; misspelt names with the nearest known one."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from twostage_asr.engine import AutoModelVLLM, ConfigError, loader
from twostage_asr.engine.config import EngineConfig, EngineOptions
from twostage_asr.engine.decoder.base import DecodeParams, LLMSource
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.loader import build_decoder
from twostage_asr.engine.manifest import LLMInfo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": None}, "device must be a string; got None"),
        ({"tensor_parallel_size": "2"}, "tensor_parallel_size must be a whole number; got '2'"),
        ({"dither": True}, "dither must be a number; got True"),
        ({"vllm": []}, "vllm must be a dict; got \\[\\]"),
        ({"dtype": "bf15"}, "dtype must be one of 'auto', 'bf16', 'fp32'; got 'bf15'"),
        ({"dtype": "fp16"}, "use 'bf16' or 'fp32'"),
        ({"encoder_dtype": "int8"}, "encoder_dtype must be one of"),
        ({"backend": "tensorrt"}, "backend must be one of 'auto', 'vllm', 'torch'"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must be at least 1, got 0"),
        ({"tensor_parallel_size": 2, "decoder_processes": 0}, "decoder_processes must be 1, got 0"),
        ({"tensor_parallel_size": 2, "decoder_processes": 3}, "decoder_processes must be 1, got 3"),
        ({"vllm": {"pipeline_parallel_size": 2}, "decoder_processes": 0}, "decoder_processes must be 1, got 0"),
        (
            {"vllm": {"distributed_executor_backend": "mp"}, "decoder_processes": 2},
            "decoder_processes must be 1, got 2",
        ),
        ({"stall_timeout_s": 3.0}, "stall_timeout_s must be at least 10, got 3.0"),
        ({"stall_timeout_s": float("nan")}, "stall_timeout_s must be at least 10"),
        ({"gpu_memory_utilization": 1.5}, r"must be in \(0, 1\], got 1.5"),
        ({"dither": -1.0}, "dither must be 0 or positive"),
        ({"max_prompt_bytes": 0}, "max_prompt_bytes must be at least 1, got 0"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"hotwords": ("fine", "b\ud800d")}, r"hotwords\[1\] holds U\+D800 at position 1: half of a surrogate pair"),
        ({"context": "\udfff"}, r"context holds U\+DFFF at position 0"),
        ({"language": "en\ud83d"}, r"language holds U\+D83D at position 2"),
        ({"hotwords": ("fine", 3)}, r"hotwords\[1\] must be a string, got int"),
        ({"context": None}, "context must be a string, got NoneType"),
    ],
)
def test_a_request_takes_whole_characters_alone(texts: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Request(**texts)  # type: ignore[arg-type]
    assert Request(language="zh", hotwords=("\N{GRINNING FACE}", "\0"), context="\u200b").hotwords


@pytest.mark.parametrize("device", ["cuda:99", "tpu", ""])
def test_an_unusable_device_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}'"):
        EngineConfig(device=device).torch_device()


def test_npu_without_torch_npu_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="needs torch_npu"):
        EngineConfig(device="npu:0").torch_device()


@pytest.mark.parametrize(
    "params",
    [
        *({"max_new_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"repetition_penalty": 0.0}),
        *({"repetition_penalty": math.inf}, {"repetition_penalty": math.nan}),
        *({"seed": 2**63}, {"seed": -(2**63) - 1}),
    ],
)
def test_wrong_decode_params_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))):
        DecodeParams(**params)  # type: ignore[arg-type]


def test_a_misspelt_argument_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="'tensor_paralel_size' \\(did you mean 'tensor_parallel_size'\\?\\)"):
        AutoModelVLLM("nowhere", tensor_paralel_size=2)


@pytest.mark.parametrize(
    ("installed", "device", "message"),
    [
        ("cpu", "cuda:0", "backend='vllm' on cuda:0: the installed vLLM runs on cpu"),
        ("cuda", "cpu", "backend='vllm' on cpu: the installed vLLM runs on cuda"),
        (None, "cpu", "vLLM is not installed"),
        ("cuda", "cuda:1", "choose them with CUDA_VISIBLE_DEVICES"),
    ],
)
def test_vllm_is_refused_where_its_build_cannot_run(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, device: str, message: str
) -> None:
    info = LLMInfo(hidden_size=8, vocab_size=8, max_position_embeddings=8, eos_token_ids=(0,), tied=True)
    source = LLMSource(Path("nowhere"), info, torch.float32, 8)
    monkeypatch.setattr(loader, "installed_vllm_device", lambda: installed)
    with pytest.raises(ConfigError, match=message):
        build_decoder(source, EngineConfig(backend="vllm"), torch.device(device))


def test_users_can_give_every_field_of_the_configuration() -> None:
    assert set(EngineOptions.__annotations__) == {field.name for field in dataclasses.fields(EngineConfig)}
