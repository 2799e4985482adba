"""What a server refuses, before it has worked for it, and with which words."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import pcm16, plain, wav
from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import AutoModelVLLM, ConfigError
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.server.settings import ServerSettings

PATH = "/v1/audio/transcriptions"


def post(server: Running, content: bytes, **changes: Any) -> requests.Response:
    return requests.post(server.http + PATH, files={"file": ("a.wav", content)}, timeout=60, **changes)


@pytest.fixture(scope="module")
def content(clips: list[Clip]) -> bytes:
    return wav(plain(clips)[0])


def test_keys(start: Callable[..., Any], content: bytes) -> None:
    with start(api_keys=("first", "second")) as server:
        for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}):
            refused = post(server, content, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        for key in ("first", "second"):
            assert post(server, content, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert requests.get(f"{server.http}/ready", timeout=60).status_code == 200
        assert requests.get(f"{server.http}/metrics", timeout=60).status_code == 401
        assert (
            requests.get(f"{server.http}/nowhere/7", headers={"Authorization": "Bearer first"}, timeout=60).status_code
            == 404
        )
        metrics = requests.get(f"{server.http}/metrics", headers={"Authorization": "Bearer first"}, timeout=60).text
        assert f'twostage_requests_total{{path="{PATH}",status="401"}} 3.0' in metrics
        assert 'twostage_requests_total{path="unknown",status="404"} 1.0' in metrics
        assert "twostage_encode_batch_clips_count 2.0" in metrics

        async def connect(**options: Any) -> str | None:
            async with websockets.connect(server.ws, **options) as socket:
                return socket.subprotocol

        with pytest.raises(websockets.InvalidStatus) as refused_socket:
            asyncio.run(connect())
        assert refused_socket.value.response.status_code == 401
        asyncio.run(connect(additional_headers={"Authorization": "Bearer first"}))
        offered = ["realtime", "openai-insecure-api-key.second"]
        assert asyncio.run(connect(subprotocols=offered)) == "realtime"


def test_sizes_durations_and_rates(start: Callable[..., Any], clips: list[Clip]) -> None:
    with start(max_body_bytes=400_000, max_json_bytes=100_000, max_audio_s=5.0, min_sample_rate=8_000) as server:
        assert post(server, wav(plain(clips)[0])).status_code == 200
        large = post(server, bytes(500_000))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        body = {"messages": [{"role": "user", "content": "x" * 150_000}]}
        large = requests.post(f"{server.http}/v1/chat/completions", json=body, timeout=60)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        silence = np.zeros(16_000 * 60, np.float32)
        long = post(server, encode(silence, 16_000, "FLAC", "PCM_16"))
        assert (long.status_code, long.json()["error"]["code"]) == (413, "audio_too_long")
        slow = post(server, encode(silence[:8_000], 4_000, "WAV", "PCM_16"))
        assert (slow.status_code, "allowed are 8,000 to" in slow.json()["error"]["message"]) == (400, True)


def test_a_body_of_unknown_length_is_measured_while_it_is_read(start: Callable[..., Any]) -> None:
    with start(max_body_bytes=100_000) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        headers = {"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked"}
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        connection.putrequest("POST", PATH)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        for piece in (head, *[bytes(20_000)] * 6):
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        answer = connection.getresponse()  # without the end of the body
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, "body_too_large")


def test_a_slow_request_is_ended(start: Callable[..., Any]) -> None:
    with start(request_timeout_s=0.5) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"--x\r\n")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (408, "timeout")


def test_more_requests_than_allowed_are_told_when_to_come_again(start: Callable[..., Any], content: bytes) -> None:
    with start(max_requests=1) as server:
        uploading = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        uploading.putrequest("POST", PATH)
        uploading.putheader("Content-Type", "multipart/form-data; boundary=x")
        uploading.putheader("Content-Length", "1000")
        uploading.endheaders(b"--x\r\n")
        wait_until(lambda: server.recognizer.num_requests, "the upload is not seen")
        busy = post(server, content)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "server_busy")
        assert busy.headers["retry-after"] == "1"
        large = post(server, bytes(8_000_000))  # is told so, although it is still sending
        assert (large.status_code, large.json()["error"]["code"]) == (429, "server_busy")
        uploading.close()
        wait_until(lambda: not server.recognizer.num_requests, "the upload is not forgotten")
        assert post(server, content).status_code == 200


def test_a_full_queue_is_a_429_and_recovers(
    start: Callable[..., Any], vllm_model: AutoModelVLLM, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is encoded until somebody has been refused."""
    acoustic, is_full = vllm_model.transcriber.acoustic, threading.Event()
    encode = acoustic.encode

    def encode_late(*waveforms: Any, **options: Any) -> EncodedBatch:
        assert is_full.wait(60)
        return encode(*waveforms, **options)

    monkeypatch.setattr(acoustic, "encode", encode_late)
    with start(max_waiting=2) as server, ThreadPoolExecutor(60) as callers:
        answers = [callers.submit(post, server, content) for _ in range(60)]
        refused = next(answer for answer in as_completed(answers))
        is_full.set()
        assert refused.result().status_code == 429
        assert {answer.result().status_code for answer in answers} == {200, 429}
        assert post(server, content).status_code == 200


