"""Speakers of live WebSockets, over the fake model, whose voices are the loudness of the audio."""

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.engine.server.fakes import fake_running
from tests.engine.streaming.scripted import LoudIsSpeech
from tests.engine.streaming.voiced import talk
from tests.fake_model import fake_transcriber
from tests.fake_voices import BROKEN, FakeVoices
from twostage_asr.engine.speakers.enrolment import KnownSpeakers
from twostage_asr.engine.streaming import LiveSpeakers

PAUSE = (0, 2.4)
SEGMENT = "conversation.item.input_audio_transcription.segment"
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fake_running(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server without a speaker model."""
    transcriber = fake_transcriber(tmp_path_factory.mktemp("bare"), speakers=None)
    with running(SimpleNamespace(transcriber=transcriber)) as server:
        server.recognizer.live = replace(server.recognizer.live, vad=LoudIsSpeech())
        yield server
    transcriber.close()


@pytest.fixture(scope="module")
def acquainted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that knows the voice 9."""
    known = KnownSpeakers.enrol(FakeVoices(), {"Ana": talk((9, 3.0))})
    with fake_running(tmp_path_factory.mktemp("acquainted"), known_speakers=known) as server:
        yield server


def pcm(*parts: tuple[int, float]) -> bytes:
    return (talk(*parts) * 32768).round().astype("<i2").tobytes()


def converse(server: Running, path: str, *messages: Any, until: str) -> list[dict[str, Any]]:
    """All answers up to the first of this event or type; what is a dict is sent as JSON."""

    async def one() -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        async with asyncio.timeout(60), websockets.connect(server.ws + path) as socket:
            for message in messages:
                await socket.send(json.dumps(message) if isinstance(message, dict) else message)
            while not answers or until not in (answers[-1].get("event"), answers[-1].get("type")):
                answers.append(json.loads(await socket.recv()))
        return answers

    return asyncio.run(one())


def speakers_of(answer: dict[str, Any]) -> list[int | None]:
    return [sentence.get("spk") for sentence in answer["sentences"]]


def test_sentences_have_the_numbers_of_their_speakers_when_asked(server: Running) -> None:
    audio = (pcm((5, 3.0), PAUSE), pcm((9, 3.0), PAUSE), pcm((5, 3.0)))
    started, told, *_, last, _ = converse(server, "/", "START", "SPK:true", *audio, "STOP", until="stopped")
    assert (started, told) == ({"event": "started"}, {"event": "spk_set", "spk": True})
    assert last["is_final"] and speakers_of(last) == [0, 1, 0]
    *_, last, _ = converse(server, "/", "SPK:true", "SPK:false", "START", *audio, "STOP", until="stopped")
    assert speakers_of(last) == [None] * 3 and "warnings" not in last


def test_a_server_may_name_speakers_unasked(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(server.recognizer.settings, names_speakers=True)
    monkeypatch.setattr(server.recognizer, "settings", settings)
    *_, last, _ = converse(server, "/", "START", pcm((5, 3.0), (9, 3.0)), "STOP", until="stopped")
    assert speakers_of(last) == [0, 1]


def test_stop_relabels_and_changes_nothing_else(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveSpeakers, "relabel", lambda self: {"SPK0": "SPK0", "SPK1": "SPK0", "SPK2": "SPK2"})
    parts = (PAUSE, (9, 3.0), PAUSE, (12, 3.0), PAUSE, (0, 1.0))
    answers = converse(server, "/", "SPK:true", "START", pcm((5, 3.0), *parts), "STOP", until="stopped")
    *_, before, last = [answer for answer in answers if "sentences" in answer]
    assert (speakers_of(before), speakers_of(last)) == ([0, 1, 2], [0, 0, 2])
    assert [s | {"spk": 0} for s in before["sentences"]] == [s | {"spk": 0} for s in last["sentences"]]


def test_what_cannot_be_told_apart_is_said(server: Running) -> None:
    audio = pcm((BROKEN, 3.0), PAUSE, (5, 3.0))
    answers = converse(server, "/", "SPK:true", "START", audio, "STOP", until="stopped")
    assert speakers_of(answers[-2]) == [None, 0]
    (warning,) = [warning for answer in answers for warning in answer.get("warnings", [])]
    assert warning["code"] == "no_speakers" and "broken" in warning["message"]


@pytest.mark.parametrize("path", ["/", "/ws"])
def test_without_a_speaker_model_it_is_refused_and_the_session_goes_on(bare: Running, path: str) -> None:
    refused, started, *_, last, _ = converse(bare, path, "SPK:true", "START", pcm((5, 3.0)), "STOP", until="stopped")
    assert refused["event"] == "error" and "--speaker-model" in refused["error"]
    assert started == {"event": "started"} and speakers_of(last) == [None]


def test_a_recording_does_not_begin_without_the_speakers_that_it_needs(
    bare: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare.recognizer, "settings", replace(bare.recognizer.settings, names_speakers=True))
    refused, unknown = converse(bare, "/", "START", "STOP", "PING", until="pong")[:2]
    assert "--speaker-model" in refused["error"] and "STOP without START" in unknown["error"]


def test_spk_is_true_or_false(server: Running) -> None:
    assert "SPK takes true or false, got 'maybe'" in converse(server, "/", "SPK:maybe", until="error")[0]["error"]


@pytest.mark.parametrize("path", ["/ws"])
def test_recordings_have_speakers_when_asked(server: Running, path: str) -> None:
    audio = pcm((5, 4.0), (9, 4.0))
    *_, last, _ = converse(server, path, "SPK:true", "START", audio, "STOP", until="stopped")
    assert speakers_of(last) == [0, 1]


@pytest.mark.parametrize("path", ["/", "/ws"])
def test_known_speakers_of_the_server_have_their_names(acquainted: Running, path: str) -> None:
    audio = pcm((5, 4.0), (9, 4.0))
    *_, last, _ = converse(acquainted, path, "SPK:true", "START", audio, "STOP", until="stopped")
    assert [(s["spk"], s.get("speaker")) for s in last["sentences"]] == [(0, None), (1, "Ana")]


def test_a_number_that_turns_out_to_be_a_known_speakers_gets_the_name(
    acquainted: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveSpeakers, "relabel", lambda self: {"SPK0": "Ana", "Ana": "Ana"})
    audio = pcm((5, 4.0), (9, 4.0))
    *_, last, _ = converse(acquainted, "/", "SPK:true", "START", audio, "STOP", until="stopped")
    assert [(s["spk"], s["speaker"]) for s in last["sentences"]] == [(1, "Ana"), (1, "Ana")]


def test_openais_clients_get_the_names_that_the_server_knows(acquainted: Running) -> None:
    audio = append((5, 4.0), (9, 4.0), PAUSE)
    answers = converse(acquainted, "/v1/realtime", update(spk=True), audio, CLEAR, until="input_audio_buffer.cleared")
    assert [answer["speaker"] for answer in answers if answer["type"] == SEGMENT] == ["SPK0", "Ana"]


def test_requests_get_the_names_that_the_server_knows_unless_they_have_their_own(acquainted: Running) -> None:
    wav = {"file": ("a.wav", encode(talk((5, 4.0), (9, 4.0)), 16_000, "WAV", "PCM_16"))}

    def speakers(path: str, **fields: Any) -> list[str]:
        answer = requests.post(acquainted.http + path, files=wav, data=fields, timeout=60).json()
        return [segment["speaker"] for segment in answer["segments"]]

    diarized = {"response_format": "diarized_json"}
    voice = base64.b64encode(encode(talk((5, 3.0)), 16_000, "WAV", "PCM_16")).decode()
    own = {"known_speaker_names": ["Ben"], "known_speaker_references": [f"data:audio/wav;base64,{voice}"]}
    assert speakers("/asr", spk="true") == ["SPK0", "Ana"]
    assert speakers("/v1/audio/transcriptions", **diarized) == ["A", "Ana"]
    assert speakers("/v1/audio/transcriptions", **diarized, **own) == ["Ben", "A"]


def update(**transcription: Any) -> dict[str, Any]:
    audio = {"format": {"type": "audio/pcm", "rate": 16_000}, "transcription": transcription}
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}}


