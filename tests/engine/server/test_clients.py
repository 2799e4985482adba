"""Clients of the ecosystem are taken as they are: every row of the table, and every parameter of OpenAI's SDK."""

import asyncio
import base64
import inspect
import itertools
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import requests
import websockets
from openai.resources.audio.transcriptions import Transcriptions
from openai.resources.chat.completions import Completions
from starlette.requests import HTTPConnection

from tests.audio_clips import encode
from tests.engine.server.clients_table import CHAT, INPUT_AUDIO, ROWS, TRANSCRIPTIONS, Row, asking
from tests.engine.server.conftest import Running, running
from tests.fake_model import fake_transcriber, samples, text_of
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.fields import HEADER, client_of
from twostage_asr.engine.server.whisper_asr import language_code

PAGE = Path(__file__).parents[3] / "demos/clients.md"
WAV = encode(samples(7), 16_000, "WAV", "PCM_16")
RAW = np.round(samples(7) * 32768).astype("<i2").tobytes() + b"\0"  # an odd byte, as cut streams have
BASE64 = base64.b64encode(WAV).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path_factory.mktemp("clients")))
    with running(model) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="EMPTY", base_url=f"{server.http}/v1", max_retries=0) as client:
        yield client


def transcribe(server: Running, path: str = TRANSCRIPTIONS, /, **fields: Any) -> requests.Response:
    return requests.post(server.http + path, files={"file": ("a.wav", WAV)}, data=fields, timeout=20)


def chat(server: Running, data: str) -> requests.Response:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return requests.post(server.http + CHAT, json=asking(part), timeout=20)


def send(server: Running, row: Row) -> requests.Response:
    if row.json is not None:
        body = json.dumps(row.json).replace("{wav}", BASE64)
        return requests.post(
            server.http + row.path, data=body, headers={"Content-Type": "application/json"}, timeout=20
        )
    content = RAW if row.is_raw else WAV
    part = content if row.filename is None else (row.filename, content, row.content_type)
    files: Any = {row.part: part}
    return requests.post(server.http + row.path, params=row.query, files=files, data=list(row.form), timeout=20)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.client} {row.path}")
def test_what_a_client_sends_is_taken(server: Running, row: Row) -> None:
    answer = send(server, row)
    assert answer.status_code == 200, answer.text
    assert answer.headers.get(HEADER, "") == ", ".join(row.ignored)
    match row.reads:
        case "text":
            assert answer.json()["text"] == text_of(7)
        case "verbose":
            said = answer.json()
            assert (said["text"], said["duration"], len(said["segments"])) == (text_of(7), 1.0, 1)
        case "chat":
            assert answer.json()["choices"][0]["message"]["content"] == text_of(7)
        case "subtitles":
            assert text_of(7) in answer.text and " --> " in answer.text
        case "plain":
            assert answer.text == f"{text_of(7)}\n"
        case "language":
            assert answer.json() == {"detected_language": "undetermined", "language_code": "und", "confidence": None}


def test_the_page_about_clients_names_those_of_the_table() -> None:
    named = re.findall(r"^\| ([^|]+?) \| `", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) == {row.client for row in ROWS} | {
        "OpenAI's SDK",
        "vLLM's client",
        "LangChain (OpenAIWhisperParser)",
    }


# --- OpenAI's SDK: a parameter that it gets one day is missing here, and fails

AUDIO_PARAMETERS: dict[str, Any] = {
    "chunking_strategy": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500},
    "include": ["logprobs"],
    "keywords": ["one", "two"],
    "known_speaker_names": ["agent", "customer"],
    "known_speaker_references": ["data:audio/wav;base64,AAAA", "data:audio/wav;base64,AAAA"],
    "language": "en",
    "languages": ["en", "zh"],
    "prompt": "numbers",
    "response_format": "json",
    "stream": False,
    "temperature": 0.5,
    "timestamp_granularities": ["word", "segment"],
}
CHAT_PARAMETERS: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "none",
    "functions": [{"name": "f", "parameters": {}}],
    "logit_bias": {"1": 1},
    "logprobs": True,
    "max_completion_tokens": 100,
    "max_tokens": 100,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "moderation": {"model": "omni-moderation-latest"},
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "x",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "text"},
    "safety_identifier": "x",
    "seed": 7,
    "service_tier": "auto",
    "stop": ["\n"],
    "store": False,
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "tool_choice": "none",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "top_logprobs": 2,
    "top_p": 0.9,
    "user": "x",
    "verbosity": "low",
    "web_search_options": {},
}
TRANSPORT = {"self", "file", "model", "messages", "extra_headers", "extra_query", "extra_body", "timeout"}


def test_the_tables_of_parameters_are_whole() -> None:
    assert set(inspect.signature(Transcriptions.create).parameters) - TRANSPORT == AUDIO_PARAMETERS.keys()
    assert set(inspect.signature(Completions.create).parameters) - TRANSPORT == CHAT_PARAMETERS.keys()


