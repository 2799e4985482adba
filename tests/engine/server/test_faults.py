"""What goes wrong around a server: every client gets an answer or a close code, and the next one its text."""

import asyncio
import base64
import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
import websockets
from starlette.websockets import WebSocketDisconnect

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.engine.server.requests_of_clients import pcm16, plain, wav, waveform
from tests.engine.streaming.scripted import LoudIsSpeech
from tests.fake_model import FakeAcoustic, fake_transcriber, number_of, samples, text_of
from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import Transcript
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.server.process import ENGINE_FAILED
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.sessions import CLIENT_GONE, end_after
from twostage_asr.engine.streaming import AsyncStreamingSession

PATH = "/v1/audio/transcriptions"
LONG_ANSWER = 3_000  # tokens
FIELDS = [b"file", b"model", b"language", b"temperature", b"stream", b"response_format", b"", b"\xff"]


def transcribe(server: Running, clip: Clip) -> str:
    answer = requests.post(f"{server.http}{PATH}", files={"file": ("a.wav", wav(clip))}, timeout=60)
    text: str = answer.json()["text"]
    return text


def malformed_upload(generator: random.Random, good: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and headers, wrong in one of many ways."""
    content = bytearray(good if generator.random() < 0.5 else generator.randbytes(generator.randrange(2_000)))
    for _ in range(generator.randrange(1, 40)):
        if content:
            content[generator.randrange(min(len(content), 200))] = generator.randrange(256)
    content = content[: generator.randrange(len(content) + 1)]
    name = generator.choice(FIELDS)
    head = b'--b\r\nContent-Disposition: form-data; name="' + name + b'"; filename="a.wav"\r\n\r\n'
    body = head + bytes(content) + generator.choice([b"\r\n--b--\r\n", b"\r\n--c--\r\n", b""])
    kind = generator.choice(["multipart/form-data; boundary=b", "multipart/form-data", "application/json", "", "a/b"])
    return body, {"Content-Type": kind}


def test_250_malformed_uploads(server: Running, clips: list[Clip]) -> None:
    clip, generator = plain(clips)[0], random.Random(7)
    paths = [PATH, "/asr", "/asr/predict", "/asr/stream-predict", "/v1/chat/completions"]
    with requests.Session() as http:
        for number in range(250):
            body, headers = malformed_upload(generator, wav(clip))
            answer = http.post(server.http + paths[number % len(paths)], data=body, headers=headers, timeout=60)
            assert answer.status_code == 200 or 400 <= answer.status_code < 500, (number, answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    assert transcribe(server, clip) == clip["text"]


def test_250_malformed_sessions(server: Running, clips: list[Clip]) -> None:
    generator = random.Random(7)
    commands: list[str | bytes] = ["START", "STOP", "LANGUAGE:zh", "LANGUAGE:Klingon", "HOTWORDS:,,", "", "\0", "NaN"]

    async def one(number: int) -> None:
        async with websockets.connect(server.ws + ("/" if number % 2 else "/ws")) as ws:
            for _ in range(generator.randrange(1, 8)):
                junk = generator.randbytes(generator.randrange(5_000))
                await ws.send(generator.choice([generator.choice(commands), junk]))
            await ws.send("this is no command")  # is answered, after all that came before it
            while "unknown command 'this is no command'" not in await asyncio.wait_for(ws.recv(decode=True), 60):
                pass

    async def all_of_them() -> None:
        for first in range(0, 250, 50):
            await asyncio.gather(*(one(first + place) for place in range(50)))

    asyncio.run(all_of_them())
    clip = plain(clips)[0]
    assert transcribe(server, clip) == clip["text"]
    wait_until(lambda: not server.recognizer.num_sessions, "sessions go on whose clients have gone")


def test_raw_garbage_on_the_socket(server: Running, clips: list[Clip]) -> None:
    generator = random.Random(7)
    upgrade = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    for head in (
        b"",
        b"POST /asr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n",
        upgrade + key,
        upgrade + b"\r\n",
    ):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
                raw.sendall(head + generator.randbytes(300))
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
    clip = plain(clips)[0]
    assert transcribe(server, clip) == clip["text"]


def write_for_long(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer takes LONG_ANSWER tokens: many seconds."""
    options = recognizer.options

    def longer(**asked: Any) -> TranscribeOptions:
        usual = options(**asked)
        params = replace(usual.params, max_new_tokens=LONG_ANSWER, ignore_eos=True)
        return replace(usual, params=params)

    monkeypatch.setattr(recognizer, "options", longer)


def test_a_client_that_goes_before_it_is_answered_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """Sending may fail before the end of the connection has been read."""
    end = end_after(WebSocketDisconnect(1006), is_client_gone=False)
    assert (end.code, end.reason) == (CLIENT_GONE, "")
    assert not caplog.records


def require_dropped(server: Running, asked: list[Future[Transcript]]) -> None:
    """Nothing is left of a client that has gone, and what the model wrote for it has not been written to its end."""

    def is_over() -> bool:
        return not (
            server.recognizer.service.num_jobs or server.recognizer.num_requests or server.recognizer.num_sessions
        )

    wait_until(is_over, "work goes on for a client that has gone")
    assert all(future.cancelled() for future in asked)
    asked.clear()


def test_a_client_that_vanishes_leaves_no_work(
    server: Running, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = plain(clips)[0]
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head + wav(clip) + b"\r\n--b--\r\n"
    request = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    sent = f"{request}Content-Length: {len(body)}\r\n\r\n".encode() + body
    being_read: Callable[[], int] = lambda: server.recognizer.num_requests  # noqa: E731
    asked: list[Future[Transcript]] = []
    submit = server.recognizer.service.submit

    def submit_and_tell(*arguments: Any, **options: Any) -> Future[Transcript]:
        asked.append(submit(*arguments, **options))
        return asked[-1]

    with monkeypatch.context() as slow:
        write_for_long(server.recognizer, slow)
        slow.setattr(server.recognizer.service, "submit", submit_and_tell)
        for part, has_begun in ((sent[: len(sent) // 2], being_read), (sent, lambda: asked)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
                raw.sendall(part)
                wait_until(has_begun, "the upload is not seen")
            require_dropped(server, asked)

        async def leave() -> None:
            ws = await websockets.connect(server.ws)
            await ws.send("START")
            await ws.send(pcm16(clip) * 4)
            while not asked:
                await asyncio.sleep(0.005)
            ws.transport.abort()

        asyncio.run(leave())
        require_dropped(server, asked)
    assert transcribe(server, clip) == clip["text"]


def test_a_full_disk_is_said_to_be_full(server: Running, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(SpooledTemporaryFile[bytes]):
        def rollover(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("starlette.formparsers.SpooledTemporaryFile", Full)
        content = encode(np.zeros(16_000 * 60, np.float32), 16_000, "WAV", "PCM_16")
        answer = requests.post(f"{server.http}/asr", files={"file": ("a.wav", content)}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert transcribe(server, plain(clips)[0]) == plain(clips)[0]["text"]


def test_a_dead_engine_ends_the_process_for_its_supervisor(engine_dirs: dict[str, Path], clips: list[Clip]) -> None:
    """The command itself: it serves, says that it cannot any more, and exits."""
    # A probe that asks less often than this one shall see /ready, too, which a busy machine makes of this one.
    program = "import sys; from twostage_asr.engine.server import process; from twostage_asr.__main__ import main\n"
    program += "process.FAILED_GRACE_S = 5.0; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--decoder-processes", "1"]
    command += ["--model", str(engine_dirs["low_frame_rate"]), "--dtype", "fp32"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log: list[str] = []
        try:
            for line in process.stderr:
                log.append(line)
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    break
            port = int(found[1])  # type: ignore[index]
            threading.Thread(target=lambda: log.extend(process.stderr), daemon=True).start()  # type: ignore[arg-type]
            url = f"http://127.0.0.1:{port}"
            clip = plain(clips)[0]
            answer = requests.post(url + PATH, files={"file": ("a.wav", wav(clip))}, timeout=60)
            assert answer.json()["text"] == clip["text"]
            seen = {requests.get(f"{url}/ready", timeout=60).status_code}
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            for child in children.stdout.split():
                if "decoder.worker" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(int(child), signal.SIGKILL)
            while process.poll() is None and seen != {200, 503}:
                try:
                    seen.add(requests.get(f"{url}/ready", timeout=60).status_code)
                except requests.ConnectionError:
                    break
                time.sleep(0.05)
            assert process.wait(60) == ENGINE_FAILED
            assert seen == {200, 503}
            lines = [json.loads(line) for line in log if line.startswith("{")]
            (request,) = [line for line in lines if line["message"] == "request" and line["path"] == PATH]
            assert (request["status"], request["audio_s"]) == (200, round(len(waveform(clip)) / 16_000, 2))
            assert not any(clip["text"] in line for line in log)
        finally:
            process.kill()


# --- on a model of rules


class FailsFor66(FakeAcoustic):
    """In encode, as if for want of something."""

    def encode(self, waveforms: Any, *, with_ctc: bool) -> Any:
        if 66 in map(number_of, waveforms):
            raise ValueError("not this one")
        return super().encode(waveforms, with_ctc=with_ctc)


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path_factory.mktemp("rules"), acoustic=FailsFor66()))
    with running(model) as server:
        yield server


def wav_of(number: int) -> bytes:
    return encode(samples(number), 16_000, "WAV", "PCM_16")


def require_alive(server: Running) -> None:
    answer = requests.post(f"{server.http}/asr", files={"file": ("a.wav", wav_of(7))}, timeout=60)
    assert (answer.status_code, answer.json()["text"]) == (200, text_of(7))
    assert requests.get(f"{server.http}/ready", timeout=60).status_code == 200


@pytest.mark.parametrize("field", ["hotwords", "prompt", "keywords[]", "language"])
def test_half_a_surrogate_pair_in_a_form_is_a_mistake_of_that_request(ruled: Running, field: str) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"\r\n'
    text = head + "Content-Type: text/plain; charset=unicode_escape\r\n\r\nab\\ud800\r\n"
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + wav_of(7)
    kind = {"Content-Type": "multipart/form-data; boundary=b; charset=unicode_escape"}
    body = text.encode() + file + b"\r\n--b--\r\n"
    answer = requests.post(ruled.http + PATH, data=body, headers=kind, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_value")
    assert "holds U+D800 at position 2" in error["message"]
    require_alive(ruled)


def test_half_a_surrogate_pair_in_json_is_a_mistake_of_that_request(ruled: Running) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav_of(7)).decode(), "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [audio, {"type": "text", "text": "\ud800"}]}]}
    answer = requests.post(f"{ruled.http}/v1/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    require_alive(ruled)


def talk(
    server: Running, path: str, *messages: str | bytes, until: Callable[[dict[str, Any]], bool] = lambda answer: False
) -> tuple[list[dict[str, Any]], int | None]:
    """What a session is answered until this holds for an answer, or until it ends, and its close code."""

    async def session() -> tuple[list[dict[str, Any]], int | None]:
        answers: list[dict[str, Any]] = []
        async with websockets.connect(server.ws + path) as ws:
            try:
                for message in messages:
                    await ws.send(message)
                while not answers or not until(answers[-1]):
                    answers.append(json.loads(await asyncio.wait_for(ws.recv(), 60)))
            except websockets.ConnectionClosed as closed:
                return answers, closed.rcvd and closed.rcvd.code
        return answers, None

    return asyncio.run(session())


def test_half_a_surrogate_pair_in_an_event_is_answered_and_the_session_goes_on(ruled: Running) -> None:
    audio = {"input": {"transcription": {"keywords": ["ab\ud800"]}}}
    update = {"type": "session.update", "session": {"type": "transcription", "audio": audio}}
    clear = {"type": "input_audio_buffer.clear", "event_id": "\udfff"}
    unknown = {"type": "no such event", "event_id": "\udfff"}
    events = (json.dumps(event) for event in (update, unknown, clear))
    answers, code = talk(
        ruled, "/v1/realtime", *events, until=lambda answer: answer["type"] == "input_audio_buffer.cleared"
    )
    assert [answer["type"] for answer in answers] == [
        "session.created", "error", "error", "input_audio_buffer.cleared"
    ]  # fmt: skip
    assert (answers[2]["error"]["event_id"], code) == ("\udfff", None)
    require_alive(ruled)


def pcm_of(*numbers: int) -> bytes:
    """Each clip, and a pause after it."""
    silence = np.zeros(3 * 16_000, np.float32)
    joined = np.concatenate([part for number in numbers for part in (samples(number), silence)])
    return (joined * 32768).astype("<i2").tobytes()


@pytest.fixture
def loud_is_speech(ruled: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruled.recognizer, "live", replace(ruled.recognizer.live, vad=LoudIsSpeech()))


@pytest.mark.usefixtures("loud_is_speech")
def test_a_segment_that_fails_is_told_and_the_session_goes_on(ruled: Running) -> None:
    audio = pcm_of(7, 66, 8)
    answers, _ = talk(ruled, "/", "START", audio, "STOP", until=lambda answer: answer.get("event") == "stopped")
    assert [sentence["text"] for sentence in answers[-2]["sentences"]] == [text_of(7), text_of(8)]
    (error,) = [answer for answer in answers if answer.get("event") == "error"]
    assert error["code"] == "segment_failed" and "not this one" in error["error"]
    require_alive(ruled)


@pytest.mark.usefixtures("loud_is_speech")
@pytest.mark.parametrize("dialect", ["OpenAI", "vLLM"])
def test_a_segment_that_fails_is_an_event_of_its_own(ruled: Running, dialect: str) -> None:
    update: dict[str, Any] = {"type": "session.update", "model": "m"}
    if dialect == "OpenAI":
        audio = {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}
        update = {"type": "session.update", "session": {"type": "transcription", "audio": audio}}
    append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm_of(7, 66, 8)).decode()}
    end = [{"type": "input_audio_buffer.commit", "final": True}] if dialect == "vLLM" else []
    answers, _ = talk(
        ruled,
        "/v1/realtime",
        *map(json.dumps, (update, append, *end)),
        until=lambda answer: answer["type"] == "transcription.done" or answer.get("transcript") == text_of(8),
    )
    transcription = "conversation.item.input_audio_transcription"
    texts = [answer["transcript"] for answer in answers if answer["type"] == f"{transcription}.completed"]
    kind = f"{transcription}.failed" if dialect == "OpenAI" else "error"
    (failed,) = [answer for answer in answers if answer["type"] == kind]
    assert failed["error"]["code"] == "segment_failed" and "not this one" in failed["error"]["message"]
    assert texts == ([text_of(7), text_of(8)] if dialect == "OpenAI" else [])
    require_alive(ruled)


@pytest.mark.parametrize("kind", [LookupError, RuntimeError])  # sending to a client that is gone raises the second
def test_whatever_a_session_raises_ends_it_alone_with_a_reason(
    ruled: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    async def push(self: AsyncStreamingSession, pcm: bytes) -> None:
        raise kind("a fault")

    with monkeypatch.context() as broken:
        broken.setattr(AsyncStreamingSession, "push", push)
        answers, code = talk(ruled, "/", "START", bytes(3200))
    assert (answers, code) == ([{"event": "started"}], 1011)
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert isinstance(logged.exc_info and logged.exc_info[1], kind)
    require_alive(ruled)


def test_no_seed_makes_the_ids_of_requests_come_again(ruled: Running) -> None:
    def seeded() -> str:
        random.seed(0)
        return requests.get(f"{ruled.http}/v1/models", timeout=60).headers["X-Request-ID"]

    assert seeded() != seeded()
