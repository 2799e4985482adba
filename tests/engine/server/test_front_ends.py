"""Front ends: the same answers as without them, limits over all of them, and what a death or SIGTERM does."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import websockets
from wyoming.client import AsyncUnixClient
from wyoming.info import Describe, Info

from tests.audio_clips import encode
from tests.engine.server.certificates import write_certificate
from tests.engine.server.conftest import PATIENT, Running
from tests.engine.server.requests_of_clients import CHUNK, pcm16, plain
from tests.engine.streaming.scripted import LoudIsSpeech
from tests.fake_model import FakeFamily, FakeTokenizer, fake_transcriber, samples, text_of
from tests.pipeline import Clip
from tests.processes import is_running, wait_until
from twostage_asr.engine.arena import Arena
from twostage_asr.engine.server import front_ends
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.front_ends import FrontEnds, Setup, number_of_front_ends
from twostage_asr.engine.server.ledger import Ledger, SharedLedger
from twostage_asr.engine.server.operation import OperationServer
from twostage_asr.engine.server.process import ENGINE_FAILED, Address, bind, server_of
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.remote import ModelCard, RemoteService
from twostage_asr.engine.server.settings import ServerSettings

PATH = "/v1/audio/transcriptions"
KEYS = ("first", "second")
HERE = Address(port=0)


class Served:
    """A server with front ends, whose engine's loop runs in a thread of the tests."""

    def __init__(self, directory: Path, num_front_ends: int, address: Address = HERE, **setup: Any) -> None:
        (taken,) = bind(address)
        settings = ServerSettings(api_keys=KEYS, max_requests_per_client=2, drain_s=60.0, **PATIENT)
        self.port = taken.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.front_ends = FrontEnds(
            Setup(settings=settings, address=address, chunk_ms=480, num_front_ends=num_front_ends, **setup), [taken]
        )
        self.operation = OperationServer("127.0.0.1", 0)
        self.model = fake_transcriber(directory)
        self.codes: list[int] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.front_ends.readiness == "ok")
        wait_until(lambda: self.front_ends.num_ready == num_front_ends)

    def _run(self) -> None:
        self.codes.append(self.front_ends.serve(self.model, self.operation))

    @property
    def pids(self) -> list[int]:
        return [front.child.process.pid for front in self.front_ends._fronts.values()]

    def close(self) -> None:
        self.front_ends.close()
        self.thread.join(60)
        self.model.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("front_ends"), 2)
    yield served
    served.close()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One front end, with TLS and the Wyoming protocol."""
    directory = tmp_path_factory.mktemp("secure")
    certificate, key = write_certificate(directory)
    address = Address(port=0, tls_certificate=certificate, tls_key=key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front_ends, "_MODULE", "tests.engine.server.patient_front_end")
        served = Served(directory, 1, address, wyoming=f"unix://{directory}/wyoming")
    yield served
    served.close()


async def speak(url: str, clip: Clip, meanwhile: Callable[[], None] = lambda: None, **how: Any) -> tuple[str, int]:
    """One recording over a WebSocket, as fast as the server takes it; the final text, and the close code."""
    said, pcm = [], pcm16(clip)
    async with websockets.connect(url, additional_headers={"Authorization": "Bearer first"}, **how) as ws:
        await ws.send("START")
        for first in range(0, len(pcm), 2 * CHUNK):
            await ws.send(pcm[first : first + 2 * CHUNK])
        while True:  # until some of it has been heard
            said.append(json.loads(await asyncio.wait_for(ws.recv(), 60)))
            if said[-1].get("partial"):
                break
        meanwhile()
        with contextlib.suppress(websockets.ConnectionClosed):
            await ws.send("STOP")
            while not said[-1].get("is_final"):
                said.append(json.loads(await asyncio.wait_for(ws.recv(), 60)))
            await ws.close()
    final = next(event for event in said if event.get("is_final"))
    assert ws.close_code is not None
    return " ".join(sentence["text"] for sentence in final["sentences"]), ws.close_code


def ask(url: str, number: int = 7, key: str = "first", **fields: Any) -> requests.Response:
    file = {"file": ("a.wav", encode(samples(number), 16_000, "WAV", "PCM_16"))}
    return requests.post(url + PATH, files=file, data=fields, headers={"Authorization": f"Bearer {key}"}, timeout=60)


def stalled_upload(url: str, key: str) -> socket.socket:
    """A request that counts, because its body never ends."""
    host, port = url.removeprefix("http://").split(":")
    upload = socket.create_connection((host, int(port)))
    head = f"POST /asr HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    upload.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100\r\n\r\n".encode())
    return upload


@pytest.mark.parametrize("shape", ["json", "verbose_json", "text", "srt", "vtt", "diarized_json"])
def test_the_answers_are_those_of_a_server_without_front_ends(served: Served, faked: Running, shape: str) -> None:
    there, here = (ask(url, 9, response_format=shape) for url in (served.url, faked.http))
    assert (there.status_code, there.content) == (here.status_code, here.content)


def test_an_error_of_one_clip_keeps_its_code(served: Served, faked: Running) -> None:
    there, here = (ask(url, language="xx") for url in (served.url, faked.http))
    assert (there.status_code, there.json()) == (here.status_code, here.json())
    assert there.status_code == 400


def test_many_requests_get_their_own_texts(served: Served) -> None:
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda number: ask(served.url, number), range(1, 41)))
    assert [answer.json()["text"] for answer in answers] == [text_of(number) for number in range(1, 41)]


def test_a_front_end_does_not_scan_what_it_has_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its clients would wait for that."""
    monkeypatch.setattr(front_ends, "_MODULE", "tests.engine.server.spared_front_end")
    served = Served(tmp_path, 1)
    counts = requests.get(f"{served.url}/spared", headers={"Authorization": "Bearer first"}, timeout=20).json()
    served.close()
    num_spared, num_scanned = counts
    assert num_spared > 10 * num_scanned


