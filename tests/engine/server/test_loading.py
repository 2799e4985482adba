"""While a model is loaded, every client is told so, and nobody is turned away when the server takes over."""

import argparse
import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import websockets

from tests.engine.server.certificates import write_certificate
from tests.engine.server.requests_of_clients import FAKE_WAV
from tests.fake_model import fake_transcriber, text_of
from tests.processes import processes, wait_until
from twostage_asr.engine import ConfigError
from twostage_asr.engine.cli import serve
from twostage_asr.engine.server import process
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.loading import LoadingServer
from twostage_asr.engine.server.operation import OperationServer
from twostage_asr.engine.server.process import Address, bind, server_of
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.vad import load_vad

ANY_PORT = Address(port=0)
START_S = 120.0  # for a process to import what it needs, on a machine that is busy
PATH = "/v1/audio/transcriptions"


def listens(taken: socket.socket) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(taken.getsockname(), timeout=20).close()
        return True
    return False


@contextlib.contextmanager
def loading(address: Address = ANY_PORT) -> Iterator[tuple[socket.socket, OperationServer, LoadingServer]]:
    (taken,) = bind(address)
    operation = OperationServer("127.0.0.1", 0)
    settings = ServerSettings(retry_after_s=7)
    child = LoadingServer([taken], address, settings, operation.listening)
    with taken, operation.listening, contextlib.closing(child):
        wait_until(lambda: listens(taken), START_S)
        yield taken, operation, child


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with loading() as (taken, _, _):
        yield taken.getsockname()[1]


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_are_told_that_the_model_is_loading(port: int, path: str) -> None:
    answer = requests.get(f"http://127.0.0.1:{port}{path}", timeout=20)
    assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
    assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("7", "close")


def test_openais_client_reads_why(port: int) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.InternalServerError, match="the model is loading") as refused:
        client.audio.transcriptions.create(model="any", file=("a.wav", bytes(5_000_000)))  # sent before it listens
    assert (refused.value.status_code, refused.value.code) == (503, "loading")


def test_a_websocket_is_refused_with_the_same_answer(port: int) -> None:
    async def connect() -> None:
        await websockets.connect(f"ws://127.0.0.1:{port}/v1/realtime")

    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(connect())
    response = refused.value.response
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert json.loads(bytes(response.body))["error"]["code"] == "loading"


def test_the_port_for_operators_has_no_tls(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with loading(Address(port=0, tls_certificate=certificate, tls_key=key)) as (taken, operation, _):
        public = requests.get(f"https://127.0.0.1:{taken.getsockname()[1]}/ready", verify=certificate, timeout=20)
        beside = requests.get(f"http://127.0.0.1:{operation.port}/ready", timeout=20)
    assert public.json() == beside.json() == {"status": "loading"}


def test_who_connects_while_the_server_takes_over_is_served(tmp_path: Path) -> None:
    with loading() as (taken, _, child):
        child.hand_over()
        texts = list[str]()

        def ask() -> None:
            url = f"http://127.0.0.1:{taken.getsockname()[1]}{PATH}"
            texts.append(requests.post(url, files={"file": ("a.wav", FAKE_WAV)}, timeout=60).json()["text"])

        client = threading.Thread(target=ask)
        client.start()
        recognizer = Recognizer.of(fake_transcriber(tmp_path), ServerSettings(), vad=load_vad())
        server = server_of(create_app(recognizer), recognizer, ANY_PORT)
        serving = threading.Thread(target=server.run, args=([taken],))
        serving.start()
        client.join(60)
        server.should_exit = True
        serving.join(60)
        recognizer.close()
    assert texts == [text_of(7)]


@pytest.mark.parametrize("front_ends", ["0", "1"])
def test_the_command_answers_while_it_loads_and_leaves_nobody(front_ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, taken = processes(), list[socket.socket]()

    def keep(address: Address) -> list[socket.socket]:
        taken.extend(bind(address))
        return taken

    @contextlib.contextmanager
    def load(*given: Any) -> Iterator[Any]:
        wait_until(lambda: listens(taken[0]), START_S)
        status = requests.get(f"http://127.0.0.1:{taken[0].getsockname()[1]}/health", timeout=20).json()
        raise ConfigError(f"while {status['status']}")
        yield

    monkeypatch.setattr(process, "bind", keep)
    monkeypatch.setattr(serve, "_loaded", load)
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers(dest="command"))
    args = parser.parse_args(["serve", "any", "--port=0", "--backend=torch", f"--front-ends={front_ends}"])
    args.given = set()
    with pytest.raises(ConfigError, match="while loading"):
        args.run(args)
    assert processes() == before
    taken[0].close()
