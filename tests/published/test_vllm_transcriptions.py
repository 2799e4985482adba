"""vLLM's page about speech-to-text models: its requests as they are printed, and what it asks of a model."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soxr

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.engine.server.requests_of_clients import wav, waveform
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM

KEY = "token-abc123"


@pytest.fixture(scope="module")
def server(here: Path, spoken: Clip, vllm_model: AutoModelVLLM) -> Iterator[Running]:
    (here / "audio.wav").write_bytes(wav(spoken))
    with running(vllm_model, api_keys=(KEY,)) as found:
        yield found


def curl(server: Running, task: str) -> Any:
    """What the page's command prints."""
    command = f"""
    curl -s -X POST \\
      -H "Authorization: Bearer $VLLM_API_KEY" \\
      -H "Content-Type: multipart/form-data" \\
      -F "file=@{os.getcwd()}/audio.wav" \\
      -F "model=$MODEL_ID" \\
      http://localhost:{server.port}/v1/audio/{task}
    """
    environment = os.environ | {"VLLM_API_KEY": KEY, "MODEL_ID": "fun-asr-nano"}
    return json.loads(subprocess.check_output(command, shell=True, env=environment))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_transcription(server: Running, spoken: Clip) -> None:
    assert curl(server, "transcriptions")["text"] == spoken["text"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_translation_is_refused_in_openais_words(server: Running) -> None:
    """None of these models translates."""
    error = curl(server, "translations")["error"]
    assert error["code"] == "unsupported_task" and "use /v1/audio/transcriptions" in error["message"]


def post(server: Running, content: bytes, **fields: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://localhost:{server.port}/v1/audio/transcriptions"
    return requests.post(url, headers=headers, files={"file": ("a.wav", content)}, data=fields, timeout=60)


def test_a_key_is_needed(server: Running) -> None:
    url = f"http://localhost:{server.port}/v1/audio/transcriptions"
    assert requests.post(url, files={"file": b""}, timeout=60).status_code == 401


def test_a_language_is_a_code_and_one_that_the_model_lacks_is_refused(server: Running, spoken: Clip) -> None:
    assert post(server, wav(spoken), language="zh").json()["text"] == spoken["text"]
    refused = post(server, wav(spoken), language="xx")
    assert refused.status_code == 400 and "(zh)" in refused.json()["error"]["message"]


def test_audio_is_resampled(server: Running, spoken: Clip) -> None:
    content = encode(soxr.resample(waveform(spoken), 16_000, 48_000), 48_000, "WAV", "PCM_16")
    assert post(server, content).json()["text"] == spoken["text"]


def test_long_audio_is_cut_where_it_is_quiet(server: Running, spoken: Clip) -> None:
    """No part is heard twice, and none is cut through."""
    pause = np.zeros(40_000, np.float32)
    speech = [np.concatenate([waveform(spoken), pause])] * 8
    answer = post(
        server, encode(np.concatenate(speech), 16_000, "WAV", "PCM_16"), response_format="verbose_json"
    ).json()
    assert answer["duration"] > 30
    assert answer["text"] == spoken["text"] * 8
    assert len(answer["segments"]) > 1
