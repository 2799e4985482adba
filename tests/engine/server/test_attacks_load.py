"""Attacks by load on a server with a model of rules: each is refused at its limit, and /health answers meanwhile."""

import asyncio
import base64
import contextlib
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.engine.server.turns import short_turns
from tests.fake_model import fake_transcriber, samples, text_of
from tests.processes import wait_until

TURN_S = 1.0  # of processor time: the longest that the event loop may be at work before it looks at others again

Start = Callable[..., contextlib.AbstractContextManager[Running]]


class Model:
    """What `running` asks of a model."""

    def __init__(self, transcriber: Any) -> None:
        self.transcriber = transcriber


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start a server with settings of its own."""
    model: Any = Model(fake_transcriber(tmp_path_factory.mktemp("rules")))
    return lambda **settings: running(model, **settings)


@contextlib.contextmanager
def alive(server: Running) -> Iterator[None]:
    """Ask for /health all the while, each time by a new connection, and again if that is dropped in a burst.

    How long the answer takes is measured as the work of the event loop's thread, whatever else the machine does.
    """
    is_over, answers = threading.Event(), list[bool]()

    def is_answered() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{server.http}/health", timeout=60).status_code == 200
        return False

    def ask() -> None:
        while not is_over.is_set():
            answers.append(is_answered())

    prober = threading.Thread(target=ask)
    with short_turns(server, TURN_S):
        prober.start()
        try:
            yield
            wait_until(lambda: any(answers), "nobody else is answered")
        finally:
            is_over.set()
            prober.join()


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def is_well(client: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        return b"200 OK" in client.recv(1000)
    return False


def is_ended(client: socket.socket) -> bool:
    """Whether the server has closed it, or an answer has come."""
    client.settimeout(0.0)
    try:
        return client.recv(1, socket.MSG_PEEK) in (b"", b"H")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "head", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"GET / HTTP/1.1\r\nHost: localhost\r\n"]
)
def test_a_head_without_end_is_cut_off(serve: Start, head: bytes) -> None:
    """8 MiB of a URL, of one header, or of many headers."""
    piece = b"a" * 1024 if head[-1:] != b"\n" else b"X-Header: value\r\n" * 64
    sent = 0
    closed = contextlib.suppress(ConnectionError)  # while this is still being sent
    with serve() as server, alive(server), connect(server) as client, closed:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # what is sent has mostly been received
        client.sendall(head)
        while sent < 8 << 20:
            client.sendall(piece)
            sent += len(piece)
    assert sent < 2 << 20


def test_a_long_head_that_comes_at_once_is_refused_as_well(serve: Start) -> None:
    headers = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    with serve() as server, connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert client.recv(100).startswith(b"HTTP/1.1 400")
        text = server.recognizer.metrics.text().decode()
    assert 'twostage_refused_connections_total{reason="not_http"} 1.0' in text


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_who_does_not_ask_in_time_is_ended(serve: Start, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent from the start, in the middle of a head, or dripping into the next one after an answer."""
    monkeypatch.setattr("twostage_asr.engine.server.connections.KEEP_ALIVE_S", 0.2)
    with serve(header_timeout_s=0.2) as server, contextlib.ExitStack() as sockets:
        client = sockets.enter_context(connect(server))
        client.sendall(sent)
        if sent.endswith(b"\r\n\r\n"):
            while not is_well(client):  # this process has asked too late, on a busy machine
                client = sockets.enter_context(connect(server))
                client.sendall(sent)
            client.sendall(b"GET /")
        with contextlib.suppress(ConnectionError):
            while client.recv(1000):
                pass
        wait_until(lambda: not server.server.server_state.connections, "the connection stays")


@pytest.mark.parametrize("limits", [{"max_connections": 20}, {"max_connections_per_address": 20}])
def test_idle_sockets_keep_nobody_out(serve: Start, limits: dict[str, int]) -> None:
    with serve(**limits) as server, contextlib.ExitStack() as sockets:
        idle = [sockets.enter_context(connect(server)) for _ in range(20)]
        with alive(server):
            idle += [sockets.enter_context(connect(server)) for _ in range(100)]
        wait_until(lambda: sum(map(is_ended, idle)) >= 100, "idle sockets stay open")
        assert not is_ended(idle[-1])
        assert len(server.server.server_state.connections) <= 20


def test_connections_at_work_are_never_ended_for_new_ones(serve: Start) -> None:
    kind = b"Content-Type: multipart/form-data; boundary=b"
    head = b"POST /asr HTTP/1.1\r\nHost: localhost\r\n" + kind + b"\r\nContent-Length: 9\r\n\r\n"
    with serve(max_connections=2) as server, connect(server) as first, connect(server) as second:
        for client in (first, second):
            client.sendall(head)
        wait_until(lambda: server.recognizer.num_requests == 2, "the uploads are not seen")
        with connect(server) as third:
            assert third.recv(100).startswith(b"HTTP/1.1 503")
        first.sendall(b"--b--\r\n\r\n")
        assert first.recv(100).startswith(b"HTTP/1.1 400")