def test_every_parameter_of_a_transcription(client: openai.OpenAI) -> None:
    raw = client.audio.transcriptions.with_raw_response.create(file=("a.wav", WAV), model="m", **AUDIO_PARAMETERS)
    assert json.loads(raw.text)["text"] == text_of(7)
    assert raw.headers[HEADER] == "known_speaker_names, known_speaker_references, chunking_strategy"
    for name, value in AUDIO_PARAMETERS.items():
        alone: Any = client.audio.transcriptions.create(file=("a.wav", WAV), model="m", **{name: value})
        assert alone.text == text_of(7), name


def test_every_parameter_of_a_chat_completion(client: openai.OpenAI) -> None:
    message: Any = asking({**INPUT_AUDIO, "input_audio": {"data": BASE64, "format": "wav"}})["messages"]
    raw = client.chat.completions.with_raw_response.create(messages=message, model="m", **CHAT_PARAMETERS)
    said = raw.parse()
    assert said.choices[0].message.content == text_of(7)
    assert "metadata" in raw.headers[HEADER] and "seed" not in raw.headers[HEADER]
    assert said.usage is not None and said.usage.total_tokens == said.usage.prompt_tokens + len(text_of(7))
    for name, value in CHAT_PARAMETERS.items():
        alone: Any = client.chat.completions.create(messages=message, model="m", **{name: value})
        if name != "stream":
            assert alone.choices[0].message.content == text_of(7), name


def test_a_chunk_with_the_usage_ends_a_stream(client: openai.OpenAI) -> None:
    message: Any = asking({**INPUT_AUDIO, "input_audio": {"data": BASE64, "format": "wav"}})["messages"]
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(messages=message, model="m", **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text_of(7)
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == len(text_of(7))


# vllm-project/vllm examples/online_serving/openai_transcription_client.py
def test_vllms_client(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"file": ("a.wav", WAV), "model": client.models.list().data[0].id, "language": "en"}
    extra = {"seed": 4419, "repetition_penalty": 1.3}
    said: Any = client.audio.transcriptions.create(**asked, temperature=0.0, response_format="json", extra_body=extra)
    assert said.text == text_of(7)
    text, extra = "", {"seed": 420, "top_p": 0.6}
    for chunk in client.audio.transcriptions.create(**asked, stream=True, extra_body=extra):
        if chunk.choices:  # type: ignore[union-attr]
            text += chunk.choices[0].get("delta", {}).get("content")  # type: ignore[union-attr]
    assert text == text_of(7)


# langchain-ai/langchain libs/community/langchain_community/document_loaders/parsers/audio.py: parts of at most 20
# minutes as MP3, in a BytesIO with a name; what is not set is left out
@pytest.mark.parametrize("response_format", [None, "json", "text", "srt", "vtt", "verbose_json"])
def test_langchains_parser(client: openai.OpenAI, response_format: str | None) -> None:
    asked: dict[str, Any] = {} if response_format is None else {"response_format": response_format}
    said: Any = client.audio.transcriptions.create(model="whisper-1", file=("part_0.mp3", WAV), **asked)
    assert text_of(7) in (said if isinstance(said, str) else said.text)


# --- fields


def test_what_is_known_is_obeyed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    options = server.speech.options
    monkeypatch.setattr(server.speech, "options", lambda **given: asked.append(given) or options(**given))
    transcribe(server, seed=5, top_p=0.5, temperature=0.25, repetition_penalty=1.5, prompt="what", language="zh")
    body = asking(
        {**INPUT_AUDIO, "input_audio": {"data": BASE64}}, seed=5, top_p=0.5, max_tokens=9, max_completion_tokens=8
    )
    assert requests.post(server.http + CHAT, json=body, timeout=20).status_code == 200
    common: dict[str, Any] = {"seed": 5, "top_p": 0.5, "language": None}
    known = {"seed", "top_p", "temperature", "repetition_penalty", "context", "language", "max_new_tokens"}
    form, chatted = [{name: value for name, value in given.items() if name in known} for given in asked]
    assert form == {**common, "temperature": 0.25, "repetition_penalty": 1.5, "context": "what", "language": "zh"}
    assert chatted == {**common, "temperature": 0, "repetition_penalty": 1, "context": "", "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("languages", "language"), [(["de", "zh"], "zh"), (["zh"], "zh"), (["en", "zh"], "unknown"), (["en", "de"], "en")]
)
def test_of_several_languages_the_only_known_one_is_asked_for(
    server: Running, languages: list[str], language: str
) -> None:
    answer = transcribe(server, **{"languages[]": languages, "response_format": "verbose_json"})
    assert answer.json()["language"] == language


def test_none_of_the_languages_is_known(server: Running) -> None:
    answer = transcribe(server, **{"languages[]": ["de", "fr"]})
    assert (answer.status_code, answer.json()["error"]["message"][:21]) == (400, "language 'de' is unkn")


@pytest.mark.parametrize("form", ['{"type": "server_vad"}', "auto"])
def test_chunking_strategy_as_text(server: Running, form: str) -> None:
    answer = transcribe(server, chunking_strategy=form)
    assert answer.json()["text"] == text_of(7)
    assert answer.headers.get(HEADER) == (None if form == "auto" else "chunking_strategy")


def test_an_ignored_field_is_logged_once_and_named_safely(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twostage_asr.requests")
    names = {"x\r\nSet-Cookie: a": "1", "ü" * 200: "1", **{f"field{i:02}": "1" for i in range(30)}}
    for _ in range(2):
        header = transcribe(server, **names).headers[HEADER]
    assert re.fullmatch(r"[\w.?\[\], -]{1,700}", header, re.ASCII) and header.endswith("field13, 16 more")
    logged = [record.fields["names"] for record in caplog.records if record.message == "fields ignored"]  # type: ignore[attr-defined]
    assert len(logged) == 1 and len(logged[0]) == 16
    assert all(re.fullmatch(r"[\w.?\[\]-]{1,43}", name, re.ASCII) for name in logged[0])


def test_strict_fields_are_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path))
    with running(model, strict_fields=True) as strict:
        assert transcribe(strict).status_code == 200
        form = transcribe(strict, hotword="x")
        query = transcribe(strict, "/asr?hotword=x")
        body = requests.post(strict.http + CHAT, json=asking(INPUT_AUDIO, tools=[]), timeout=20)
    for answer, name, known in ((form, "hotword", "hotwords"), (query, "hotword", "spk"), (body, "tools", "seed")):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", name)
        assert known in error["message"]


