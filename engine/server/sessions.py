"""Live sessions and their limits on message size, silence, duration and memory.

A task reads ahead by at most MAX_BUFFERED_BYTES. Beyond that it stops reading, so that TCP slows the client down. There
is no limit on the client's speed, because programs send whole files as fast as they can. If the client of a WebSocket
disconnects, its session is cancelled at once. Every session ends with a close code and a reason.

    async def talk(link: Link) -> None:
        while (message := await link.receive()) is not None:     # None: the server is being shut down
            ...                                                  # or raise SessionEnd(1008, "why")

    await hold_session(socket, recognizer, "realtime", talk)
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Generic, TypeVar

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from ..errors import ASRError, DecodeError, ServiceClosedError
from .failures import Refusal, error_response, refusal_of
from .recognizer import Recognizer
from .request_guard import KEY_SUBPROTOCOL

MAX_BUFFERED_BYTES = 4 << 20  # two minutes of PCM16
MESSAGE_BYTES = 256  # least size that a waiting message counts as, because an empty one takes memory too
CLIENT_GONE = 1006  # RFC 6455: the connection was closed without a close frame
LAST_WORD_S = 1.0  # longest time for telling a client that its session has ended
SHUTTING_DOWN = 1012  # the WebSocket close code of a service that restarts
FULL = "all sessions together keep too much audio, and this one most; try again later"
UNREAD = "the client does not read what it is sent"
MAX_REASON_BYTES = 123  # RFC 6455: a control frame has up to 125 bytes, of which the code takes two

Message = TypeVar("Message")

log = logging.getLogger("twostage_asr.sessions")


class SessionEnd(Exception):  # noqa: N818 - most ends are not errors
    """Ends the session with a WebSocket close code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def funasr_error(refusal: Refusal) -> dict[str, Any]:
    """The error event of FunASR's protocols."""
    return {"event": "error", "error": str(refusal.detail), "code": refusal.code}


