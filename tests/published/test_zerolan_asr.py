"""Zerolan's page about Qwen3-ASR with vLLM: a configuration file, a service, and the interface of all its models."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import soxr

from tests.audio_clips import encode
from tests.engine.server.requests_of_clients import wav, waveform
from tests.pipeline import Clip
from tests.published.conftest import Served, served
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.cli import main

CONFIG = """
ASR:
  id: "Qwen/Qwen3-ASR-1.7B-vllm"
  host: "0.0.0.0"
  port: 11001
  config:
    Qwen/Qwen3-ASR-1.7B-vllm:
      model_path: "Qwen/Qwen3-ASR-1.7B"
      gpu_memory_utilization: 0.7
      max_inference_batch_size: 128
      max_new_tokens: 4096
      forced_aligner: null
      forced_aligner_device_map: "cuda:0"
      forced_aligner_dtype: "bfloat16"
"""


@pytest.fixture(scope="module")
def server(here: Path, spoken: Clip, vllm_model: AutoModelVLLM) -> Iterator[Served]:
    resources = here / "tests" / "resources"
    resources.mkdir(parents=True)
    (resources / "tts-test.wav").write_bytes(wav(spoken))
    (here / "config.yaml").write_text(CONFIG)
    with served(
        lambda: main(["serve", "--config", "config.yaml", "--no-auth", "--max-new-tokens", "512"]), vllm_model
    ) as found:
        yield found


def test_the_configuration_is_obeyed(server: Served) -> None:
    assert (server.address.host, server.address.port) == ("0.0.0.0", 11001)
    engine = server.engine
    assert (engine["model"], engine["gpu_memory_utilization"]) == ("Qwen/Qwen3-ASR-1.7B", 0.7)
    assert engine["vllm"] == {"max_num_seqs": 128} and engine["max_model_len"] > 4096
    assert engine["forced_aligner"] is None
    assert server.recognizer.settings.model_name == "Qwen/Qwen3-ASR-1.7B-vllm"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_predict(server: Served, spoken: Clip) -> None:
    command = f"""
    curl -X POST http://localhost:{server.port}/asr/predict \\
      -F "audio=@tests/resources/tts-test.wav;type=audio/wav" \\
      -F "json={{\\"audio_path\\": \\"\\", \\"channels\\": 2}};type=application/json"
    """
    answer = json.loads(subprocess.check_output(command, shell=True))
    assert answer.keys() == {"id", "transcript"}
    assert answer["id"] and answer["transcript"] == spoken["text"]


def test_predict_takes_other_rates_and_channels(server: Served, spoken: Clip) -> None:
    mono = soxr.resample(waveform(spoken), 16_000, 44_100)
    stereo = encode(np.stack([mono, mono]), 44_100, "WAV", "PCM_16")
    parts = {"audio": ("a.wav", stereo, "audio/wav"), "json": (None, '{"channels": 2}', "application/json")}
    answer = requests.post(f"http://localhost:{server.port}/asr/predict", files=parts, timeout=60)
    assert answer.json()["transcript"] == spoken["text"]


def test_stream_predict_ends_with_the_whole_text(server: Served, spoken: Clip) -> None:
    parts = {"audio": ("a.wav", wav(spoken), "audio/wav"), "json": (None, "{}", "application/json")}
    answer = requests.post(f"http://localhost:{server.port}/asr/stream-predict", files=parts, timeout=60)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["is_final"] is True and lines[-1]["transcript"] == spoken["text"]
