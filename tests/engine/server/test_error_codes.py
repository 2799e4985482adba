"""An error keeps its kind from the stage where it happens to the client: one code, over every protocol."""

import asyncio
import json
from typing import Any, get_args

import numpy as np
import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import pcm16, plain, wav, waveform
from tests.pipeline import Clip
from twostage_asr.engine.errors import ErrorCode, error_of
from twostage_asr.engine.server.failures import refusal_of

HOTWORDS = ",".join(f"{i}{' hotword' * 100}" for i in range(15))  # so few are all given to the LLM


@pytest.fixture(scope="module")
def content(clips: list[Clip]) -> bytes:
    return wav(plain(clips)[0])


def transcribe(server: Running, content: bytes, **fields: str) -> requests.Response:
    url = f"{server.http}/v1/audio/transcriptions"
    return requests.post(url, files={"file": ("a.wav", content)}, data=fields, timeout=60)


def test_a_prompt_that_is_too_long(server: Running, content: bytes) -> None:
    answer = transcribe(server, content, hotwords=HOTWORDS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "prompt_too_long")
    assert "fewer or shorter hotwords" in answer.json()["error"]["message"]


def test_a_prompt_that_is_too_long_for_every_segment(server: Running, clips: list[Clip]) -> None:
    recognizer = [np.concatenate([waveform(clip), np.zeros(48_000, np.float32)]) for clip in plain(clips)[:8]]
    answer = transcribe(server, encode(np.concatenate(recognizer), 16_000, "WAV", "PCM_16"), hotwords=HOTWORDS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "prompt_too_long")


def test_a_prompt_that_is_too_long_while_text_is_streamed(server: Running, content: bytes) -> None:
    events = transcribe(server, content, hotwords=HOTWORDS, stream="true").text.split("\n\n")
    assert json.loads(events[0].removeprefix("data: "))["error"]["code"] == "prompt_too_long"


def test_a_prompt_that_is_too_long_over_a_websocket(server: Running, clips: list[Clip]) -> None:
    async def said() -> dict[str, Any]:
        async with websockets.connect(f"{server.ws}/ws") as socket:
            for message in ("START", f"HOTWORDS:{HOTWORDS}", pcm16(plain(clips)[0]), "STOP"):
                await socket.send(message)
            answers = [json.loads(await socket.recv()) for _ in range(3)]
            return answers[-1]

    answer = asyncio.run(said())
    assert (answer["event"], answer["code"]) == ("error", "prompt_too_long")


def test_the_server_answers_with_the_errors_own_codes() -> None:
    answers = {code: refusal_of(error_of(code, "why")) for code in get_args(ErrorCode)}
    assert all(refusal.code == code for code, refusal in answers.items())
    expected = {
        "failed": 500,
        "invalid_value": 400,
        "unsupported_audio": 400,
        "audio_too_long": 413,
        "engine_failed": 503,
    }
    assert {code: answers[code].status_code for code in expected} == expected