def append(*parts: tuple[int, float]) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm(*parts)).decode()}


COMMIT = {"type": "input_audio_buffer.commit"}
CLEAR = {"type": "input_audio_buffer.clear"}


def test_openais_segment_events_say_who_speaks(server: Running) -> None:
    audio = append((5, 4.0), (9, 4.0), PAUSE, (5, 3.0), PAUSE)
    answers = converse(server, "/v1/realtime", update(spk=True), audio, CLEAR, until="input_audio_buffer.cleared")
    segments = [answer for answer in answers if answer["type"] == SEGMENT]
    items = [answer for answer in answers if answer["type"] == COMPLETED]
    assert [segment["speaker"] for segment in segments] == ["SPK0", "SPK1", "SPK0"]
    assert " ".join(segment["text"] for segment in segments[:2]) == items[0]["transcript"]
    assert [segment["item_id"] for segment in segments] == [items[0]["item_id"]] * 2 + [items[1]["item_id"]]
    assert answers.index(segments[1]) < answers.index(items[0]) and len({s["id"] for s in segments}) == 3


def test_openais_items_without_turn_detection_have_them_too(server: Running) -> None:
    asked = update(spk=True)
    asked["session"]["audio"]["input"]["turn_detection"] = None
    turns = [event for voice in (5, 9, 5) for event in (append((voice, 3.0)), COMMIT)]
    answers = converse(server, "/v1/realtime", asked, *turns, CLEAR, until="input_audio_buffer.cleared")
    assert [answer["speaker"] for answer in answers if answer["type"] == SEGMENT] == ["SPK0", "SPK1", "SPK0"]


def test_a_commit_tells_openais_clients_which_names_are_one(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveSpeakers, "relabel", lambda self: {"SPK0": "SPK0", "SPK1": "SPK0"})
    audio = append((5, 3.0), PAUSE, (9, 3.0))
    event = "conversation.speakers.relabelled"
    assert converse(server, "/v1/realtime", update(spk=True), audio, COMMIT, until=event)[-1]["speakers"] == {
        "SPK1": "SPK0"
    }


def test_openais_clients_are_refused_without_a_speaker_model(bare: Running) -> None:
    error = converse(bare, "/v1/realtime", update(spk=True), until="error")[-1]["error"]
    assert "--speaker-model" in error["message"] and error["param"] == "session.audio.input.transcription.spk"


def test_nobody_is_named_who_was_not_asked_for(server: Running) -> None:
    audio = append((5, 3.0), PAUSE)
    answers = converse(server, "/v1/realtime", update(), audio, CLEAR, until="input_audio_buffer.cleared")
    assert COMPLETED in [answer["type"] for answer in answers] and "speaker" not in json.dumps(answers)
