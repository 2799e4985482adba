"""Limits on a server's connections, which hold before a request is parsed or its client is known.

- A request's head (its line and headers) may have max_head_bytes and take header_timeout_s; so may trailers. The parser
  is h11, because httptools has no such limit.
- There are at most max_connections, and max_connections_per_address for one address. At a limit, a new connection
  replaces an idle one: the oldest that has never sent a request, else the one that has been idle longest since its
  answer. So idle sockets cannot keep probes or clients out. If no connection is idle, the new one is answered 503.
  The limits hold for all front ends together; each drops idle connections of its own only.
- A connection that is being closed, but whose peer does not read the rest of its answer, is dropped after LINGER_S.

Refused and dropped connections are counted by reason, and logged at most once in LOG_EVERY_S.
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
from .ledger import Ledger
from .loading import BACKLOG
from .metrics import Metrics
from .settings import ServerSettings

KEEP_ALIVE_S = 5  # idle time after an answer
LINGER_S = 30.0
LOG_EVERY_S = 10.0
SPARE_FILES = 256  # file descriptors reserved for uploads on the disk, readers and the engine
MOST_FILES = 1 << 20  # the limit to use if the system names none
MAX_FRAGMENTS = 1024  # of one WebSocket message; without a limit, a client could send empty ones for ever
MAX_UNREAD_PONGS = 1024  # of one WebSocket; without a limit, answers to a client that never reads would fill the memory

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = logging.getLogger("twostage_asr.connections")


@dataclass(slots=True, eq=False)
class _Peer:
    """The client's end of an open connection. Times are those of the event loop's clock."""

    transport: Transport
    address: str
    idle_until: float = 0.0  # deadline for its next head
    closing_since: float | None = None


@dataclass(slots=True)
class _Group:
    """The number of connections, and the idle ones among them, the longest idle first."""

    num_open: int = 0
    silent: dict[_Peer, None] = field(default_factory=dict)  # idle, and have never sent a request
    quiet: dict[_Peer, None] = field(default_factory=dict)  # idle since their last answer

    def idlest(self) -> _Peer | None:
        return next(iter(self.silent or self.quiet), None)

    def wake(self, peer: _Peer) -> None:
        self.silent.pop(peer, None)
        self.quiet.pop(peer, None)


class Connections:
    """All open connections; decides which ones are refused or dropped."""

    def __init__(self, settings: ServerSettings, metrics: Metrics, session_bytes: Budget, ledger: Ledger) -> None:
        """`session_bytes`: the memory that WebSockets may hold, incomplete messages included."""
        self.settings = settings
        self.session_bytes = session_bytes
        self.max_open = max(1, min(settings.max_connections, file_limit() - SPARE_FILES))
        if self.max_open < settings.max_connections:
            few = (
                "connections are limited to %d, not to %d: this process may open %d files (ulimit -n), %d are reserved"
            )
            log.warning(few, self.max_open, settings.max_connections, file_limit(), SPARE_FILES)
        self._metrics = metrics
        self._ledger = ledger
        self._peers: dict[Transport, _Peer] = {}
        self._all = _Group()
        self._of_address: dict[str, _Group] = {}
        self._refused: Counter[str] = Counter()  # by reason, since the last line of the log
        self._next_line = 0.0
        metrics.watch("twostage_open_connections", "Connections open, WebSockets included", lambda: len(self._peers))
        metrics.watch("twostage_open_files", "File descriptors open", lambda: len(os.listdir("/dev/fd")))

    def admit(self, transport: Transport, address: str, now: float) -> bool:
        """Whether this new connection may stay, possibly in place of another."""
        group = self._of_address.setdefault(address, _Group())
        for full, name, of, most in (
            ("address_full", ("address", address), group, self.settings.max_connections_per_address),
            ("full", "connections", self._all, self.max_open),
        ):
            while not self._ledger.take(name, most):
                self.count(full)
                if (idle := of.idlest()) is None:
                    if of is self._all:
                        self._ledger.add(("address", address), -1)
                    return False
                self._drop(idle)
        # If the dropped connection was the last one of this address, its group is gone.
        group = self._of_address.setdefault(address, group)
        peer = self._peers[transport] = _Peer(transport, address, now + self.settings.header_timeout_s)
        for each in (self._all, group):
            each.num_open += 1
            each.silent[peer] = None
        return True

    def forget(self, transport: Transport) -> None:
        if (peer := self._peers.pop(transport, None)) is None:
            return
        self._ledger.add("connections", -1)
        self._ledger.add(("address", peer.address), -1)
        for group in (self._all, self._of_address[peer.address]):
            group.num_open -= 1
            group.wake(peer)
        if not self._of_address[peer.address].num_open:
            del self._of_address[peer.address]

    def begin(self, transport: Transport) -> None:
        """A request's head has come. The connection is not idle until the answer is complete, so it is not dropped."""
        if (peer := self._peers.get(transport)) is not None:
            for group in (self._all, self._of_address[peer.address]):
                group.wake(peer)

    def rest(self, transport: Transport, now: float) -> None:
        """The request has been answered. The next head must come within the keep-alive and header timeouts."""
        if (peer := self._peers.get(transport)) is not None:
            peer.idle_until = now + KEEP_ALIVE_S + self.settings.header_timeout_s
            for group in (self._all, self._of_address[peer.address]):
                group.quiet[peer] = None

    def count(self, reason: str) -> None:
        """Count a refused or dropped connection."""
        self._refused[reason] += 1
        self._metrics.refused_connections.labels(reason).inc()

    def sweep(self, now: float) -> None:
        """Close overdue connections and log refused ones. The server calls this several times a second."""
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
    """uvicorn's HTTP connection, which reports to Connections."""

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
        """Give h11 at most max_head_bytes of a head at a time: it checks the length of incomplete heads only."""
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
    """uvicorn's WebSocket connection, which takes over from an HTTPConnection at the upgrade."""

    keeper: ClassVar[Connections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share = self.keeper.session_bytes.share(lambda: self._fail(1013, "messages in parts fill the memory"))
        self._num_unread_pongs = 0

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

    def handle_ping(self) -> None:
        """Answer a ping. Unlike answers to messages, which wait for the client to read, pongs are sent at once."""
        if self.close_sent:
            return
        self._num_unread_pongs = 0 if self.writable.is_set() else self._num_unread_pongs + 1
        if self._num_unread_pongs > MAX_UNREAD_PONGS:
            self._fail(1008, "the client does not read the answers to its pings")
        else:
            super().handle_ping()

    def _fail(self, code: int, reason: str) -> None:
        self.keeper.count("message")
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def protocols(connections: Connections) -> dict[str, Any]:
    """Options of uvicorn.Config with which a server uses these connection classes."""
    about = {"keeper": connections}
    return {
        "http": type("HTTPConnection", (HTTPConnection,), about),
        "ws": type("WebSocketConnection", (WebSocketConnection,), about),
        "h11_max_incomplete_event_size": connections.settings.max_head_bytes,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "backlog": BACKLOG,
    }


def file_limit() -> int:
    """How many file descriptors this process may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if most == resource.RLIM_INFINITY else most


def raise_file_limit() -> None:
    """Raise the limit to what the system allows. The usual default, 1,024, exists for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