def test_pages_from_elsewhere_may_not_connect(start: Callable[..., Any]) -> None:
    async def connect(server: Running, origin: str) -> None:
        async with websockets.connect(server.ws, origin=origin) as socket:
            await socket.send("START")
            assert json.loads(await socket.recv()) == {"event": "started"}

    with start(cors_origins=("https://friend.example",)) as server:
        for origin in ("https://friend.example", server.http):
            asyncio.run(connect(server, origin))
        for origin in ("https://evil.example", "null", "file://"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                asyncio.run(connect(server, origin))
            assert refused.value.response.status_code == 403
        allowed = requests.get(f"{server.http}/health", headers={"Origin": "https://friend.example"}, timeout=60)
        assert allowed.headers["access-control-allow-origin"] == "https://friend.example"
        other = requests.get(f"{server.http}/health", headers={"Origin": "https://evil.example"}, timeout=60)
        assert "access-control-allow-origin" not in other.headers


async def end_of(server: Running, *messages: str | bytes) -> tuple[int, str]:
    """The close code and reason that these messages lead to."""
    wait_until(lambda: not server.recognizer.num_sessions, "the session before goes on")
    async with websockets.connect(server.ws) as socket:
        try:
            for message in messages:
                await socket.send(message)
            while True:
                await asyncio.wait_for(socket.recv(), 60)
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code, closed.rcvd.reason


def test_sessions_end_with_a_code_and_a_reason(start: Callable[..., Any]) -> None:
    with start(max_message_bytes=100_000, max_audio_s=2.0, max_sessions=1) as server:
        assert asyncio.run(end_of(server, bytes(100_001)))[0] == 1009
        assert asyncio.run(end_of(server, "START", bytes(32_000), bytes(40_000))) == (1009, "more than 2 s of audio")
        faster = ['{"mode": "offline"}', bytes(32_000), '{"audio_fs": 384000}', bytes(40_000)]  # says so too late
        assert asyncio.run(end_of(server, *faster)) == (1009, "more than 2 s of audio")

        async def two() -> int:
            async with websockets.connect(server.ws):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await websockets.connect(server.ws)
                return refused.value.response.status_code

        assert asyncio.run(two()) == 429


def test_a_session_without_messages_ends(start: Callable[..., Any]) -> None:
    with start(session_idle_s=0.5) as server:
        assert asyncio.run(end_of(server, "START")) == (1008, "no message for 0.5 s")


def test_who_waits_longer_for_an_answer_is_not_idle(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit leaves the client time for its messages, however busy the machine is."""

    async def patient() -> list[dict[str, Any]]:
        async with websockets.connect(f"{server.ws}/ws") as socket:
            for message in ("START", bytes(32_000), "STOP"):
                await socket.send(message)
            return [json.loads(await asyncio.wait_for(socket.recv(), 60)) for _ in range(3)]

    with start(session_idle_s=3.0) as server:
        transcribe = server.recognizer.transcribe

        async def late(*arguments: Any) -> Any:
            await asyncio.sleep(3.5)
            return await transcribe(*arguments)

        monkeypatch.setattr(server.recognizer, "transcribe", late)
        assert asyncio.run(patient())[-1] == {"event": "stopped"}
        wait_until(lambda: not server.recognizer.num_sessions, "a session that its client has closed goes on")


@pytest.fixture
def audio_host(clips: list[Clip]) -> Iterator[int]:
    """A host that has a clip at /clip.wav and sends everybody else on to another host."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/clip.wav":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(wav(plain(clips)[0]))
                return
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{host.server_port}/clip.wav")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    host = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield host.server_port
    host.shutdown()


def test_urls_are_fetched_from_allowed_hosts_alone(
    start: Callable[..., Any], audio_host: int, clips: list[Clip]
) -> None:
    def ask(server: Running, url: str) -> requests.Response:
        content = [{"type": "audio_url", "audio_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": content}]}
        return requests.post(f"{server.http}/v1/chat/completions", json=body, timeout=60)

    with start(url_hosts=("127.0.0.1",)) as server:
        heard = ask(server, f"http://127.0.0.1:{audio_host}/clip.wav")
        assert heard.json()["choices"][0]["message"]["content"] == plain(clips)[0]["text"]
        for url in (f"http://localhost:{audio_host}/clip.wav", f"http://127.0.0.1:{audio_host}/elsewhere"):
            refused = ask(server, url)
            assert (refused.status_code, "not fetched from this host" in refused.text) == (400, True)
        assert ask(server, "file:///etc/passwd").status_code == 400


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_requests must be positive, got 0"):
        ServerSettings(max_requests=0)
    with pytest.raises(ConfigError, match="API key 1 is empty"):
        ServerSettings(api_keys=("",))
    assert "secret" not in repr(ServerSettings(api_keys=("secret",)))


def test_live_audio_is_bounded_while_the_engine_is_busy(start: Callable[..., Any], clips: list[Clip]) -> None:
    """A client that sends faster than it is heard is slowed down, and still heard to the end."""
    clip = plain(clips)[0]
    pcm = pcm16(clip) + bytes(16_000 * 2 * 300)  # five minutes of silence after it
    with start() as server:

        async def flood() -> str:
            async with websockets.connect(server.ws) as socket:
                await socket.send("START")
                for first in range(0, len(pcm), 1 << 20):
                    await socket.send(pcm[first : first + (1 << 20)])
                await socket.send("STOP")
                while not (said := json.loads(await socket.recv())).get("is_final"):
                    pass
                return " ".join(sentence["text"] for sentence in said["sentences"])

        assert asyncio.run(flood()) == clip["text"]


@pytest.mark.parametrize("path", ["/", "/ws"])
def test_a_file_may_be_sent_as_fast_as_the_network_takes_it(server: Running, clips: list[Clip], path: str) -> None:
    """A minute in frames of 20 ms: three thousand messages in a fraction of a second."""
    clip = plain(clips)[0]
    pcm = pcm16(clip) + bytes(2 * 16_000 * 60)

    async def send_all() -> str:
        async with websockets.connect(f"{server.ws}{path}") as socket:
            await socket.send("START")
            for first in range(0, len(pcm), 640):
                await socket.send(pcm[first : first + 640])
            await socket.send("STOP")
            while not (said := json.loads(await asyncio.wait_for(socket.recv(), 60))).get("is_final"):
                pass
            return " ".join(sentence["text"] for sentence in said["sentences"])

    assert asyncio.run(send_all()) == clip["text"]
