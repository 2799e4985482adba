"""Qwen3-ASR's page about its vLLM backend: loading, batches, time stamps, the server and its client."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch

from tests import tiny_models
from tests.audio_clips import encode
from tests.published.conftest import Served, served
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.engine import ConfigError, auto
from twostage_asr.engine.cli import main
from twostage_asr.engine.compat.qwen_asr import Qwen3ASRModel, parse_asr_output
from twostage_asr.engine.config import EngineConfig

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
ENDS = [98, 105, 112, 197, 249, 304, 309, 315, 318]


def with_short_answers(directory: Path) -> str:
    """A checkpoint with random weights, in which some tokens that it soon writes end an answer."""
    path = directory / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": ENDS}))
    return str(directory)


@pytest.fixture(scope="module")
def model_id(here: Path) -> str:
    tiny_models.qwen3_asr(here / "asr")
    return with_short_answers(here / "asr")


@pytest.fixture(scope="module")
def aligner_id(here: Path) -> str:
    tiny_models.qwen3_forced_aligner(here / "aligner")
    return str(here / "aligner")


@pytest.fixture(scope="module")
def urls(here: Path) -> Iterator[list[str]]:
    """Two clips on a web server, in the place of the page's."""
    for number, name in enumerate(("audio", "asr_zh", "asr_en")):
        (here / f"{name}.wav").write_bytes(encode(clip(1.0 + number, number), SAMPLE_RATE, "WAV", "PCM_16"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(here))
    handler.func.log_message = lambda *args: None  # type: ignore[attr-defined]
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield [f"http://127.0.0.1:{httpd.server_port}/{name}.wav" for name in ("asr_zh", "asr_en")]
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def model(model_id: str, aligner_id: str, without_vllm: None) -> Iterator[Qwen3ASRModel]:
    """As the page loads it for time stamps."""
    model = Qwen3ASRModel.LLM(
        model=model_id,
        gpu_memory_utilization=0.7,
        max_inference_batch_size=128,
        max_new_tokens=4096,
        forced_aligner=aligner_id,
        forced_aligner_kwargs=dict(
            dtype=torch.bfloat16,
            device_map=DEVICE,
        ),
    )
    yield model
    model.close()


def test_loading(model_id: str, without_vllm: None, urls: list[str]) -> None:
    with Qwen3ASRModel.LLM(
        model=model_id,
        gpu_memory_utilization=0.8,
        max_inference_batch_size=32,
        max_new_tokens=1024,
    ) as model:
        assert len(model.transcribe(audio="audio.wav")) == 1


def test_the_defaults_of_the_page(model_id: str, without_vllm: None, urls: list[str]) -> None:
    """All but the model may be left out, and the longest answer still fits beside some minutes of audio."""
    with Qwen3ASRModel.LLM(model=model_id) as model:
        assert model._max_new_tokens == 4096
        assert model._model.transcriber.decoder.limits.max_model_len > 4096 + 4000
        assert len(model.transcribe(audio="audio.wav")) == 1


def test_vllms_arguments_go_to_vllm(model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[EngineConfig] = []

    def load(_engine_dir: Path, config: EngineConfig) -> None:
        seen.append(config)
        raise ConfigError("seen")

    monkeypatch.setattr(auto, "load_transcriber", load)
    with pytest.raises(ConfigError, match="seen"):
        Qwen3ASRModel.LLM(
            model_id, gpu_memory_utilization=0.9, tensor_parallel_size=2, dtype="bfloat16", max_num_seqs=8
        )
    (config,) = seen
    assert config.vllm == {"max_num_seqs": 8}
    assert (config.gpu_memory_utilization, config.tensor_parallel_size) == (0.9, 2)
    assert (config.dtype, config.encoder_dtype) == ("bf16", "bf16")


def test_batches(model: Qwen3ASRModel, urls: list[str]) -> None:
    results = model.transcribe(
        audio=urls,
        language=[None, "English"],
    )
    assert [isinstance(f"[{i}] {r.language}: {r.text}", str) for i, r in enumerate(results)] == [True, True]
    assert results[1].language == "English"
    samples = clip(2.0, 1)
    mixed = model.transcribe(audio=[urls[0], "asr_zh.wav", (samples, SAMPLE_RATE)], language="")
    assert mixed[0] == mixed[1]


def test_time_stamps(model: Qwen3ASRModel, urls: list[str]) -> None:
    results = model.transcribe(
        audio=urls,
        language=["Chinese", "English"],
        return_time_stamps=True,
    )
    for r in results:
        assert r.text and r.language in ("Chinese", "English")
        assert r.time_stamps is not None and r.time_stamps[0].start_time <= r.time_stamps[0].end_time


@pytest.fixture(scope="module")
def server(model: Qwen3ASRModel, model_id: str) -> Iterator[Served]:
    """Audio by URL needs its host to be allowed, and a server without keys needs it said: the page's needs neither."""
    command = f"serve {model_id} --gpu-memory-utilization 0.8 --host 0.0.0.0 --port 8000"
    with served(lambda: main([*command.split(), "--allow-url-host", "127.0.0.1", "--no-auth"]), model._model) as found:
        yield found


def test_the_server_is_started_as_asked(server: Served, model_id: str) -> None:
    assert (server.address.host, server.address.port) == ("0.0.0.0", 8000)
    assert (server.engine["model"], server.engine["gpu_memory_utilization"]) == (model_id, 0.8)


def test_chat_client(server: Served, urls: list[str]) -> None:
    url = f"http://localhost:{server.port}/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    data = {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": urls[1]}}]}]}
    response = requests.post(url, headers=headers, json=data, timeout=300)
    response.raise_for_status()
    content = response.json()["choices"][0]["message"]["content"]
    language, text = parse_asr_output(content)
    assert content.startswith("language ") and "<asr_text>" in content
    assert isinstance(language, str) and text


def test_parsing() -> None:
    language, text = parse_asr_output("language English<asr_text>Hello world.")
    assert (language, text) == ("English", "Hello world.")
    assert parse_asr_output("Hello.", user_language=None) == ("", "Hello.")
    assert parse_asr_output("Hello.", user_language="English") == ("English", "Hello.")
    assert parse_asr_output("language English<asr_text>" + "ha" * 50) == ("English", "ha")
