"""A page about Qwen3-ASR on Ascend NPUs: its arguments, up to the place where the NPU itself is needed."""

from pathlib import Path

import pytest
import soundfile as sf
import torch

from tests import tiny_models
from tests.published.test_qwen_asr_vllm import DEVICE, with_short_answers
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.engine import ConfigError
from twostage_asr.engine.compat.qwen_asr import Qwen3ASRModel, parse_asr_output
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.qwen3_asr import Qwen3ASR


@pytest.fixture(scope="module")
def model_id(here: Path) -> str:
    tiny_models.qwen3_asr(here / "asr", original=True)
    return with_short_answers(here / "asr")


def test_an_npu_is_known_and_what_it_needs_is_named(model_id: str) -> None:
    assert EngineConfig(device="npu:0", dtype="bf16").device == "npu:0"
    with pytest.raises(ConfigError, match="device 'npu' needs torch_npu"):
        Qwen3ASRModel.from_pretrained(model_id, dtype=torch.bfloat16, device_map="npu:0")


def test_loading_and_inference(model_id: str, without_vllm: None) -> None:
    """The file is read, and resampled where that is needed, by the engine."""
    model = Qwen3ASRModel.from_pretrained(
        model_id,
        dtype=torch.bfloat16,
        device_map=DEVICE,
        attn_implementation="sdpa",
        max_new_tokens=256,
    )
    with model:
        sf.write("audio.wav", clip(2.0), SAMPLE_RATE)
        audio, sr = sf.read("audio.wav")
        (result,) = model.transcribe(audio=(audio, sr))
        assert result.text
        assert model._model.transcriber.embedder.embed(Qwen3ASR().prompt_text(Request())).prefix.dtype == torch.bfloat16
        (resampled,) = model.transcribe(audio=(audio[::2], sr // 2))
        assert resampled.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "bf16", torch.float32, "float32", "fp32", "auto"])
def test_dtypes_in_every_writing(model_id: str, without_vllm: None, dtype: str | torch.dtype) -> None:
    with Qwen3ASRModel.from_pretrained(model_id, dtype=dtype, device_map=torch.device(DEVICE)) as model:
        expected = torch.bfloat16 if "b" in str(dtype).removeprefix("torch.")[:2] else torch.float32
        if dtype != "auto":
            assert model._model.transcriber.decoder.limits.dtype == expected


def test_half_precision_is_refused_with_the_reason(model_id: str) -> None:
    with pytest.raises(ConfigError, match="'fp16' makes these LLMs write '!!!!' or nothing"):
        Qwen3ASRModel.from_pretrained(model_id, dtype=torch.float16)


def test_the_prompt_is_the_packages_and_not_the_pages() -> None:
    """The page leaves the system's turn out, and puts a language where the model was not trained to find it."""
    prompt = Qwen3ASR().prompt_text(Request())
    printed = "<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    assert (prompt.prefix + "<|audio_pad|>" + prompt.suffix).endswith(printed)
    forced = Qwen3ASR().prompt_text(Request(language="Chinese"))
    assert forced.suffix.endswith("<|im_start|>assistant\nlanguage Chinese<asr_text>")


def test_parsing() -> None:
    raw = "language English<asr_text>Oh yeah, yeah."
    language, text = parse_asr_output(raw)
    assert (language, text) == ("English", "Oh yeah, yeah.")