UPLOAD = (
    b"POST /asr HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
)
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


def code_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_body_that_drips_is_ended(serve: Start) -> None:
    with serve(body_grace_s=0.2, min_body_rate=100_000) as server, connect(server) as client:
        started = time.monotonic()
        client.sendall(UPLOAD + FILE + bytes(50_000))
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - started > 0.5


def test_all_bodies_together_are_bounded(serve: Start) -> None:
    """Those of others count until their requests are over; then there is room again."""
    body = FILE + bytes(300_000) + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with serve(max_upload_bytes=1_000_000) as server:
        with connect(server) as client:
            client.sendall(UPLOAD + FILE + bytes(900_000))
            wait_until(lambda: server.recognizer.uploads.num_bytes > 900_000, "the upload is not seen")
            refused = requests.post(f"{server.http}/asr", data=body, headers=kind, timeout=60)
            assert code_of(refused) == (429, "server_busy") and refused.headers["Retry-After"] == "1"
        wait_until(lambda: not server.recognizer.uploads.num_bytes, "the upload still counts")
        answer = requests.post(f"{server.http}/asr", data=body, headers=kind, timeout=60)
        assert code_of(answer)[0] == 400  # zeros are no audio
        assert not server.recognizer.uploads.num_bytes


@pytest.mark.parametrize(
    ("path", "kind", "unit"),
    [("/v1/chat/completions", "application/json", "[],"), ("/asr", "application/x-www-form-urlencoded", "&")],
)
def test_what_is_costly_to_parse_is_not_parsed(serve: Start, path: str, kind: str, unit: str) -> None:
    body = f'{{"messages": [{unit * 300_000}1]}}'
    with serve() as server, alive(server):
        answer = requests.post(server.http + path, data=body, headers={"Content-Type": kind}, timeout=60)
        assert code_of(answer) == (413, "body_too_complex")


def test_the_session_that_keeps_most_is_ended_when_all_keep_too_much(serve: Start) -> None:
    async def keep_much() -> tuple[list[Any], int, list[Any]]:
        async with websockets.connect(f"{server.ws}/ws") as large, websockets.connect(f"{server.ws}/ws") as small:
            for session, num_bytes in ((large, 700_000), (small, 200_000)):
                await session.send("START")
                await session.send(bytes(num_bytes))
            await small.send("PING")
            said_to_small = [json.loads(await small.recv()) for _ in range(2)]
            await large.send(bytes(200_000))
            said_to_large = [json.loads(await large.recv()) for _ in range(2)]
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await large.recv()
            await small.send("PING")
            said_to_small.append(json.loads(await small.recv()))
            assert ended.value.rcvd is not None
            return said_to_large, ended.value.rcvd.code, said_to_small

    with serve(max_session_bytes=1_000_000) as server:
        said_to_large, code, said_to_small = asyncio.run(keep_much())
        assert (said_to_large[1]["code"], code) == ("server_busy", 1013)
        assert [said["event"] for said in said_to_small] == ["started", "pong", "pong"]
        wait_until(lambda: not server.recognizer.session_bytes.num_bytes, "what was kept still counts")


def test_audio_that_waits_for_a_commit_counts(serve: Start) -> None:
    audio = {"input": {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}}
    update = {"type": "session.update", "session": {"type": "transcription", "audio": audio}}
    append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(100_000)).decode()}

    async def append_much() -> tuple[dict[str, Any], int]:
        async with websockets.connect(f"{server.ws}/v1/realtime") as session:
            await session.send(json.dumps(update))
            for _ in range(6):
                await session.send(json.dumps(append))
            while (said := json.loads(await session.recv()))["type"] != "error":
                pass
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await session.recv()
            assert ended.value.rcvd is not None
            return said, ended.value.rcvd.code

    with serve(max_session_bytes=1_000_000) as server:
        said, code = asyncio.run(append_much())
        assert (said["error"]["code"], code) == ("server_busy", 1013)


@pytest.mark.parametrize("fragment", [bytes(100_000), b""])
def test_messages_without_end_are_cut_off(serve: Start, fragment: bytes) -> None:
    async def send_parts() -> None:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield fragment
                await asyncio.sleep(0)

        async with websockets.connect(server.ws) as session:
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(session.send(parts()), 60)

    with serve(max_session_bytes=1_000_000) as server:
        asyncio.run(send_parts())
        wait_until(lambda: not server.recognizer.session_bytes.num_bytes, "what was kept still counts")
        assert 'twostage_refused_connections_total{reason="message"} 1.0' in server.recognizer.metrics.text().decode()


