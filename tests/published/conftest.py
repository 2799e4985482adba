"""What the snippets of published documents find where they are run: files, models, and servers that answer.

Calls stand in the tests as they are printed. What stands in the place of something printed has a name: `model_id` of a
model's id, DEVICE of a CUDA device, GPUS of a number of them; a port or a URL is one of this machine.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import AutoModelVLLM, auto, loader
from twostage_asr.engine.config import Backend, EngineConfig
from twostage_asr.engine.decoder.base import Decoder, LLMSource
from twostage_asr.engine.loader import build_decoder
from twostage_asr.engine.server import process
from twostage_asr.engine.server.recognizer import Recognizer


@dataclass
class Served:
    """A server that a command line has started."""

    recognizer: Recognizer
    server: uvicorn.Server
    address: process.Address  # that the command line asked for; it listens on another port
    engine: dict[str, Any] = field(default_factory=dict)  # arguments of AutoModelVLLM

    @property
    def port(self) -> int:
        port: int = self.server.servers[0].sockets[0].getsockname()[1]
        return port


@contextlib.contextmanager
def served(command: Callable[[], int], model: AutoModelVLLM) -> Iterator[Served]:
    """Run a command line that serves, on a free port and with this model in place of the one that it names."""
    ready: queue.Queue[Served] = queue.Queue()
    engine: dict[str, Any] = {}

    def load(**options: Any) -> contextlib.AbstractContextManager[AutoModelVLLM]:
        engine.update(options)
        return contextlib.nullcontext(model)

    def serve(app: Any, recognizer: Recognizer, address: process.Address, sockets: list[Any], *, beside: Any) -> int:
        server = process.server_of(app, recognizer, process.Address(port=0))
        ready.put(Served(recognizer, server, address, engine))
        server.run()
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "AutoModelVLLM", load)
        patch.setattr(process, "serve", serve)
        patch.setattr(process, "bind", lambda address: [])
        patch.setattr(process, "set_up_log", lambda level: None)
        thread = threading.Thread(target=command, daemon=True)
        thread.start()
        found = ready.get(timeout=300)
    wait_until(lambda: found.server.started or not thread.is_alive(), "the server does not start")
    assert found.server.started
    try:
        yield found
    finally:
        found.server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of a module's snippets."""
    directory = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        yield directory


@pytest.fixture(scope="module")
def without_vllm() -> Iterator[None]:
    """Models that choose a backend choose as on a machine without vLLM: no test needs a second engine."""

    def build(source: LLMSource, config: EngineConfig, device: torch.device, *, unshared: str) -> Decoder:
        backend: Backend = "torch" if config.backend == "auto" else config.backend
        return build_decoder(source, replace(config, backend=backend), device, unshared=unshared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "build_decoder", build)
        yield


@pytest.fixture(scope="module")
def spoken(clips: list[Clip]) -> Clip:
    """Chinese that needs no hotwords."""
    return next(clip for clip in clips if clip["key"] == "zh_41")
