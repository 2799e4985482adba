"""The answers while a model is loaded: 503 to every request, so that clients and load balancers know to come back.

    LoadingServer (in the process that loads) -> main() below, at the sockets that the server will serve at

A process of its own answers, because imports and vLLM's start keep the threads of the process that loads waiting for
seconds. It imports little, so it is there long before the model. When the model is loaded, the sockets go on listening:
who connects meanwhile waits in their queue for the server itself.
"""

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from ..worker_process import STOP_TIMEOUT_S, connect, receive, send, start_child
from .discard import discard_body

if TYPE_CHECKING:  # the child imports none of them
    from .process import Address
    from .settings import ServerSettings

STATUS_PATHS = ("/health", "/ready")
LAST_REQUESTS_S = 0.2  # for the requests of clients that have just connected when the model is there
CLOSE_TIMEOUT_S = 2  # then, for answers that are being sent
BACKLOG = 4096  # connections not yet accepted; a client, or a probe, that does not fit tries again after a second

_MODULE = f"{__package__}.loading"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """What the child needs to know."""

    public: tuple[int, ...]  # descriptors of the bound sockets
    operation: tuple[int, ...]  # of the port for operators, which has no TLS
    tls_certificate: Path | None
    tls_key: Path | None
    max_head_bytes: int
    headers: dict[str, str]
    status: bytes  # the answer of STATUS_PATHS
    error: bytes  # of all other paths


class LoadingServer:
    """Answers at the sockets of bind() until it hands them over or is closed."""

    def __init__(
        self, sockets: Sequence[socket], address: "Address", settings: "ServerSettings", operation: socket | None
    ) -> None:
        """`operation`: the socket of an OperationServer."""
        from .failures import Refusal, error_response

        retry = {"Retry-After": str(settings.retry_after_s)}
        error = error_response(Refusal(503, "the model is loading; try again later", code="loading", headers=retry))
        files = tuple(each.fileno() for each in sockets)
        beside = () if operation is None else (operation.fileno(),)
        self._child = start_child(_MODULE, pass_fds=(*files, *beside))
        setup = _Setup(
            public=files,
            operation=beside,
            tls_certificate=address.tls_certificate,
            tls_key=address.tls_key,
            max_head_bytes=settings.max_head_bytes,
            headers={**retry, "Connection": "close"},  # so that the next request reaches the server itself
            status=b'{"status":"loading"}',
            error=bytes(error.body),
        )
        send(self._child.socket, setup)

    def hand_over(self) -> None:
        """Answer what has come, and leave the sockets to the server."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it has ended, or is still importing
            send(self._child.socket, None)
            self._child.process.wait(STOP_TIMEOUT_S)
        self.close()

    def close(self) -> None:
        """End it at once; idempotent."""
        self._child.process.kill()  # while it imports, it would not notice that we hang up
        self._child.close()


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS_S)
        await super().shutdown(sockets)


class _App:
    """The ASGI application."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = self._setup.status if scope["path"] in STATUS_PATHS else self._setup.error
        response = Response(content, 503, self._setup.headers, media_type="application/json")
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await discard_body(receive)
            await response(scope, receive, send)


def main() -> None:
    parent = connect()
    setup: _Setup = receive(parent)
    servers = [_server(setup, setup.public, has_tls=True), _server(setup, setup.operation, has_tls=False)]
    threading.Thread(target=_leave_when_told, args=(parent, servers), daemon=True).start()
    asyncio.run(_serve(servers))


async def _serve(servers: list[tuple[_Server, list[socket]]]) -> None:
    await asyncio.gather(*(server.serve(sockets) for server, sockets in servers if sockets))


def _server(setup: _Setup, files: Sequence[int], *, has_tls: bool) -> tuple[_Server, list[socket]]:
    config = uvicorn.Config(
        _App(setup),
        http="h11",
        ws="websockets-sansio",
        lifespan="off",
        ssl_certfile=setup.tls_certificate if has_tls else None,
        ssl_keyfile=setup.tls_key if has_tls else None,
        h11_max_incomplete_event_size=setup.max_head_bytes,
        timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
        backlog=BACKLOG,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="critical",  # clients cannot write to the log
    )
    return _Server(config), [socket(fileno=each) for each in files]


def _leave_when_told(parent: socket, servers: list[tuple[_Server, list[socket]]]) -> None:
    with contextlib.suppress(EOFError, OSError):  # the parent has ended, and connect() ends this process
        receive(parent)
        for server, _ in servers:
            server.should_exit = True


if __name__ == "__main__":
    main()