# --- base64 in chat


@pytest.mark.parametrize(
    "data",
    [
        f"data:;base64,{BASE64}",
        f"data:audio/wav,{BASE64}",
        BASE64.rstrip("="),
        base64.urlsafe_b64encode(WAV).decode(),
        base64.encodebytes(WAV).decode().replace("\n", "\r\n"),
    ],
    ids=["data URL", "data URL that hides it", "no padding", "URL-safe", "lines"],
)
def test_base64_of_every_kind(server: Running, data: str) -> None:
    assert chat(server, data).json()["choices"][0]["message"]["content"] == text_of(7)


def test_what_is_no_base64_is_said(server: Running) -> None:
    answer = chat(server, "@@@@")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_audio")


# --- other forms of the audio


def test_a_url_in_place_of_a_file(server: Running) -> None:
    for path in (TRANSCRIPTIONS, "/asr"):
        taken = requests.post(server.http + path, data={"url": f"data:;base64,{BASE64}"}, timeout=20)
        assert taken.json()["text"] == text_of(7)
        for url in ("http://127.0.0.1/a.wav", "/etc/passwd", "file:///etc/passwd"):
            answer = requests.post(server.http + path, data={"url": url}, timeout=20)
            assert answer.status_code == 400, url
    both = transcribe(server, url="http://127.0.0.1/a.wav")
    assert "one of file, url is needed, got file, url" in both.json()["error"]["message"]


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/asr"])
def test_channels_are_split_and_named(server: Running, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.speech, "_cutting", None)  # a VAD hears no speech in the fake's clips
    stereo = encode(np.stack([samples(7), samples(9)]), 16_000, "WAV", "PCM_16")
    form = {"channels": "split", "response_format": "verbose_json"}
    said = requests.post(server.http + path, files={"file": ("a.wav", stereo)}, data=form, timeout=20).json()
    assert [(segment["channel"], segment["text"]) for segment in said["segments"]] == [(0, text_of(7)), (1, text_of(9))]
    assert {word["channel"] for word in said["segments"][1]["words"]} == {1}
    one = requests.post(server.http + path, files={"file": ("a.wav", stereo)}, data={"channels": "1"}, timeout=20)
    assert one.json()["text"] == text_of(9)


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/asr"])
def test_a_damaged_file_is_salvaged_if_that_is_asked_for(server: Running, path: str) -> None:
    cut = WAV[: len(WAV) * 7 // 10]
    refused, salvaged = (
        requests.post(server.http + path, files={"file": ("a.wav", cut)}, data=form, timeout=20)
        for form in ({}, {"salvage": "true"})
    )
    assert refused.status_code == 400
    assert "missing_audio" in {warning["code"] for warning in salvaged.json()["warnings"]}


def test_readers_take_turns_by_client(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[object] = []
    read = server.speech.read

    async def noted(*args: Any, **kwargs: Any) -> Any:
        clients.append(kwargs.get("client"))
        return await read(*args, **kwargs)

    monkeypatch.setattr(server.speech, "read", noted)
    for row in ROWS:
        send(server, row)
    assert clients == ["127.0.0.1"] * len(ROWS)


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
def test_a_hostile_body_has_a_small_answer_soon(server: Running, body: bytes) -> None:
    answer = requests.post(server.http + CHAT, data=body, headers={"Content-Type": "application/json"}, timeout=20)
    assert answer.status_code == 400
    assert len(answer.content) < 4_096 and answer.elapsed.total_seconds() < 1


HOSTILE = {
    "objects": b'{"messages":[{"role":"user","content":[' + b",".join([b"{}"] * 1_500_000) + b"]}]}",
    "keys": b"{" + b",".join(b'"k%d":1' % number for number in range(500_000)) + b"}",
    "as many keys as are taken": b"{" + b",".join(b'"k%d":1' % number for number in range(9_999)) + b"}",
    "escapes": b'{"messages":"' + b"\\/" * 600_000 + b'"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_does_not_hold_up_others(server: Running, body: bytes) -> None:
    """Measured as processor time of the event loop's thread between two turns, whatever else the machine does."""

    async def longest_turn() -> float:
        turns: list[float] = [time.thread_time()]

        async def tick() -> None:
            while True:
                await asyncio.sleep(0)
                turns.append(time.thread_time())

        ticking = asyncio.create_task(tick())
        transport = httpx.ASGITransport(create_app(server.speech))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20) as http:
            await http.post(CHAT, json={})  # what is imported and compiled once
            turns.clear()
            await http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
        ticking.cancel()
        return max(after - before for before, after in itertools.pairwise(turns))

    assert asyncio.run(longest_turn()) < 0.05


def test_a_session_update_of_very_many_keys_is_refused_and_the_session_goes_on(server: Running) -> None:
    async def converse() -> list[dict[str, Any]]:
        async with websockets.connect(f"{server.ws}/v1/realtime", max_size=None, compression=None) as ws:
            answers = [json.loads(await ws.recv())]
            for num_keys in (500_000, 5_000, 1):
                session = {f"key{number}": 1 for number in range(num_keys)}
                await ws.send(json.dumps({"type": "session.update", "session": session}))
                answers.append(json.loads(await ws.recv()))
                if answers[-1]["type"] == "session.updated":
                    answers.append(json.loads(await ws.recv()))
            return answers

    answers = asyncio.run(asyncio.wait_for(converse(), 20))
    assert [answer["type"] for answer in answers] == ["session.created", "error", *["session.updated", "error"] * 2]
    assert "500,002 values or more" in answers[1]["error"]["message"]
    assert answers[3]["error"]["message"].endswith("session.key15, 4984 more")
    assert answers[5]["error"]["param"] == "session.key0"


# --- what is said of clients and languages


def test_a_client_is_its_key_or_else_its_address() -> None:
    scope: dict[str, Any] = {"type": "http", "client": ("10.0.0.1", 1), "state": {"client": "key of somebody"}}
    assert client_of(HTTPConnection(scope)) == "key of somebody"
    assert client_of(HTTPConnection(scope | {"state": {}})) == "10.0.0.1"
    assert client_of(HTTPConnection(scope | {"state": {}, "client": None})) is None


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("Chinese", "zh"),
        ("中文", "zh"),
        ("en", "en"),
        ("English,Chinese", "en"),
        (None, "und"),
        ("", "und"),
        ("X", "und"),
    ],
)
def test_the_code_of_what_a_model_calls_a_language(language: str | None, code: str) -> None:
    assert language_code(language) == code


@pytest.mark.parametrize(("path", "field"), [("/asr", "task"), ("/inference", "translate")])
def test_translation_is_refused(server: Running, path: str, field: str) -> None:
    part = "audio_file" if path == "/asr" else "file"
    asked: Any = {"params": {"task": "translate"}} if path == "/asr" else {"data": {"translate": "true"}}
    answer = requests.post(server.http + path, files={part: WAV}, timeout=20, **asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_task", field)


@pytest.mark.parametrize("output", ["txt", "vtt", "srt", "tsv", "json"])
def test_outputs_of_whisper_asr_webservice(server: Running, output: str) -> None:
    answer = requests.post(f"{server.http}/asr", params={"output": output}, files={"audio_file": WAV}, timeout=20)
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["Content-Disposition"].endswith(f"audio_file.{output}")
    assert text_of(7) in answer.text
    if output == "json":
        assert answer.json()["segments"][0]["words"] is None
        words = requests.post(
            f"{server.http}/asr",
            params={"output": output, "word_timestamps": "true"},
            files={"audio_file": WAV},
            timeout=20,
        ).json()["segments"][0]["words"]
        assert [word["text"] for word in words] == ["clip", "7"]