class Inbox(Generic[Message]):
    """What a client has sent and its session has not taken yet, and the limits that hold for both directions."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.end: SessionEnd | None = None  # why no more messages come
        self.evicted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settings = recognizer.settings
        self._is_draining = recognizer.is_draining
        self._messages: deque[tuple[Message, int]] = deque()  # and how many bytes each counts as
        self._num_bytes = 0  # of all of them, and of one that has come in part
        self._num_held = 0  # bytes of audio that the protocol keeps
        self._share = recognizer.session_bytes.share(lambda: self.evicted.set_result(None))
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()

    async def next(self) -> Message | None:
        """The next message; None after the last one. Raises SessionEnd if none comes for session_idle_s."""
        while not self._messages:
            if self.end is not None:
                return None
            self._changed.clear()
            async with self.soon(f"no message for {self._settings.session_idle_s:g} s"):
                await self._changed.wait()
        return self.take()

    def peek(self) -> Message | None:
        """The message that take() takes; None if none waits."""
        return self._messages[0][0] if self._messages else None

    def take(self) -> Message:
        message, num_bytes = self._messages.popleft()
        self.count(-num_bytes)
        self._has_room.set()
        return message

    def put(self, message: Message, num_bytes: int) -> None:
        """Add a message, whose bytes count() has been told of."""
        self._messages.append((message, num_bytes))
        self._changed.set()

    def put_end(self, end: SessionEnd) -> None:
        """Nothing comes after the messages that wait. Of several reasons, the first counts."""
        self.end = self.end or end
        self._changed.set()

    async def put_end_at_drain(self) -> None:
        await self._is_draining.wait()
        self.put_end(SessionEnd(SHUTTING_DOWN, "the server is shutting down"))

    async def wait_for_room(self) -> None:
        while self._num_bytes > MAX_BUFFERED_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def count(self, num_bytes: int) -> None:
        """So many more bytes have come, or have been taken if negative; see hold()."""
        self._num_bytes += num_bytes
        self.hold(self._num_held)

    def hold(self, num_bytes: int) -> None:
        """Set how much audio the protocol keeps. If all sessions together keep too much, the largest one is ended."""
        self._num_held = num_bytes
        if not self.evicted.done():
            self._share.hold(num_bytes + self._num_bytes)
            self._share.budget.evict_largest()

    def release(self) -> None:
        """Give back the memory, at the end of the session."""
        self._share.hold(0)

    @contextlib.asynccontextmanager
    async def soon(self, reason: str) -> AsyncIterator[None]:
        """Raises SessionEnd if the block takes longer than session_idle_s."""
        try:
            async with asyncio.timeout(self._settings.session_idle_s):
                yield
        except TimeoutError:
            raise SessionEnd(1008, reason) from None

    async def first_ended(self, *tasks: asyncio.Task[Any]) -> asyncio.Task[Any] | SessionEnd:
        """The first of these tasks to end, or the limit at which the session ends before that."""
        timeout_s = self._settings.session_timeout_s
        ends: set[asyncio.Future[Any]] = {*tasks, self.evicted}
        done, _ = await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return SessionEnd(1008, f"a session may last {timeout_s:g} s")
        return SessionEnd(1013, FULL) if self.evicted in done else next(task for task in tasks if task in done)


class Link(Inbox[str | bytes]):
    """The two directions of one WebSocket."""

    def __init__(self, socket: WebSocket, recognizer: Recognizer) -> None:
        super().__init__(recognizer)
        self.describe: Callable[[Refusal], dict[str, Any]] = funasr_error  # the protocol's error event
        self.client: str | None = socket.state.client  # the client for quotas and for its turn at the readers
        self._socket = socket

    async def receive(self, *, joined: bool = False) -> str | bytes | None:
        """The next message; None when the server shuts down and no message is left.

        With `joined`, all waiting binary messages up to the next text message are returned as one.
        """
        message = await self.next()
        if not joined or not isinstance(message, bytes):
            return message
        pieces = [message]
        while isinstance(more := self.peek(), bytes):
            pieces.append(more)
            self.take()
        return b"".join(pieces)

    async def send(self, message: dict[str, Any]) -> None:
        """Send one JSON text message. Raises SessionEnd if the client does not read it within session_idle_s."""
        # The message may quote the client's own text, in which half of a surrogate pair must stay escaped.
        text = json.dumps(message, ensure_ascii=False).encode(errors="backslashreplace").decode()
        async with self.soon(UNREAD):
            await self._socket.send_text(text)

    async def fail(self, error: ASRError, **fields: Any) -> None:
        """Send the error with these extra `fields`. Raises SessionEnd if the engine failed or the service is closed."""
        await self.send(self.describe(refusal_of(error)) | fields)
        if isinstance(error, DecodeError):
            raise SessionEnd(1011, "the engine has failed")
        if isinstance(error, ServiceClosedError):
            raise SessionEnd(SHUTTING_DOWN, "the server is shutting down")

    async def read_ahead(self) -> int:
        """Read until the client disconnects, and return its close code. Raises SessionEnd if a message is too large."""
        while True:
            await self.wait_for_room()
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code", CLIENT_GONE))
            content = message.get("bytes")
            content = message.get("text", "") if content is None else content
            if len(content) > self._settings.max_message_bytes:
                raise SessionEnd(1009, f"a message may have {self._settings.max_message_bytes:,} bytes")
            num_bytes = max(len(content), MESSAGE_BYTES)
            self.count(num_bytes)
            self.put(content, num_bytes)
            await asyncio.sleep(0)  # let other tasks run: socket.receive() does not yield if a message is there

    async def say_why_evicted(self) -> None:
        """Tell the client if its session was ended for want of memory."""
        if self.evicted.done():
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(LAST_WORD_S):
                    await self._socket.send_text(json.dumps(self.describe(Refusal(429, FULL, code="server_busy"))))


Talk = Callable[[Link], Coroutine[Any, Any, None]]


async def hold_session(socket: WebSocket, recognizer: Recognizer, protocol: str, talk: Talk) -> None:
    """Accept a WebSocket, run `talk` on it, and close it with a code and a reason, whatever happens meanwhile."""
    started = time.perf_counter()
    try:
        with counted(recognizer, protocol):
            await socket.accept(subprotocol=_chosen(socket))
            link = Link(socket, recognizer)
            end = await _talk_until_end(link, talk)
            await link.say_why_evicted()
    except Refusal as refusal:
        await socket.send_denial_response(error_response(refusal))
        return
    if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
        # The client may disconnect at this moment, or not read, and then the close frame is never sent.
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(LAST_WORD_S):
                await socket.close(end.code, end.reason)
    fields = {"request_id": socket.state.request_id, "key": socket.state.key}
    record_end(recognizer, protocol, end, fields | {"seconds": round(time.perf_counter() - started, 2)})


@contextlib.contextmanager
def counted(recognizer: Recognizer, protocol: str) -> Iterator[None]:
    """Count one more session while the block runs. Raises Refusal if there may be no more."""
    settings = recognizer.settings
    if not recognizer.ledger.take("sessions", settings.max_sessions):
        message = f"{settings.max_sessions} sessions are open, no more are taken; try again later"
        headers = {"Retry-After": str(settings.retry_after_s)}
        raise Refusal(429, message, code="server_busy", headers=headers)
    try:
        with recognizer.metrics.active_sessions.labels(protocol).track_inprogress():
            yield
    finally:
        recognizer.ledger.add("sessions", -1)


def record_end(recognizer: Recognizer, protocol: str, end: SessionEnd, fields: Mapping[str, Any]) -> None:
    """Count the end of a session in the metrics, and write it to the log with these fields."""
    recognizer.metrics.sessions.labels(protocol, str(end.code)).inc()
    about = {"protocol": protocol, "code": end.code, "reason": end.reason}
    log.info("session", extra={"fields": {**about, **fields}})


async def _talk_until_end(link: Link, talk: Talk) -> SessionEnd:
    try:
        async with at_work(talk(link), link.read_ahead(), link.put_end_at_drain()) as (talking, reading, _):
            ended = await link.first_ended(talking, reading)
            is_client_gone = reading.done()
    finally:
        link.release()
    if isinstance(ended, SessionEnd):
        return ended
    error = ended.exception()
    if error is not None:
        return end_after(error, is_client_gone=is_client_gone)
    if ended is reading:
        return SessionEnd(reading.result(), "the client has closed")
    return link.end or SessionEnd(1000, "")


@contextlib.asynccontextmanager
async def at_work(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """These coroutines as tasks, which are cancelled at the end of the block."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def end_after(error: BaseException, *, is_client_gone: bool = False) -> SessionEnd:
    """How a session ends in which this error was raised. Any error ends only its own session."""
    match error:
        case SessionEnd():
            return error
        case ASRError():
            return SessionEnd(1011, str(error))
        case WebSocketDisconnect():  # raised by sending, maybe before the end of the connection has been read
            return SessionEnd(CLIENT_GONE, "")
        case RuntimeError() if is_client_gone:  # raised by sending after that
            return SessionEnd(CLIENT_GONE, "")
    log.error("a session failed", exc_info=error)
    return SessionEnd(1011, "the server failed; its log says why")


def _chosen(socket: WebSocket) -> str | None:
    """The subprotocol to accept. Browsers close the connection unless one that they offer is accepted."""
    offered: list[str] = socket.scope.get("subprotocols", [])
    plain = [protocol for protocol in offered if not protocol.startswith(KEY_SUBPROTOCOL)]
    return next(iter(plain or offered), None)