def test_a_quota_holds_for_all_front_ends_together(served: Served) -> None:
    uploads = [stalled_upload(served.url, "second") for _ in range(2)]
    wait_until(lambda: served.front_ends._ledger.total("requests") == 2)
    codes = {ask(served.url, key="second").status_code for _ in range(8)}  # each on a connection of its own
    assert codes == {429}
    assert ask(served.url).status_code == 200
    for upload in uploads:
        upload.close()
    wait_until(lambda: not served.front_ends._ledger.total("requests"))
    assert ask(served.url, key="second").status_code == 200


def test_metrics_count_the_requests_of_all_front_ends(served: Served) -> None:
    def num_answers() -> float:
        text = served.front_ends.metrics_text().decode()
        name = f'twostage_requests_total{{path="{PATH}",status="200"}} '
        return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    before = num_answers()
    for _ in range(6):
        assert ask(served.url).status_code == 200
    wait_until(lambda: num_answers() == before + 6)


def test_every_process_answers_for_the_health_of_all(served: Served) -> None:
    operation = f"http://127.0.0.1:{served.operation.port}"
    for url, headers in ((served.url, {"Authorization": "Bearer first"}), (operation, {})):
        health, ready, metrics = (
            requests.get(f"{url}/{path}", headers=headers, timeout=60) for path in ("health", "ready", "metrics")
        )
        assert (health.json(), ready.json()) == ({"status": "ok"}, {"status": "ok"})
        assert "twostage_front_ends 2.0" in metrics.text.splitlines()


def test_live_audio_is_transcribed(served: Served, clips: list[Clip]) -> None:
    text, code = asyncio.run(speak(served.url.replace("http", "ws"), plain(clips)[0]))
    assert text.startswith("clip ") and code == 1000


def test_a_killed_front_end_is_replaced_and_its_quota_is_given_back(served: Served) -> None:
    fronts = list(served.front_ends._fronts.values())
    upload = stalled_upload(served.url, "second")
    wait_until(lambda: served.front_ends._ledger.total("requests") == 1)
    holder = next(front for front in fronts if served.front_ends._ledger._counters[front.number, 0])
    os.kill(holder.child.process.pid, signal.SIGKILL)
    wait_until(lambda: not served.front_ends._ledger.total("requests"))
    assert {ask(served.url).status_code for _ in range(4)} == {200}  # the other one answers meanwhile
    wait_until(lambda: served.front_ends.num_ready == 2)
    assert ask(served.url, key="second").status_code == 200
    assert upload.recv(100) == b""  # its own request has failed
    upload.close()


def test_what_is_under_way_is_finished_when_the_server_leaves(served: Served, clips: list[Clip]) -> None:
    decoder: Any = served.model.decoder
    pids = served.pids

    def leave() -> None:
        decoder.hold()
        asked.extend(callers.submit(ask, served.url, number) for number in (3, 4))
        wait_until(lambda: served.front_ends._ledger.total("requests") == 2)
        served.front_ends.leave()
        assert served.front_ends.readiness == "shutting down"
        decoder.release()

    asked: list[Future[requests.Response]] = []
    with ThreadPoolExecutor(2) as callers:
        text, _ = asyncio.run(speak(served.url.replace("http", "ws"), plain(clips)[0], leave))
        assert text.startswith("clip ")
        assert [each.result().json()["text"] for each in asked] == [text_of(3), text_of(4)]
    served.thread.join(60)
    assert served.codes == [0]
    assert not any(map(is_running, pids))


def test_tls_ends_in_the_front_end(secure: Served, clips: list[Clip]) -> None:
    certificate = str(secure.front_ends._setup.address.tls_certificate)
    headers = {"Authorization": "Bearer first"}
    ready = requests.get(f"https://127.0.0.1:{secure.port}/ready", verify=certificate, headers=headers, timeout=60)
    assert ready.json() == {"status": "ok"}
    trusted = ssl.create_default_context(cafile=certificate)
    text, code = asyncio.run(speak(f"wss://127.0.0.1:{secure.port}", plain(clips)[0], ssl=trusted))
    assert text.startswith("clip ") and code == 1000


