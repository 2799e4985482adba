"""The connections of one server, within bounds that hold before a request has been understood, let alone permitted.

- A request's head, its line and headers together, may have max_head_bytes and take header_timeout_s; the same holds
  for trailers. The parser is h11: httptools has no such limit.
- There are at most max_connections, and max_connections_per_address of one address. At such a limit a new connection
  takes the place of one that does nothing: the oldest that has never asked for anything, else the one that has been
  silent for longest after an answer. Thus idle sockets cannot keep probes or clients out. If all are at work, the new
  one is answered 503.
- A connection that is being closed, but whose other end does not read what is left for it, is dropped after LINGER_S.

What is refused or dropped is counted by reason, and logged once in LOG_EVERY_S at most.
"""

import logging
import os
import resource
from asyncio import Transport
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from .budget import Budget
from .metrics import Metrics
from .settings import ServerSettings

KEEP_ALIVE_S = 5  # without a byte after an answer
LINGER_S = 30.0
BACKLOG = 4096  # not yet accepted: whoever does not fit tries again after a second, probes as well
LOG_EVERY_S = 10.0
SPARE_FILES = 256  # descriptors kept from connections: uploads on the disk, readers, the engine
MOST_FILES = 1 << 20  # asked for where the system names no limit
MAX_FRAGMENTS = 1024  # of one WebSocket message: empty ones cost a client next to nothing

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = logging.getLogger("twostage_asr.connections")


@dataclass(slots=True, eq=False)
class _Peer:
    """The other end of a connection that is open."""

    transport: Transport
    address: str
    idle_until: float = 0.0  # when its next head must have come, by the loop's clock
    closing_since: float | None = None


@dataclass(slots=True)
class _Group:
    """Connections, and those of them that do nothing, longest first."""

    num_open: int = 0
    silent: dict[_Peer, None] = field(default_factory=dict)  # have never asked for anything
    quiet: dict[_Peer, None] = field(default_factory=dict)  # have been answered

    def idlest(self) -> _Peer | None:
        return next(iter(self.silent or self.quiet), None)

    def wake(self, peer: _Peer) -> None:
        self.silent.pop(peer, None)
        self.quiet.pop(peer, None)


class Connections:
    """All that are open, and who has to go."""

    def __init__(self, settings: ServerSettings, metrics: Metrics, session_bytes: Budget) -> None:
        """`session_bytes`: what WebSockets may hold, messages that have not come as a whole included."""
        self.settings = settings
        self.session_bytes = session_bytes
        self.max_open = max(1, min(settings.max_connections, file_limit() - SPARE_FILES))
        self._metrics = metrics
        self._peers: dict[Transport, _Peer] = {}
        self._all = _Group()
        self._of_address: dict[str, _Group] = {}
        self._refused: Counter[str] = Counter()  # since the last line of the log
        self._next_line = 0.0
        metrics.watch("twostage_open_connections", "Connections open, WebSockets included", lambda: len(self._peers))
        metrics.watch("twostage_open_files", "File descriptors open", lambda: len(os.listdir("/dev/fd")))

    def admit(self, transport: Transport, address: str, now: float) -> bool:
        """Whether this new connection may stay, possibly in place of another."""
        group = self._of_address.setdefault(address, _Group())
        for full, of, most in (
            ("address_full", group, self.settings.max_connections_per_address),
            ("full", self._all, self.max_open),
        ):
            if of.num_open >= most:
                self.count(full)
                if (idle := of.idlest()) is None:
                    return False
                self._drop(idle)
        # Dropping the last one of this address has forgotten its group.
        group = self._of_address.setdefault(address, group)
        peer = self._peers[transport] = _Peer(transport, address, now + self.settings.header_timeout_s)
        for each in (self._all, group):
            each.num_open += 1
            each.silent[peer] = None
        return True

    def forget(self, transport: Transport) -> None:
        if (peer := self._peers.pop(transport, None)) is None:
            return
        for group in (self._all, self._of_address[peer.address]):
            group.num_open -= 1
            group.wake(peer)
        if not self._of_address[peer.address].num_open:
            del self._of_address[peer.address]

    def begin(self, transport: Transport) -> None:
        """A request's head has come: until its answer, nothing ends the connection from here."""
        if (peer := self._peers.get(transport)) is not None:
            for group in (self._all, self._of_address[peer.address]):
                group.wake(peer)

    def rest(self, transport: Transport, now: float) -> None:
        """It has been answered: the next head must come within both times."""
        if (peer := self._peers.get(transport)) is not None:
            peer.idle_until = now + KEEP_ALIVE_S + self.settings.header_timeout_s
            for group in (self._all, self._of_address[peer.address]):
                group.quiet[peer] = None

    def count(self, reason: str) -> None:
        """Something that was refused."""
        self._refused[reason] += 1
        self._metrics.refused_connections.labels(reason).inc()

    def sweep(self, now: float) -> None:
        """End what is overdue, and log what has been refused; to be called several times a second."""
        for waiting in (self._all.silent, self._all.quiet):  # each in the order of its deadlines
            while waiting and (peer := next(iter(waiting))).idle_until <= now:
                self.count("late")
                self.begin(peer.transport)
                peer.transport.write(_LATE)
                peer.transport.close()
        for peer in [peer for peer in self._peers.values() if peer.transport.is_closing()]:
            peer.closing_since = peer.closing_since or now
            if now - peer.closing_since >= LINGER_S:
                self.count("unread")
                self._drop(peer)
        if self._refused and now >= self._next_line:
            self._next_line = now + LOG_EVERY_S
            log.warning("connections refused or dropped", extra={"fields": dict(self._refused)})
            self._refused.clear()

    def _drop(self, peer: _Peer) -> None:
        self.forget(peer.transport)
        peer.transport.abort()


