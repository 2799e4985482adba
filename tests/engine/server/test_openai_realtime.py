"""OpenAI's Realtime transcription sessions with OpenAI's own client, and vLLM's events for the same path."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import soxr
import websockets

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import pcm16, plain, waveform
from tests.pipeline import Clip

TRANSCRIPTION = "conversation.item.input_audio_transcription"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.http}/v1", websocket_base_url=f"{server.ws}/v1", api_key="none") as client:
        yield client


def speech(clips: list[Clip], rate: int) -> str:
    """PCM16 of some clips with long pauses between them, base64."""
    pause = np.zeros(16_000 * 3, np.float32)
    samples = np.concatenate([part for clip in clips for part in (waveform(clip), pause)])
    pcm = np.clip(soxr.resample(samples, 16_000, rate) * 32768, -32768, 32767).astype("<i2")
    return base64.b64encode(pcm.tobytes()).decode()


def session(**audio_input: Any) -> Any:
    return {"type": "transcription", "audio": {"input": audio_input}}


def pieces(content: str) -> list[str]:
    return re.findall(".{1,40000}", content)


@pytest.mark.parametrize("rate", [24_000, 16_000])
def test_items_with_turn_detection(client: openai.OpenAI, clips: list[Clip], rate: int) -> None:
    chosen = plain(clips)[:3]
    with client.realtime.connect(model="x", extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        asked = {"format": {"type": "audio/pcm", "rate": rate}, "turn_detection": {"type": "server_vad"}}
        connection.session.update(session=session(**asked))
        assert connection.recv().type == "session.updated"
        for piece in pieces(speech(chosen, rate)):
            connection.input_audio_buffer.append(audio=piece)
        events: list[Any] = []
        while sum(event.type == f"{TRANSCRIPTION}.completed" for event in events) < 3:
            events.append(connection.recv())
    completed = [event for event in events if event.type == f"{TRANSCRIPTION}.completed"]
    assert [event.transcript for event in completed] == [clip["text"] for clip in chosen]
    assert len({event.item_id for event in completed}) == 3
    for event in completed:
        own = [other for other in events if getattr(other, "item_id", None) == event.item_id]
        kinds = [other.type.removeprefix("input_audio_buffer.") for other in own]
        assert [kind for kind in kinds if not kind.endswith(".delta")] == [
            *("speech_started", "speech_stopped", "committed", f"{TRANSCRIPTION}.completed")
        ]
        deltas = [other.delta for other in own if other.type == f"{TRANSCRIPTION}.delta"]
        assert "".join(deltas) == event.transcript


def test_items_that_the_client_commits(client: openai.OpenAI, clips: list[Clip]) -> None:
    with client.realtime.connect(model="x", extra_query={"intent": "transcription"}) as connection:
        asked = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
        connection.session.update(session=session(**asked, transcription={"language": "zh-TW"}))
        for clip in [clip for clip in plain(clips) if clip["language"] == "中文"][:2]:
            connection.input_audio_buffer.append(audio=speech([clip], 16_000))
            connection.input_audio_buffer.clear()
            connection.input_audio_buffer.append(audio=speech([clip], 16_000))
            connection.input_audio_buffer.commit()
            while (event := connection.recv()).type != f"{TRANSCRIPTION}.completed":
                pass
            assert event.transcript == clip["text"]


def test_mistakes_are_said_and_survived(client: openai.OpenAI, clips: list[Clip]) -> None:
    clip = plain(clips)[0]
    with client.realtime.connect(model="x", extra_query={"intent": "transcription"}) as connection:
        connection.recv()
        connection.session.update(session=session(transcription={"language": "Klingon"}), event_id="e1")
        error: Any = connection.recv()
        assert (error.type, error.error.code, error.error.event_id) == ("error", "invalid_value", "e1")
        connection.session.update(session=session(turn_detection={"type": "server_vad", "threshold": 0.1}))
        refused: Any = connection.recv()
        assert refused.error.param == "session.audio.input.turn_detection.threshold"
        connection.input_audio_buffer.append(audio="not base64!")
        assert connection.recv().type == "error"
        connection.send({"type": "response.create"})
        assert connection.recv().type == "error"
        connection.input_audio_buffer.append(audio=speech([clip], 24_000))
        connection.input_audio_buffer.commit()
        while (event := connection.recv()).type != f"{TRANSCRIPTION}.completed":
            assert event.type != "error"
        assert event.transcript == clip["text"]


def test_vllms_events(server: Running, clips: list[Clip]) -> None:
    async def talk(clip: Clip) -> list[dict[str, Any]]:
        async with websockets.connect(f"{server.ws}/v1/realtime") as socket:
            said = [json.loads(await socket.recv())]
            await socket.send(json.dumps({"type": "session.update", "model": "x"}))
            pcm = pcm16(clip)
            for first in range(0, len(pcm), 3200):
                piece = base64.b64encode(pcm[first : first + 3200]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
            await socket.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
            while said[-1]["type"] != "transcription.done":
                said.append(json.loads(await socket.recv()))
        return said

    for clip in plain(clips)[:3]:
        created, *deltas, done = asyncio.run(talk(clip))
        assert created["type"] == "session.created"
        assert "".join(event["delta"] for event in deltas) == done["text"] == clip["text"]


def test_what_is_no_event_ends_the_session(server: Running) -> None:
    async def end_of(message: str | bytes) -> int:
        async with websockets.connect(f"{server.ws}/v1/realtime") as socket:
            await socket.recv()
            await socket.send(message)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 10)
            assert closed.value.rcvd is not None and closed.value.rcvd.reason
            return closed.value.rcvd.code

    assert asyncio.run(end_of("{")) == asyncio.run(end_of("[]")) == 1007
    assert asyncio.run(end_of(b"\0\0")) == 1003
