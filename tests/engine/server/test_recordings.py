"""Long recordings: through the server what they are offline, in whatever order their segments are written."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.requests_of_clients import plain, waveform
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.server.recording import GrowingText


def test_a_long_recording_is_what_it_is_offline(
    vllm_model: AutoModelVLLM, start: Callable[..., Any], clips: list[Clip]
) -> None:
    pause = np.zeros(24_000, np.float32)
    samples = np.concatenate([part for clip in plain(clips) for part in (waveform(clip), pause)])
    content = encode(samples, 16_000, "WAV", "PCM_16")
    (whole,) = vllm_model.generate(content)
    assert len(whole.segments) > 2
    with start() as server:
        form = {"response_format": "verbose_json"}
        url = f"{server.http}/v1/audio/transcriptions"
        answer = requests.post(url, files={"file": ("a.wav", content)}, data=form, timeout=60).json()
        assert (answer["text"], answer["duration"]) == (whole.text, pytest.approx(whole.duration))
        assert [(s["start"], s["end"], s["text"]) for s in answer["segments"]] == [
            (s.start, s.end, s.text) for s in whole.segments
        ]
        assert [(w["word"], w["start"]) for w in answer["words"]] == [(w.text, w.start) for w in whole.words or ()]

        with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none") as client:
            *deltas, done = client.audio.transcriptions.create(model="x", file=("a.wav", content), stream=True)
        assert done.type == "transcript.text.done" and done.text == whole.text
        assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == whole.text

        async def offline_session() -> list[dict[str, Any]]:
            async with websockets.connect(f"{server.ws}/ws") as socket:
                await socket.send("START")
                await socket.recv()
                await socket.send(np.clip(samples * 32768, -32768, 32767).astype("<i2").tobytes())
                await socket.send("STOP")
                sentences: list[dict[str, Any]] = json.loads(await socket.recv())["sentences"]
                return sentences

        assert [(s["text"], s["start"]) for s in asyncio.run(offline_session())] == [
            (s.text, round(s.start * 1000)) for s in whole.segments
        ]


def test_text_of_segments_written_at_once_only_grows() -> None:
    async def write() -> list[str]:
        seen: list[str] = []
        so_far = GrowingText(3, seen.append)
        first, second, third = (so_far.listener(number) for number in range(3))
        assert first and second and third
        second("two")
        third("three")
        first("one")
        await asyncio.sleep(0)
        so_far.finish(2, "three!")
        so_far.finish(0, "one!")
        second("two and")
        await asyncio.sleep(0)
        so_far.finish(1, "two and a half.")
        return seen

    seen = asyncio.run(write())
    assert seen == ["one", "one! two", "one! two and", "one! two and a half. three!"]
