"""OpenAI's Realtime transcription sessions with OpenAI's own client, and vLLM's events for the same path."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
import soxr
import websockets

from tests.engine.server.conftest import Running
from tests.engine.server.fakes import fake_running, full_until_the_end, words_of
from tests.engine.server.fakes import pcm as speech
from tests.engine.server.requests_of_clients import pcm16, plain, waveform
from tests.pipeline import Clip

TRANSCRIPTION = "conversation.item.input_audio_transcription"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.http}/v1", websocket_base_url=f"{server.ws}/v1", api_key="none") as client:
        yield client


def recognizer(clips: list[Clip], rate: int) -> str:
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
        for piece in pieces(recognizer(chosen, rate)):
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
            connection.input_audio_buffer.append(audio=recognizer([clip], 16_000))
            connection.input_audio_buffer.clear()
            connection.input_audio_buffer.append(audio=recognizer([clip], 16_000))
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
        connection.session.update(session=session(turn_detection={"type": "server_vad", "threshold": 1.5}))
        refused: Any = connection.recv()
        assert refused.error.param == "session.audio.input.turn_detection.threshold"
        connection.input_audio_buffer.append(audio="not base64!")
        assert connection.recv().type == "error"
        connection.send({"type": "response.create"})
        assert connection.recv().type == "error"
        connection.input_audio_buffer.append(audio=recognizer([clip], 24_000))
        connection.input_audio_buffer.commit()
        while (event := connection.recv()).type != f"{TRANSCRIPTION}.completed":
            assert event.type != "error"
        assert event.transcript == clip["text"]


def test_vllms_events(server: Running, clips: list[Clip]) -> None:
    async def talk(clip: Clip) -> list[dict[str, Any]]:
        async with websockets.connect(f"{server.ws}/v1/realtime") as socket:
            said = [json.loads(await socket.recv())]
            await socket.send(json.dumps({"type": "session.update", "model": "x"}))
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))  # vLLM's "ready to begin"
            pcm = pcm16(clip)
            for first in range(0, len(pcm), 3201):  # pieces that end inside of a sample
                piece = base64.b64encode(pcm[first : first + 3201]).decode()
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
                await asyncio.wait_for(socket.recv(), 60)
            assert closed.value.rcvd is not None and closed.value.rcvd.reason
            return closed.value.rcvd.code

    assert asyncio.run(end_of("{")) == asyncio.run(end_of("[]")) == 1007
    assert asyncio.run(end_of(b"\0\0")) == 1003


async def answers(server: Running, *events: dict[str, Any], until: str) -> list[dict[str, Any]]:
    """What the server says to these events, up to one of type `until`."""
    async with websockets.connect(f"{server.ws}/v1/realtime") as socket:
        for event in events:
            await socket.send(json.dumps(event))
        said = [json.loads(await socket.recv())]
        while said[-1]["type"] != until:
            said.append(json.loads(await asyncio.wait_for(socket.recv(), 60)))
        return said


def append(pcm: bytes) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}


COMMIT = {"type": "input_audio_buffer.commit"}
VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
BETA = {
    "input_audio_format": "pcm16",
    "input_audio_transcription": {"model": "whisper-1", "prompt": "", "language": "en"},
    "turn_detection": VAD,
    "input_audio_noise_reduction": {"type": "near_field"},
}


def asking(event: str = "session.update", kind: str = "transcription", **audio_in: Any) -> dict[str, Any]:
    return {"type": event, "session": {"type": kind, "audio": {"input": audio_in}}}


FORMS: dict[str, dict[str, Any] | None] = {
    "no update": None,
    "defaults": asking(),
    "documented example": asking(noise_reduction={"type": "near_field"}, turn_detection=VAD),
    "semantic VAD": asking(turn_detection={"type": "semantic_vad", "eagerness": "high"}),
    "no responses": asking(turn_detection={"type": "server_vad", "create_response": False}),
    "no detection": asking(turn_detection=None),
    "a tag for the language": asking(transcription={"model": "x", "language": "en", "delay": "low"}),
    "empty strings": asking(transcription={"model": "x", "language": "", "prompt": ""}),
    "nulls": asking(transcription={"model": "x", "language": None, "prompt": None}),
    "a whole realtime session": asking(kind="realtime", transcription={"model": "x"}),
    "the beta's event": {"type": "transcription_session.update", "session": BETA},
    "the beta's session": {"type": "session.update", "session": {**BETA, "modalities": ["text"]}},
}


def test_a_commit_waits_while_the_service_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_running(tmp_path) as fake, full_until_the_end(fake, monkeypatch):
        events = (append(speech(1.0, rate=24_000)), COMMIT)
        said = asyncio.run(answers(fake, *events, until=f"{TRANSCRIPTION}.completed"))
    assert said[-1]["transcript"] == words_of(16_000)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_session_is_understood(server: Running, clips: list[Clip], form: str) -> None:
    clip = next(clip for clip in plain(clips) if clip["language"] == "英文")
    update = FORMS[form]
    pcm = base64.b64decode(recognizer([clip], 24_000))
    events = ([] if update is None else [update]) + [append(pcm), COMMIT]
    said = asyncio.run(answers(server, *events, until=f"{TRANSCRIPTION}.completed"))
    assert said[-1]["transcript"] == clip["text"]
    assert [event["type"] for event in said if event["type"] in ("error", "session.updated")] == (
        [] if update is None or update["type"] != "session.update" else ["session.updated"]
    )


@pytest.mark.parametrize(("kind", "encode"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")])
def test_telephone_audio(server: Running, clips: list[Clip], kind: str, encode: str) -> None:
    clip = next(clip for clip in plain(clips) if clip["language"] == "英文")
    telephone = encoded_at_8_khz(waveform(clip), encode)
    said = asyncio.run(
        answers(server, asking(format={"type": kind}), append(telephone), COMMIT, until=f"{TRANSCRIPTION}.completed")
    )
    assert said[-1]["transcript"] == clip["text"]


def encoded_at_8_khz(samples: Any, codec: str) -> bytes:
    """G.711 by FFmpeg."""
    at_8_khz = (soxr.resample(samples, 16_000, 8_000) * 32767).astype(np.int16)
    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(at_8_khz[None], format="s16", layout="mono")
    frame.sample_rate = 8_000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


@pytest.mark.parametrize("turn_detection", [None, {"type": "server_vad"}])
def test_a_commit_of_silence_is_answered(server: Running, turn_detection: dict[str, Any] | None) -> None:
    events = asking(turn_detection=turn_detection), append(bytes(96_000)), COMMIT
    *_, committed, completed = asyncio.run(answers(server, *events, until=f"{TRANSCRIPTION}.completed"))
    assert committed["type"] == "input_audio_buffer.committed"
    assert (completed["transcript"], completed["item_id"]) == ("", committed["item_id"])


def test_a_commit_of_nothing_is_openais_error(server: Running) -> None:
    *_, error = asyncio.run(answers(server, asking(), COMMIT, until="error"))
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"


def test_unknown_keys_are_named_and_the_known_ones_hold(server: Running, clips: list[Clip]) -> None:
    clip = plain(clips)[0]
    update = asking(format={"type": "audio/pcm", "rate": 16_000}, turn_detection=None, frobnicate=1)
    events = update, append(pcm16(clip)), COMMIT
    _, updated, error, *_, completed = asyncio.run(answers(server, *events, until=f"{TRANSCRIPTION}.completed"))
    assert (updated["type"], error["error"]["param"]) == ("session.updated", "session.audio.input.frobnicate")
    assert completed["transcript"] == clip["text"]


def test_log_probabilities_are_sent_where_they_are_asked_for(server: Running, clips: list[Clip]) -> None:
    clip = plain(clips)[0]
    update = asking(format={"type": "audio/pcm", "rate": 16_000}, turn_detection=None)
    update["session"]["include"] = ["item.input_audio_transcription.logprobs"]
    *_, completed = asyncio.run(
        answers(server, update, append(pcm16(clip)), COMMIT, until=f"{TRANSCRIPTION}.completed")
    )
    assert "".join(token["token"] for token in completed["logprobs"]) == clip["text"]
    assert all(token["logprob"] <= 0 for token in completed["logprobs"])
