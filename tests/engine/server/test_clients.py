"""Clients of the ecosystem are taken as they are: every row of the table, and every parameter of OpenAI's SDK."""

import base64
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import requests
from openai.resources.audio.transcriptions import Transcriptions
from openai.resources.chat.completions import Completions

from tests.audio_clips import encode
from tests.engine.server.clients_table import CHAT, INPUT_AUDIO, ROWS, TRANSCRIPTIONS, Row, asking
from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import FAKE_BASE64, FAKE_WAV, transcribe_fake
from tests.fake_model import samples, text_of
from twostage_asr.engine.server.fields import HEADER
from twostage_asr.engine.server.whisper_asr import language_code

PAGE = Path(__file__).parents[3] / "demos/clients.md"
RAW = np.round(samples(7) * 32768).astype("<i2").tobytes() + b"\0"  # an odd byte, as cut streams have


@pytest.fixture(scope="module")
def client(faked: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="EMPTY", base_url=f"{faked.http}/v1", max_retries=0) as client:
        yield client


def chat(faked: Running, data: str) -> requests.Response:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return requests.post(faked.http + CHAT, json=asking(part), timeout=60)


def send(faked: Running, row: Row) -> requests.Response:
    if row.json is not None:
        body = json.dumps(row.json).replace("{wav}", FAKE_BASE64)
        return requests.post(faked.http + row.path, data=body, headers={"Content-Type": "application/json"}, timeout=60)
    content = RAW if row.is_raw else FAKE_WAV
    part = content if row.filename is None else (row.filename, content, row.content_type)
    files: Any = {row.part: part}
    return requests.post(faked.http + row.path, params=row.query, files=files, data=list(row.form), timeout=60)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.client} {row.path}")
def test_what_a_client_sends_is_taken(faked: Running, row: Row) -> None:
    answer = send(faked, row)
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
    raw = client.audio.transcriptions.with_raw_response.create(file=("a.wav", FAKE_WAV), model="m", **AUDIO_PARAMETERS)
    assert json.loads(raw.text)["text"] == text_of(7)
    assert raw.headers[HEADER] == "known_speaker_names, known_speaker_references, chunking_strategy"
    for name, value in AUDIO_PARAMETERS.items():
        alone: Any = client.audio.transcriptions.create(file=("a.wav", FAKE_WAV), model="m", **{name: value})
        assert alone.text == text_of(7), name


def test_every_parameter_of_a_chat_completion(client: openai.OpenAI) -> None:
    message: Any = asking({**INPUT_AUDIO, "input_audio": {"data": FAKE_BASE64, "format": "wav"}})["messages"]
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
    message: Any = asking({**INPUT_AUDIO, "input_audio": {"data": FAKE_BASE64, "format": "wav"}})["messages"]
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(messages=message, model="m", **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text_of(7)
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == len(text_of(7))


# vllm-project/vllm examples/online_serving/openai_transcription_client.py
def test_vllms_client(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"file": ("a.wav", FAKE_WAV), "model": client.models.list().data[0].id, "language": "en"}
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
    said: Any = client.audio.transcriptions.create(model="whisper-1", file=("part_0.mp3", FAKE_WAV), **asked)
    assert text_of(7) in (said if isinstance(said, str) else said.text)


# --- base64 in chat


@pytest.mark.parametrize(
    "data",
    [
        f"data:;base64,{FAKE_BASE64}",
        f"data:audio/wav,{FAKE_BASE64}",
        FAKE_BASE64.rstrip("="),
        base64.urlsafe_b64encode(FAKE_WAV).decode(),
        base64.encodebytes(FAKE_WAV).decode().replace("\n", "\r\n"),
    ],
    ids=["data URL", "data URL that hides it", "no padding", "URL-safe", "lines"],
)
def test_base64_of_every_kind(faked: Running, data: str) -> None:
    assert chat(faked, data).json()["choices"][0]["message"]["content"] == text_of(7)


def test_what_is_no_base64_is_said(faked: Running) -> None:
    answer = chat(faked, "@@@@")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_audio")


# --- other forms of the audio


def test_a_url_in_place_of_a_file(faked: Running) -> None:
    for path in (TRANSCRIPTIONS, "/asr"):
        taken = requests.post(faked.http + path, data={"url": f"data:;base64,{FAKE_BASE64}"}, timeout=60)
        assert taken.json()["text"] == text_of(7)
        for url in ("http://127.0.0.1/a.wav", "/etc/passwd", "file:///etc/passwd"):
            answer = requests.post(faked.http + path, data={"url": url}, timeout=60)
            assert answer.status_code == 400, url
    both = transcribe_fake(faked, url="http://127.0.0.1/a.wav")
    assert "one of file, url is needed, got file, url" in both.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["audio/wav", "application/x-www-form-urlencoded"])
