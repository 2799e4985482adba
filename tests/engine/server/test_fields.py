"""Fields that are known are obeyed, others ignored and named; bodies that would hold up others are refused."""

import asyncio
import itertools
import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
import websockets

from tests.engine.server.clients_table import CHAT, INPUT_AUDIO, asking
from tests.engine.server.conftest import Running, running
from tests.engine.server.requests_of_clients import FAKE_BASE64, FAKE_WAV, transcribe_fake
from tests.engine.server.turns import short_turns
from tests.fake_model import fake_transcriber, text_of
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.fields import HEADER


def test_what_is_known_is_obeyed(faked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    options = faked.recognizer.options
    monkeypatch.setattr(faked.recognizer, "options", lambda **given: asked.append(given) or options(**given))
    transcribe_fake(faked, seed=5, top_p=0.5, temperature=0.25, repetition_penalty=1.5, prompt="what", language="zh")
    body = asking(
        {**INPUT_AUDIO, "input_audio": {"data": FAKE_BASE64}}, seed=5, top_p=0.5, max_tokens=9, max_completion_tokens=8
    )
    assert requests.post(faked.http + CHAT, json=body, timeout=60).status_code == 200
    common: dict[str, Any] = {"seed": 5, "top_p": 0.5, "language": None}
    known = {"seed", "top_p", "temperature", "repetition_penalty", "context", "language", "max_new_tokens"}
    form, chatted = [{name: value for name, value in given.items() if name in known} for given in asked]
    assert form == {**common, "temperature": 0.25, "repetition_penalty": 1.5, "context": "what", "language": "zh"}
    assert chatted == {**common, "temperature": 0, "repetition_penalty": 1, "context": "", "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("languages", "language"), [(["de", "zh"], "zh"), (["zh"], "zh"), (["en", "zh"], "unknown"), (["en", "de"], "en")]
)
def test_of_several_languages_the_only_known_one_is_asked_for(
    faked: Running, languages: list[str], language: str
) -> None:
    answer = transcribe_fake(faked, **{"languages[]": languages, "response_format": "verbose_json"})
    assert answer.json()["language"] == language


def test_a_second_file_is_refused_and_not_dropped(faked: Running) -> None:
    files = [("file", ("a.wav", FAKE_WAV)), ("file", ("b.wav", FAKE_WAV))]
    answer = requests.post(f"{faked.http}/v1/audio/transcriptions", files=files, timeout=60)
    assert answer.status_code == 400 and answer.json()["error"]["message"] == "one file is transcribed, got 2"


def test_none_of_the_languages_is_known(faked: Running) -> None:
    answer = transcribe_fake(faked, **{"languages[]": ["de", "fr"]})
    assert (answer.status_code, answer.json()["error"]["message"][:21]) == (400, "language 'de' is unkn")


@pytest.mark.parametrize("form", ['{"type": "server_vad"}', "auto"])
def test_chunking_strategy_as_text(faked: Running, form: str) -> None:
    answer = transcribe_fake(faked, chunking_strategy=form)
    assert answer.json()["text"] == text_of(7)
    assert answer.headers.get(HEADER) == (None if form == "auto" else "chunking_strategy")


def test_an_ignored_field_is_logged_once_and_named_safely(faked: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twostage_asr.requests")
    names = {"x\r\nSet-Cookie: a": "1", "ü" * 200: "1", **{f"field{i:02}": "1" for i in range(30)}}
    for _ in range(2):
        header = transcribe_fake(faked, **names).headers[HEADER]
    assert re.fullmatch(r"[\w.?\[\], -]{1,700}", header, re.ASCII) and header.endswith("field13, 16 more")
    logged = [record.fields["names"] for record in caplog.records if record.message == "fields ignored"]  # type: ignore[attr-defined]
    assert len(logged) == 1 and len(logged[0]) == 16
    assert all(re.fullmatch(r"[\w.?\[\]-]{1,43}", name, re.ASCII) for name in logged[0])


def test_strict_fields_are_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path))
    with running(model, strict_fields=True) as strict:
        assert transcribe_fake(strict).status_code == 200
        form = transcribe_fake(strict, hotword="x")
        query = transcribe_fake(strict, "/asr?hotword=x")
        body = requests.post(strict.http + CHAT, json=asking(INPUT_AUDIO, tools=[]), timeout=60)
        file, description = {"audio": ("a.wav", FAKE_WAV)}, {"json": '{"rate": 1}'}
        part = requests.post(f"{strict.http}/asr/predict", files=file, data=description, timeout=60)
    refused = (form, "hotword", "hotwords"), (query, "hotword", "spk"), (body, "tools", "seed")
    for answer, name, known in (*refused, (part, "rate", "sample_rate")):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", name)
        assert known in error["message"]