def test_the_first_front_end_speaks_wyoming(secure: Served) -> None:
    async def describe() -> str:
        async with AsyncUnixClient(str(secure.front_ends._setup.wyoming).removeprefix("unix://")) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
            assert event is not None
            return str(Info.from_event(event).asr[0].models[0].languages)

    assert asyncio.run(describe()) == str(["en", "zh"])


def test_an_engine_that_dies_ends_all_and_answers_before(secure: Served) -> None:
    decoder: Any = secure.model.decoder
    pids = secure.pids
    url, certificate = f"https://127.0.0.1:{secure.port}", str(secure.front_ends._setup.address.tls_certificate)
    file = {"file": ("a.wav", encode(samples(5), 16_000, "WAV", "PCM_16"))}
    how: dict[str, Any] = {"headers": {"Authorization": "Bearer first"}, "verify": certificate, "timeout": 60}
    decoder.hold()
    with ThreadPoolExecutor(1) as callers:
        under_way = callers.submit(requests.post, url + PATH, files=file, **how)
        wait_until(lambda: decoder.num_pending == 1)
        decoder.fail("the engine has died")
        decoder.release()
        assert under_way.result().status_code == 503
    wait_until(lambda: requests.get(f"{url}/ready", **how).status_code == 503)
    secure.thread.join(60)
    assert secure.codes == [ENGINE_FAILED]
    assert not any(map(is_running, pids))


def test_a_front_end_is_ready_once_its_socket_listens() -> None:
    engine, ours = socket.socketpair()
    card = ModelCard(FakeFamily(), FakeTokenizer(), 1, 8)  # type: ignore[arg-type]
    service = RemoteService(ours, card, Arena(Arena.create(1 << 16)), Ledger())
    recognizer = Recognizer(service, ServerSettings(), vad=LoudIsSpeech())
    (taken,) = bind(HERE)
    is_said = threading.Event()

    def connect() -> None:
        socket.create_connection(taken.getsockname()).close()
        is_said.set()
        server.should_exit = True

    server = server_of(create_app(recognizer), recognizer, HERE, on_listening=connect)
    asyncio.run(asyncio.wait_for(server.serve([taken]), 60))
    assert is_said.is_set()
    recognizer.close()
    engine.close()


def test_front_ends_are_started_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = "cuda:1", "cpu"
    for num_cores, found in ((8, 4), (7, 0)):
        monkeypatch.setattr(front_ends, "usable_cores", lambda num=num_cores: num)
        assert number_of_front_ends(None, gpu) == found
        assert number_of_front_ends(None, cpu) == 0
        for sees_gpu in (True, False):
            monkeypatch.setattr(front_ends, "_sees_gpu", lambda sees=sees_gpu: sees)
            assert number_of_front_ends(None, "auto") == (found if sees_gpu else 0)
    assert [number_of_front_ends(asked, gpu) for asked in (0, 2)] == [0, 2]


def test_front_ends_are_started_before_torch_is_imported() -> None:
    """They take as long to be imported as it does."""
    code = (
        "import sys; from twostage_asr.engine import cli; from twostage_asr.engine.server import front_ends\n"
        "front_ends.FrontEnds = lambda setup, sockets: sys.exit('torch' in sys.modules)\n"
        "cli.main(['serve', '--model', 'any', '--port', '0', '--front-ends', '2'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_server_that_fails_does_not_wait_for_imports() -> None:
    """A front end that is still importing does not notice a closed socket, and would be waited for."""
    setup = Setup(settings=ServerSettings(), address=HERE, chunk_ms=480, num_front_ends=2)
    started = FrontEnds(setup, bind(HERE))
    children = [front.child for front in started._fronts.values()]
    with contextlib.ExitStack() as at_end:
        for child in children:
            at_end.callback(replace(child, socket=child.socket.dup()).close)
            child.socket.close()  # so that closing the child does nothing, and hangs up on nobody
        started.close()
        assert [child.process.wait(60) for child in children] == [-signal.SIGKILL] * 2


def test_places_in_the_arena_are_used_again() -> None:
    arena = Arena(Arena.create())
    lengths = (100, 5, 3000, 1)
    places = [arena.put(np.full(n, n, np.float32)) for n in lengths]
    assert [set(arena.waveform(place, n)) for place, n in zip(places, lengths, strict=True)] == [{n} for n in lengths]
    for index in (2, 0, 3, 1):
        arena.free(places[index])
    assert arena.put(np.zeros(5000, np.float32)) == 0


def test_a_ledger_counts_the_rows_of_all_processes() -> None:
    file = SharedLedger.create(2, 8)
    one, two = SharedLedger(file, 2, 0), SharedLedger(file, 2, 1)
    assert [each.take(("requests", "key a"), 2) for each in (one, two, one)] == [True, True, False]
    assert [each.take("sessions", 1) for each in (one, two)] == [True, False]
    one.clear_row(1)
    assert one.take(("requests", "key a"), 2)
    assert not two.take("sessions", 1)
