"""The server's process: its sockets, its log, and how it ends.

SIGTERM and SIGINT drain the server, and so does SIGHUP, as when a terminal closes. /ready answers 503, and
drain_delay_s later, when load balancers have seen that, nothing new is taken. Live sessions are finished. The process
ends with exit code 0 when all is done or drain_s have passed. A second signal ends it at once.

If the engine dies, all requests under way are answered with an error, and the process ends with ENGINE_FAILED, so that
its supervisor starts it again.
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import uvicorn

from ..errors import ConfigError
from .connections import LOG_EVERY_S, Connections, protocols, raise_file_limit

if TYPE_CHECKING:  # see front_ends.py
    from fastapi import FastAPI

    from .recognizer import Recognizer

ENGINE_FAILED = 70  # EX_SOFTWARE of sysexits.h
FAILED_GRACE_S = 1.0  # from the engine's death to the end of the process, to send answers and let probes see /ready
TICK_S = 0.1  # between two calls of uvicorn's on_tick
AFTER_REFUSAL = "ASGI callable returned without completing handshake."
CLOSE_TIMEOUT_S = 2  # for closing connections at the end

log = logging.getLogger("twostage_asr.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8899
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-For and -Proto are believed


class Listener(Protocol):
    """A server of another protocol, which runs beside uvicorn on the same event loop."""

    async def start(self) -> None: ...

    def close(self) -> None: ...


def bind(address: Address) -> list[socket.socket]:
    """Sockets bound to this address that do not listen yet.

    They are bound before the model is loaded, so that an address in use is found before minutes are spent on that.

    Raises:
        ConfigError: another program listens there, the address is not one of this machine's, or its certificate and
            key cannot be used.
    """
    _require_tls(address)
    sockets = []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in dict.fromkeys(found):
            sockets.append(taken := socket.socket(family, kind, protocol))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(where)
    except OSError as error:
        for taken in sockets:
            taken.close()
        raise ConfigError(f"cannot serve at {address.host}, port {address.port}: {error.strerror}") from error
    return sockets


def _require_tls(address: Address) -> None:
    certificate, key = address.tls_certificate, address.tls_key
    if certificate is None:
        if key is not None:
            raise ConfigError(f"the TLS key {key} needs its certificate: --tls-certificate FILE")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        files = " and ".join(str(path) for path in (certificate, key) if path is not None)
        reason = "not a certificate and its key, as PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"cannot serve TLS with {files}: {reason}") from error


def log_addresses(sockets: Sequence[socket.socket], *, is_tls: bool) -> None:
    for taken in sockets:
        host, port = taken.getsockname()[:2]
        scheme = "https" if is_tls else "http"
        log.info("serving at %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)


def serve(
    app: "FastAPI",
    recognizer: "Recognizer",
    address: Address,
    sockets: list[socket.socket],
    *,
    beside: Sequence[Listener] = (),
) -> int:
    """Serve at the sockets of bind() until a signal or the engine's death; returns the exit code."""
    raise_file_limit()
    tell = partial(log_addresses, sockets, is_tls=address.tls_certificate is not None)  # uvicorn does not log these
    with ended_by_hang_up():
        server_of(app, recognizer, address, beside=beside, on_listening=tell).run(sockets)
    if not recognizer.service.failed:
        return 0
    log.error("the engine has failed; the process ends with exit code %d", ENGINE_FAILED)
    return ENGINE_FAILED


def server_of(
    app: "FastAPI",
    recognizer: "Recognizer",
    address: Address,
    *,
    beside: Sequence[Listener] = (),
    on_listening: Callable[[], None] = lambda: None,
) -> uvicorn.Server:
    """uvicorn's server, configured with this server's limits and its way to end.

    `on_listening` is called once its sockets listen.
    """
    connections = Connections(recognizer.settings, recognizer.metrics, recognizer.session_bytes, recognizer.ledger)
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        ssl_certfile=address.tls_certificate,
        ssl_keyfile=address.tls_key,
        **protocols(connections),
        ws_max_size=recognizer.settings.max_message_bytes,
        ws_per_message_deflate=False,  # PCM hardly shrinks, and a small message must not inflate to a large one
        timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
        proxy_headers=bool(address.trusted_proxies),
        forwarded_allow_ips=list(address.trusted_proxies),
        server_header=False,
        access_log=False,
        log_config=None,
    )
    return _Server(config, recognizer, connections, beside, on_listening)


class _Server(uvicorn.Server):
    """uvicorn's server, which drains before it ends, and ends if the engine dies."""

    def __init__(
        self,
        config: uvicorn.Config,
        recognizer: "Recognizer",
        connections: Connections,
        beside: Sequence[Listener],
        on_listening: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._recognizer = recognizer
        self._connections = connections
        self._beside = beside
        self._on_listening = on_listening
        self._is_asked_to_stop = False
        self._drains_at = 0.0  # time.monotonic(), as the others
        self._ends_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._beside:
            await listener.start()
        await super().startup(sockets)  # from here on the sockets listen
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._beside:
            listener.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_asked_to_stop:
            self.should_exit = self.force_exit = True
        self._is_asked_to_stop = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        now = time.monotonic()
        self._recognizer.metrics.tick(TICK_S)
        self._connections.sweep(asyncio.get_running_loop().time())
        self._recognizer.session_bytes.tick()
        if self._ends_at is None and self._recognizer.service.failed:
            self._ends_at = now + FAILED_GRACE_S
        if self._ends_at is None and self._is_asked_to_stop:
            self._leave(now)
        if self._ends_at is not None:
            is_idle = (
                self._recognizer.is_draining.is_set()
                and not self._recognizer.num_requests + self._recognizer.num_sessions
            )
            if is_idle or now >= self._ends_at:
                return True
        return await super().on_tick(counter)

    def _leave(self, now: float) -> None:
        """Begin to shut down: /ready answers 503; the drain starts after drain_delay_s and lasts at most drain_s."""
        settings = self._recognizer.settings
        if not self._recognizer.is_leaving:
            self._recognizer.is_leaving = True
            self._drains_at = now + settings.drain_delay_s
            log.info("shutting down: requests are refused in %g s", settings.drain_delay_s)
        if now >= self._drains_at:
            log.info("draining for at most %g s", settings.drain_s)
            self._ends_at = now + settings.drain_s
            self._recognizer.is_draining.set()


@contextlib.contextmanager
def ended_by_hang_up() -> Iterator[None]:
    """Let SIGHUP do what SIGTERM does, unless the server was started to outlive its terminal, as by nohup."""
    is_main = threading.current_thread() is threading.main_thread()  # others cannot handle signals
    if not is_main or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; `extra={"fields": {...}}` adds keys to it."""

    def format(self, record: logging.LogRecord) -> str:
        time_s = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": time_s, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """One line of text per record, for a terminal, with the fields after the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields: dict[str, object] = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


class Sparse(logging.Filter):
    """Passes the same warning once in LOG_EVERY_S, because clients can make uvicorn log warnings without limit.

    It drops the error that uvicorn (0.54) logs after each WebSocket that was refused as it should be.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}  # by message, without its arguments

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return record.msg != AFTER_REFUSAL
        now = time.monotonic()
        is_due = now >= self._next.get(str(record.msg), 0.0)
        if is_due:
            self._next[str(record.msg)] = now + LOG_EVERY_S
        return is_due


def set_up_log(level: str) -> None:
    """Send the logs of this package and of uvicorn to stderr: as lines to a terminal, else as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter() if sys.stderr.isatty() else JsonFormatter())
    for name in ("twostage_asr", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.getLogger("uvicorn.error").filters = [Sparse()]
