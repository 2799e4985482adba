"""Who speaks, through the server: over the fake model, whose voices are the loudness of the audio."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
import requests
import websockets
from openai.types.audio import TranscriptionDiarized

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.engine.server.requests_of_clients import FAKE_WAV
from tests.fake_model import fake_transcriber, samples, text_of
from tests.fake_voices import BROKEN, FakeVoices, GatedVoices
from twostage_asr.engine import transcribe_options
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.errors import HubError
from twostage_asr.engine.server.fields import HEADER

PATH = "/v1/audio/transcriptions"
TALK = encode(np.concatenate([samples(5, 4.0), samples(9, 4.0)]), 16_000, "WAV", "PCM_16")  # "clip" by 5, "9." by 9


def data_url(number: int, seconds: float) -> str:
    return (
        f"data:audio/wav;base64,{base64.b64encode(encode(samples(number, seconds), 16_000, 'WAV', 'PCM_16')).decode()}"
    )


@pytest.fixture(scope="module")
def client(faked: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{faked.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(server: Running, path: str = PATH, /, *, content: bytes = TALK, **fields: Any) -> requests.Response:
    return requests.post(server.http + path, files={"file": ("a.wav", content)}, data=fields, timeout=60)


def test_asr_labels_segments_and_words(faked: Running) -> None:
    answer = post(faked, "/asr", spk="true").json()
    assert [(s["text"], s["speaker"]) for s in answer["segments"]] == [("clip", "SPK0"), ("9.", "SPK1")]
    assert [word["speaker"] for segment in answer["segments"] for word in segment["words"]] == ["SPK0", "SPK1"]
    assert "speaker" not in json.dumps(post(faked, "/asr").json())


def test_the_answer_is_that_of_the_offline_run(faked: Running, tmp_path: Path) -> None:
    transcriber = fake_transcriber(tmp_path)
    audio = np.concatenate([samples(5, 4.0), samples(9, 4.0)])
    ((_, offline),) = transcriber.run(expand_inputs([audio]), transcribe_options(speakers=True))
    transcriber.close()
    answer = post(faked, "/asr", spk="true").json()
    found = [(s["start"], s["end"], s["text"], s["speaker"]) for s in answer["segments"]]
    assert found == [(s.start, s.end, s.text, s.speaker) for s in offline.segments]


def test_a_given_number_of_speakers_is_obeyed(faked: Running) -> None:
    segments = post(faked, "/asr", spk="true", num_speakers="1").json()["segments"]
    assert {segment["speaker"] for segment in segments} == {"SPK0"}


def test_diarized_json_is_openais(client: openai.OpenAI) -> None:
    done = client.audio.transcriptions.create(model="x", file=("a.wav", TALK), response_format="diarized_json")
    assert isinstance(done, TranscriptionDiarized)
    assert (done.task, done.text, done.duration) == ("transcribe", text_of(9), 8.0)
    assert [(s.type, s.text, s.speaker, s.start, s.end) for s in done.segments] == [
        ("transcript.text.segment", "clip", "A", 0.0, 4.0),
        ("transcript.text.segment", "9.", "B", 4.0, 8.0),
    ]
    assert len({segment.id for segment in done.segments}) == 2
    assert done.usage is not None and done.usage.type == "duration" and done.usage.seconds == 8


def test_known_speakers_have_their_names(client: openai.OpenAI) -> None:
    done = client.audio.transcriptions.create(
        model="x",
        file=("a.wav", TALK),
        response_format="diarized_json",
        known_speaker_names=["A", "the agent"],  # OpenAI's letter for the first unknown voice is a name here
        known_speaker_references=[data_url(30, 2.0), data_url(9, 10.0)],
    )
    assert isinstance(done, TranscriptionDiarized)
    assert [segment.speaker for segment in done.segments] == ["B", "the agent"]


def test_streamed_segments_come_before_the_end(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model="x", file=("a.wav", TALK), response_format="diarized_json", stream=True
    )
    *deltas, first, second, done = list(stream)
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == text_of(9)
    assert first.type == second.type == "transcript.text.segment"
    assert [(first.text, first.speaker), (second.text, second.speaker)] == [("clip", "A"), ("9.", "B")]
    assert done.type == "transcript.text.done" and done.text == text_of(9)


@pytest.mark.parametrize("field", ["spk", "diarize"])
def test_verbose_json_and_subtitles_name_the_speakers(faked: Running, field: str) -> None:
    verbose = post(faked, response_format="verbose_json", **{field: "true"}).json()
    assert [segment["speaker"] for segment in verbose["segments"]] == ["SPK0", "SPK1"]
    assert [word["speaker"] for word in verbose["words"]] == ["SPK0", "SPK1"]
    assert "SPK1: 9." in post(faked, response_format="srt", **{field: "true"}).text
    assert "<v SPK1>9." in post(faked, response_format="vtt", **{field: "true"}).text
    assert "speaker" not in post(faked, response_format="verbose_json").text


def test_a_format_without_a_place_for_speakers_says_so(faked: Running) -> None:
    answer = post(faked, spk="true", num_speakers="2")
    assert (answer.json()["text"], answer.headers[HEADER]) == (text_of(9), "spk, num_speakers")
    assert post(faked, "/asr", num_speakers="2").headers[HEADER] == "num_speakers"


def test_clients_of_whisper_asr_webservice_ask_with_diarize(faked: Running) -> None:
    query = {"diarize": "true", "output": "txt", "max_speakers": "3"}
    answer = requests.post(f"{faked.http}/asr", params=query, files={"audio_file": ("a.wav", TALK)}, timeout=60)
    assert answer.text == "SPK0: clip\nSPK1: 9.\n" and HEADER not in answer.headers


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"known_speaker_names": ["a"]}, "each name needs one"),
        ({"known_speaker_names": ["a", "a"], "known_speaker_references": [data_url(9, 3.0)] * 2}, "must be different"),
        ({"known_speaker_names": ["a"], "known_speaker_references": [data_url(9, 1.9)]}, "1.90 s; each must have 2 to"),
        ({"known_speaker_names": ["a"], "known_speaker_references": [data_url(9, 10.1)]}, "10.10 s; each must have"),
        (
            {"known_speaker_names": ["a"], "known_speaker_references": ["data:audio/wav;base64,AAAA"]},
            "reference of 'a'",
        ),
        ({"known_speaker_names": ["a"], "known_speaker_references": ["/etc/passwd"]}, "must be a data:"),
        ({"known_speaker_names": ["a"], "known_speaker_references": ["http://127.0.0.1:1/a.wav"]}, "URLs is off"),
        ({"known_speaker_names": list("abcde")}, "at most 4"),
        ({"known_speaker_names": ["a"], "known_speaker_references": [data_url(9, 3.0)] * 5}, "at most 4"),
        ({"num_speakers": "2", "min_speakers": "1"}, "num_speakers"),
        ({"num_speakers": "0"}, "num_speakers"),
        ({"min_speakers": "3", "max_speakers": "2"}, "min_speakers"),
    ],
)
def test_what_cannot_be_is_refused(faked: Running, fields: dict[str, Any], said: str) -> None:
    lists = {f"{name}[]" if isinstance(value, list) else name: value for name, value in fields.items()}
    answer = post(faked, response_format="diarized_json", **lists)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_reference_may_be_as_large_as_a_studios(faked: Running) -> None:
    stereo = np.stack([samples(9, 30.0)] * 2)  # 30 s of 16 kHz are 10 s of 48 kHz
    reference = base64.b64encode(encode(stereo, 48_000, "WAV", "PCM_24")).decode()
    names = {"known_speaker_names[]": "Ana", "known_speaker_references[]": f"data:audio/wav;base64,{reference}"}
    answer = post(faked, response_format="diarized_json", **names)
    assert answer.status_code == 200, answer.text


def test_a_voice_that_cannot_be_heard_is_a_warning(faked: Running) -> None:
    content = encode(samples(BROKEN, 3.0), 16_000, "WAV", "PCM_16")
    answer = post(faked, "/asr", content=content, spk="true").json()
    assert [warning["code"] for warning in answer["warnings"]] == ["no_speakers"]
    assert answer["text"] == text_of(BROKEN)


def start(directory: Path, speakers: Any, **settings: Any) -> Any:
    transcriber = fake_transcriber(directory, speakers=speakers)
    return running(SimpleNamespace(transcriber=transcriber), **settings)


class Missing:
    """A speaker model that no hub has."""

    def __init__(self) -> None:
        self.asked = 0

    def get(self) -> FakeVoices:
        self.asked += 1
        raise HubError("pip install something")


def test_without_a_model_the_answer_says_what_to_do(tmp_path: Path) -> None:
    missing = Missing()
    with start(tmp_path, missing) as server:
        refused = post(server, PATH, response_format="diarized_json")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "unsupported_value", "response_format")
        answer = post(server, "/asr", spk="1").json()
        (warning,) = answer["warnings"]
        assert (answer["text"], warning["code"]) == (text_of(9), "no_speakers")
        for message in (error["message"], warning["message"]):
            assert "--speaker-model" in message and "pip install something" in message
        assert post(server).json()["text"] == text_of(9)
    assert missing.asked == 1  # the hub is not asked again for each request


def test_a_slow_speaker_model_delays_nobody_else(tmp_path: Path) -> None:
    held = GatedVoices()
    with start(tmp_path, held) as server:
        answers: list[requests.Response] = []
        asking = threading.Thread(target=lambda: answers.append(post(server, "/asr", spk="true")))
        asking.start()
        assert held.begun.wait(60)
        assert post(server, content=FAKE_WAV).json()["text"] == text_of(7)
        assert not answers
        held.free.set()
        asking.join(60)
    assert [segment["speaker"] for segment in answers[0].json()["segments"]] == ["SPK0", "SPK1"]


def test_the_websocket_for_recordings_numbers_the_speakers(tmp_path: Path) -> None:
    async def session(server: Running) -> list[dict[str, Any]]:
        async with websockets.connect(f"{server.ws}/ws") as socket:
            await socket.send("START")
            await socket.recv()
            await socket.send(TALK[44:])
            await socket.send("STOP")
            sentences: list[dict[str, Any]] = json.loads(await socket.recv())["sentences"]
            return sentences

    with start(tmp_path, FakeVoices(), names_speakers=True) as server:
        assert [(s["text"], s["spk"]) for s in asyncio.run(session(server))] == [("clip", 0), ("9.", 1)]
        server.recognizer.settings = replace(server.recognizer.settings, names_speakers=False)
        assert ["spk" in sentence for sentence in asyncio.run(session(server))] == [False]