# --- limits


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":[' + b",".join([b"{}"] * 1_500_000) + b"]}]}",
        json.dumps({"messages": [{"role": "user", "content": [{}] * 32}] * 64}).encode(),
        json.dumps({"messages": [{"role": "user", "content": "x"}] * 1_000}).encode(),
        json.dumps({"k" * 100_000: 1, "messages": [{"role": "x" * 100_000}]}).encode(),
    ],
    ids=["objects", "parts", "messages", "long"],
)
def test_a_hostile_body_has_a_small_answer_soon(faked: Running, body: bytes) -> None:
    with short_turns(faked, 1.0):
        answer = requests.post(faked.http + CHAT, data=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code in (400, 413)
    assert len(answer.content) < 4_096


HOSTILE = {
    "objects": b'{"messages":[{"role":"user","content":[' + b",".join([b"{}"] * 1_500_000) + b"]}]}",
    "keys": b"{" + b",".join(b'"k%d":1' % number for number in range(500_000)) + b"}",
    "as many keys as are taken": b"{" + b",".join(b'"k%d":1' % number for number in range(9_999)) + b"}",
    "escapes": b'{"messages":"' + b"\\/" * 600_000 + b'"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_does_not_hold_up_others(faked: Running, body: bytes) -> None:
    """Measured as processor time of the event loop's thread between two turns, whatever else the machine does.

    A collection of garbage may come into any of them, and not into all three attempts.
    """

    async def longest_turn() -> float:
        turns: list[float] = [time.thread_time()]

        async def tick() -> None:
            while True:
                await asyncio.sleep(0)
                turns.append(time.thread_time())

        ticking = asyncio.create_task(tick())
        transport = httpx.ASGITransport(create_app(faked.recognizer))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
            await http.post(CHAT, json={})  # what is imported and compiled once
            turns[:] = [time.thread_time()]
            await http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
            turns.append(time.thread_time())
        ticking.cancel()
        return max(after - before for before, after in itertools.pairwise(turns))

    assert min(asyncio.run(longest_turn()) for _ in range(3)) < 0.05


def test_a_session_update_of_very_many_keys_is_refused_and_the_session_goes_on(faked: Running) -> None:
    async def converse() -> list[dict[str, Any]]:
        async with websockets.connect(f"{faked.ws}/v1/realtime", max_size=None, compression=None) as ws:
            answers = [json.loads(await ws.recv())]
            for num_keys in (500_000, 5_000, 1):
                keys = ",".join([f'"key{number}":1' for number in range(num_keys)])
                await ws.send('{"type":"session.update","session":{' + keys + "}}")
                answers.append(json.loads(await ws.recv()))
                if answers[-1]["type"] == "session.updated":
                    answers.append(json.loads(await ws.recv()))
            return answers

    answers = asyncio.run(asyncio.wait_for(converse(), 60))
    assert [answer["type"] for answer in answers] == ["session.created", "error", *["session.updated", "error"] * 2]
    assert "500,002 values" in answers[1]["error"]["message"]
    assert answers[3]["error"]["message"].endswith("session.key15, 4984 more")
    assert answers[5]["error"]["param"] == "session.key0"
