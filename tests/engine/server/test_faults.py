"""What goes wrong around a server: every client gets an answer or a close code, and the next one its text."""

import asyncio
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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import pcm16, plain, wait_until, wav, waveform
from tests.pipeline import Clip
from twostage_asr.engine.server.process import ENGINE_FAILED
from twostage_asr.engine.server.speech import Speech
from twostage_asr.engine.transcriber import TranscribeOptions

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
            try:
                for _ in range(generator.randrange(1, 8)):
                    junk = generator.randbytes(generator.randrange(5_000))
                    await ws.send(generator.choice([generator.choice(commands), junk]))
                await ws.send("this is no command")
                while True:
                    await asyncio.wait_for(ws.recv(), 20)
            except websockets.ConnectionClosed as closed:
                assert closed.rcvd is not None
                assert closed.rcvd.code in (1007, 1008, 1009) and closed.rcvd.reason, (number, closed)

    async def all_of_them() -> None:
        for first in range(0, 250, 50):
            await asyncio.gather(*(one(first + place) for place in range(50)))

    asyncio.run(all_of_them())
    clip = plain(clips)[0]
    assert transcribe(server, clip) == clip["text"]
    assert server.speech.num_sessions == 0


def test_raw_garbage_on_the_socket(server: Running, clips: list[Clip]) -> None:
    generator = random.Random(7)
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    for head in (b"", b"POST /asr HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", upgrade + key, upgrade + b"\r\n"):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
                raw.sendall(head + generator.randbytes(300))
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
    clip = plain(clips)[0]
    assert transcribe(server, clip) == clip["text"]


def write_for_long(speech: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer takes LONG_ANSWER tokens: many seconds."""
    options = speech.options

    def longer(**asked: Any) -> TranscribeOptions:
        usual = options(**asked)
        params = replace(usual.params, max_new_tokens=LONG_ANSWER, ignore_eos=True)
        return replace(usual, params=params)

    monkeypatch.setattr(speech, "options", longer)


def require_nothing_left(server: Running) -> None:
    def is_over() -> bool:
        return not (server.speech.service.num_jobs or server.speech.num_requests or server.speech.num_sessions)

    wait_until(is_over, "work goes on for a client that has gone", seconds=2.0)


def test_a_client_that_vanishes_leaves_no_work(
    server: Running, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = plain(clips)[0]
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head + wav(clip) + b"\r\n--b--\r\n"
    request = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    sent = f"{request}Content-Length: {len(body)}\r\n\r\n".encode() + body
    being_read: Callable[[], int] = lambda: server.speech.num_requests  # noqa: E731
    being_decoded: Callable[[], int] = lambda: server.speech.service.num_jobs  # noqa: E731
    with monkeypatch.context() as slow:
        write_for_long(server.speech, slow)
        for part, has_begun in ((sent[: len(sent) // 2], being_read), (sent, being_decoded)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
                raw.sendall(part)
                wait_until(has_begun, "the upload is not seen")
            require_nothing_left(server)

        async def leave() -> None:
            ws = await websockets.connect(server.ws)
            await ws.send("START")
            await ws.send(pcm16(clip) * 4)
            while not server.speech.service.num_jobs:
                await asyncio.sleep(0.005)
            ws.transport.abort()

        asyncio.run(leave())
        require_nothing_left(server)
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
    command = [sys.executable, "-m", "twostage_asr", "serve", "--port", "0", "--decoder-processes", "1"]
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
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            for child in children.stdout.split():
                if "decoder.worker" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(int(child), signal.SIGKILL)
            seen: set[int] = set()
            while process.poll() is None and len(log) < 1000:
                try:
                    seen.add(requests.get(f"{url}/ready", timeout=5).status_code)
                except requests.ConnectionError:
                    break
                time.sleep(0.05)
            assert process.wait(20) == ENGINE_FAILED
            assert seen == {200, 503}
            lines = [json.loads(line) for line in log if line.startswith("{")]
            (request,) = [line for line in lines if line["message"] == "request" and line["path"] == PATH]
            assert (request["status"], request["audio_s"]) == (200, round(len(waveform(clip)) / 16_000, 2))
            assert not any(clip["text"] in line for line in log)
        finally:
            process.kill()
