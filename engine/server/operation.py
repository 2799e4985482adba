"""/health, /ready and /metrics on a port of their own, answered by a thread.

Orchestrators and Prometheus reach this port without a key, and the public does not have to reach it at all. The thread
answers while the event loop is at work, so that /health can tell a busy server from one whose loop stands still.
"""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, Self

from ..errors import ConfigError
from .metrics import CONTENT_TYPE, Metrics

LOOP_LIMIT_S = 30.0  # without a turn of the event loop, after which the process is taken for dead
ANSWER_S = 5.0  # that a client may take to ask and to read


class Watched(Protocol):
    """What it answers for: a Recognizer, or the FrontEnds of a server."""

    metrics: Metrics  # of the event loop that must turn

    @property
    def readiness(self) -> str: ...

    def metrics_text(self) -> bytes: ...


class OperationServer:
    """Runs beside the public server; see Listener in process.py."""

    def __init__(self, host: str, port: int) -> None:
        """Take the port, before a model is loaded.

        Raises:
            ConfigError: the port is taken, or `host` is no address of this machine.
        """
        try:
            self._server = ThreadingHTTPServer((host, port), _Handler)
        except OSError as error:
            raise ConfigError(f"cannot serve at {host}, port {port}: {error.strerror}") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="operation", daemon=True)

    def watching(self, watched: Watched) -> Self:
        """The same server, which answers for `watched`."""
        self._server.RequestHandlerClass = type("Handler", (_Handler,), {"watched": watched})
        return self

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def listening(self) -> socket.socket:
        """Its socket."""
        return self._server.socket

    async def start(self) -> None:
        self.run_thread()

    def run_thread(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    watched: Watched
    timeout = ANSWER_S

    def do_GET(self) -> None:
        status, content_type, body = _answer(self.watched, self.path)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes every few seconds are not worth a line each."""


def _answer(watched: Watched, path: str) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    match path.partition("?")[0]:
        case "/health":
            still_s = time.monotonic() - watched.metrics.last_tick
            is_alive = still_s < LOOP_LIMIT_S
            return _json(200 if is_alive else 503, "ok" if is_alive else f"the event loop stands since {still_s:.0f} s")
        case "/ready":
            readiness = watched.readiness  # asked once, so that status and text agree
            return _json(200 if readiness == "ok" else 503, readiness)
        case "/metrics":
            return 200, CONTENT_TYPE, watched.metrics_text()
    return _json(404, "this port has /health, /ready and /metrics")


def _json(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps({"status": text}).encode()