class HTTPConnection(H11Protocol):
    """uvicorn's connection, known to Connections."""

    keeper: ClassVar[Connections]

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.keeper.admit(transport, self.client[0] if self.client else "", self.loop.time()):
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.keeper.forget(self.transport)

    def data_received(self, data: bytes) -> None:
        """No more of a head than it may have is parsed: h11 looks at the length of incomplete ones alone."""
        while data and not self.transport.is_closing() and self.transport.get_protocol() is self:
            room = self.keeper.settings.max_head_bytes if self._awaits_head else len(data)
            super().data_received(data[:room])
            data = data[room:]

    def handle_events(self) -> None:
        super().handle_events()
        if not self._awaits_head:
            self.keeper.begin(self.transport)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.keeper.begin(self.transport)
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        self.keeper.rest(self.transport, self.loop.time())
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self.keeper.count("not_http")
        super().send_400_response(msg)

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


class WebSocketConnection(WebSocketsSansIOProtocol):
    """What an HTTPConnection becomes by its upgrade."""

    keeper: ClassVar[Connections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share = self.keeper.session_bytes.share(lambda: self._fail(1013, "messages in parts fill the memory"))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._share.hold(0)
        self.keeper.forget(self.transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.close_sent:
            self._share.hold(len(self.conn.reader.buffer) + sum(map(len, self.frames)))
            self.keeper.session_bytes.evict_largest()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        if len(self.frames) < MAX_FRAGMENTS or self.close_sent:
            return
        self._fail(1009, f"a message may have {MAX_FRAGMENTS} fragments")

    def _fail(self, code: int, reason: str) -> None:
        self.keeper.count("message")
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def protocols(connections: Connections) -> dict[str, Any]:
    """The options of uvicorn.Config that make a server's connections these."""
    about = {"keeper": connections}
    return {
        "http": type("HTTPConnection", (HTTPConnection,), about),
        "ws": type("WebSocketConnection", (WebSocketConnection,), about),
        "h11_max_incomplete_event_size": connections.settings.max_head_bytes,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "backlog": BACKLOG,
    }


def file_limit() -> int:
    """How many descriptors this process may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if most == resource.RLIM_INFINITY else most


def raise_file_limit() -> None:
    """To what the system allows; the usual default, 1,024, is that of programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