@pytest.mark.parametrize(("asks", "idle_s"), [("pings", 60.0), ("commands", 3.0)])
def test_a_client_that_never_reads_is_ended_before_its_answers_fill_the_memory(
    serve: Start, asks: str, idle_s: float
) -> None:
    ended = 'twostage_sessions_total{code="1008",protocol="realtime"} 1.0'

    def is_over() -> bool:
        return ended in server.recognizer.metrics.text().decode()

    async def most_unread() -> int:
        sizes, narrow = [], socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)  # so that few answers fill it
        narrow.connect(("127.0.0.1", server.port))
        async with websockets.connect(server.ws, sock=narrow, ping_interval=None, close_timeout=0.1) as session:
            session.transport.pause_reading()
            (connection,) = server.server.server_state.connections
            with contextlib.suppress(websockets.ConnectionClosed):
                async with asyncio.timeout(60):
                    for number in itertools.count():
                        ping = asks == "pings"
                        asked = session.ping(b"%0125d" % number) if ping else session.send("HOTWORDS:" + "a" * 5000)
                        try:
                            await asyncio.wait_for(asked, 0.5)
                        except TimeoutError:  # the server does not read any more, or comes to it late
                            if is_over():
                                break
                        sizes.append(connection.transport.get_write_buffer_size())
            wait_until(is_over, "the session goes on")
            sizes.append(connection.transport.get_write_buffer_size())
            session.transport.abort()
        return max(sizes)

    with serve(session_idle_s=idle_s) as server:
        assert 1 << 16 < asyncio.run(most_unread()) < 1 << 20


def test_an_event_that_is_costly_to_parse_is_not_parsed(serve: Start) -> None:
    async def answers() -> list[str]:
        async with websockets.connect(f"{server.ws}/v1/realtime") as session:
            await session.recv()  # that it has begun
            await session.send(f'{{"type": "session.update", "session": [{"[]," * 300_000}1]}}')
            refused = json.loads(await session.recv())
            await session.send('{"type": "session.update", "session": {}}')
            return [refused["error"]["code"], json.loads(await session.recv())["type"]]

    with serve() as server:
        assert asyncio.run(answers()) == ["body_too_complex", "session.updated"]


def ready(server: Running) -> tuple[int, str]:
    answer = requests.get(f"{server.http}/ready", timeout=60)
    return answer.status_code, answer.json()["status"]


def test_readiness_knows_that_all_places_are_taken(serve: Start) -> None:
    with serve(max_requests=1) as server:
        assert ready(server) == (200, "ok")
        with connect(server) as client:
            client.sendall(UPLOAD)
            wait_until(lambda: server.recognizer.num_requests, "the upload is not seen")
            assert ready(server) == (503, "saturated")
        wait_until(lambda: ready(server) == (200, "ok"), "the upload is not forgotten")


def test_before_the_drain_requests_are_taken_while_balancers_learn_of_it(serve: Start) -> None:
    body = FILE + bytes(100) + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with serve(drain_delay_s=600.0) as server:
        server.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: ready(server) == (503, "shutting down"), "/ready does not say so")
        assert requests.post(f"{server.http}/asr", data=body, headers=kind, timeout=60).status_code == 400
        assert not server.recognizer.is_draining.is_set()
        server.server._drains_at -= 600.0
        wait_until(server.recognizer.is_draining.is_set, "there is no drain")


def test_metrics_show_how_late_the_loop_is_and_what_is_open(serve: Start) -> None:
    def gauge(name: str) -> float:
        text = requests.get(f"{server.http}/metrics", timeout=60).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    with serve() as server, connect(server):
        wait_until(lambda: gauge("twostage_open_connections") == 2, "connections are not counted")
        assert gauge("twostage_open_files") >= 3
        server.server.servers[0].get_loop().call_soon_threadsafe(time.sleep, 0.3)
        wait_until(lambda: gauge("twostage_loop_lag_seconds") > 0.15, "nobody has seen that the loop was blocked")


def test_a_long_upload_is_read_from_the_disk(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[Any] = []
    with serve() as server:
        read = server.recognizer.read

        async def listen(source: Any, **how: Any) -> Any:
            sources.append(source)
            return await read(source, **how)

        monkeypatch.setattr(server.recognizer, "read", listen)
        for seconds in (1.0, 20.0):
            wav = encode(samples(7, seconds), 16_000, "WAV", "FLOAT")
            answer = requests.post(f"{server.http}/asr", files={"file": ("a.wav", wav)}, timeout=60)
            assert answer.status_code == 200 and text_of(7) in answer.json()["text"]
        answer = requests.post(f"{server.http}/asr", files={"file": ("a.wav", bytes(2_000_000))}, timeout=60)
        assert answer.json()["error"]["message"].startswith("2,000,000 bytes of audio: ")
    assert [type(source) for source in sources] == [bytes, type(Path()), type(Path())]
