"""A server in a thread of the test session, on a port of its own, over the one vLLM engine."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from tests.fake_model import fake_transcriber
from tests.fake_voices import FakeVoices
from tests.processes import wait_until
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.process import Address, Listener, server_of
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.vad import load_vad


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    recognizer: Recognizer
    server: uvicorn.Server

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


ANY_PORT = Address(port=0)
PATIENT = {"header_timeout_s": 600.0, "body_grace_s": 600.0}  # with clients that a busy machine keeps from sending


@contextmanager
def running(
    model: Any,
    address: Address = ANY_PORT,
    *,
    beside: Callable[[Recognizer], Sequence[Listener]] = lambda recognizer: (),
    offline: bool = True,
    **settings: Any,
) -> Iterator[Running]:
    """`model`: an AutoModelVLLM, or another thing that has a transcriber."""
    recognizer = Recognizer.of(model.transcriber, ServerSettings(**PATIENT | settings), vad=load_vad())
    server = server_of(create_app(recognizer, offline=offline), recognizer, address, beside=beside(recognizer))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), "the server does not start")
    assert server.started
    sockets: list[socket.socket] = server.servers[0].sockets
    try:
        yield Running(sockets[0].getsockname()[1], recognizer, server)
    finally:
        server.should_exit = True
        thread.join(60)
        recognizer.close()


@pytest.fixture(scope="module")
def server(vllm_model: AutoModelVLLM) -> Iterator[Running]:
    """Its speaker model hears one voice in everything."""
    speakers: Any = FakeVoices(lambda waveform: 0)
    model: Any = SimpleNamespace(transcriber=replace(vllm_model.transcriber, speakers=speakers))
    with running(model) as server:
        yield server


@pytest.fixture(scope="module")
def faked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the model of rules in tests/fake_model.py."""
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path_factory.mktemp("faked")))
    with running(model) as server:
        yield server


@pytest.fixture
def start(vllm_model: AutoModelVLLM) -> Callable[..., Any]:
    """Start another server with other settings, where no `server` is running."""
    return lambda **settings: running(vllm_model, **settings)
