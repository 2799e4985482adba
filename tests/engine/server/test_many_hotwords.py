"""Thousands of hotwords on the real engine: one list for all callers, and each clip's name is written as it says."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
import websockets

from tests.engine.server.requests_of_clients import pcm16, wav
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM

SYLLABLES = ["ba", "ke", "dio", "fu", "gra", "hol", "ni", "mo", "pe", "ru"]
OTHERS = [f"{a}{b} {c}{d}".title() for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES for d in SYLLABLES[:5]]


@pytest.fixture(scope="module")
def named(clips: list[Clip]) -> list[Clip]:
    """Clips whose text has a name in the spelling that a hotword asks for."""
    return [clip for clip in clips if clip["hotwords"] and clip["itn"]][:2]


@pytest.fixture(scope="module")
def hotwords(named: list[Clip]) -> tuple[str, ...]:
    right = [word for clip in named for word in clip["hotwords"]]
    return (*OTHERS[:2500], *right, *OTHERS[2500:])


def test_the_sdk_takes_them(vllm_model: AutoModelVLLM, named: list[Clip], hotwords: tuple[str, ...]) -> None:
    results = vllm_model.generate([clip["source"] for clip in named], hotwords=hotwords)
    assert len(hotwords) > 5000
    assert [result.text for result in results] == [clip["text"] for clip in named]


def test_a_server_has_them_for_files_and_for_live_audio(
    start: Callable[..., Any], named: list[Clip], hotwords: tuple[str, ...]
) -> None:
    async def live(url: str, clip: Clip) -> str:
        async with websockets.connect(url) as socket:
            for message in ("START", pcm16(clip), "STOP"):
                await socket.send(message)
            answers = [json.loads(await socket.recv())]
            while not answers[-1].get("is_final"):
                answers.append(json.loads(await socket.recv()))
            return "".join(sentence["text"] for sentence in answers[-1]["sentences"])

    with start(hotwords=hotwords) as server:
        for clip in named:
            url = f"{server.http}/v1/audio/transcriptions"
            answer = requests.post(url, files={"file": ("a.wav", wav(clip))}, timeout=60)
            assert answer.json()["text"] == clip["text"]
            assert asyncio.run(live(f"{server.ws}/ws", clip)) == clip["text"]