def test_a_body_that_is_the_audio_itself_is_told_to_be_a_form(faked: Running, kind: str) -> None:
    answer = requests.post(faked.http + TRANSCRIPTIONS, data=FAKE_WAV, headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == 400 and "is the body a form" in answer.json()["error"]["message"]


def test_a_file_without_a_name_is_told_what_it_needs(faked: Running) -> None:
    answer = requests.post(faked.http + TRANSCRIPTIONS, files={"file": (None, FAKE_WAV)}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert "needs a filename" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/asr"])
def test_channels_are_split_and_named(faked: Running, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faked.recognizer, "_cutting", None)  # a VAD hears no speech in the fake's clips
    stereo = encode(np.stack([samples(7), samples(9)]), 16_000, "WAV", "PCM_16")
    form = {"channels": "split", "response_format": "verbose_json"}
    said = requests.post(faked.http + path, files={"file": ("a.wav", stereo)}, data=form, timeout=60).json()
    assert [(segment["channel"], segment["text"]) for segment in said["segments"]] == [(0, text_of(7)), (1, text_of(9))]
    assert {word["channel"] for word in said["segments"][1]["words"]} == {1}
    one = requests.post(faked.http + path, files={"file": ("a.wav", stereo)}, data={"channels": "1"}, timeout=60)
    assert one.json()["text"] == text_of(9)


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/asr"])
def test_a_damaged_file_is_salvaged_if_that_is_asked_for(faked: Running, path: str) -> None:
    cut = FAKE_WAV[: len(FAKE_WAV) * 7 // 10]
    refused, salvaged = (
        requests.post(faked.http + path, files={"file": ("a.wav", cut)}, data=form, timeout=60)
        for form in ({}, {"salvage": "true"})
    )
    assert refused.status_code == 400
    assert "missing_audio" in {warning["code"] for warning in salvaged.json()["warnings"]}


def test_readers_take_turns_by_client(faked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[object] = []
    read = faked.recognizer.read

    async def noted(*args: Any, **kwargs: Any) -> Any:
        clients.append(kwargs["client"])
        return await read(*args, **kwargs)

    monkeypatch.setattr(faked.recognizer, "read", noted)
    for row in ROWS:
        send(faked, row)
    assert clients == [None] * len(ROWS)  # this machine itself, which needs no turn


# --- languages, translation and outputs


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
def test_translation_is_refused(faked: Running, path: str, field: str) -> None:
    part = "audio_file" if path == "/asr" else "file"
    asked: Any = {"params": {"task": "translate"}} if path == "/asr" else {"data": {"translate": "true"}}
    answer = requests.post(faked.http + path, files={part: FAKE_WAV}, timeout=60, **asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_task", field)


@pytest.mark.parametrize("output", ["txt", "vtt", "srt", "tsv", "json"])
def test_outputs_of_whisper_asr_webservice(faked: Running, output: str) -> None:
    answer = requests.post(f"{faked.http}/asr", params={"output": output}, files={"audio_file": FAKE_WAV}, timeout=60)
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["Content-Disposition"].endswith(f"audio_file.{output}")
    assert text_of(7) in answer.text
    if output == "json":
        assert answer.json()["segments"][0]["words"] is None
        words = requests.post(
            f"{faked.http}/asr",
            params={"output": output, "word_timestamps": "true"},
            files={"audio_file": FAKE_WAV},
            timeout=60,
        ).json()["segments"][0]["words"]
        assert [word["text"] for word in words] == ["clip", "7"]
