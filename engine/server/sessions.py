"""One WebSocket session and its limits on message size, silence, duration and memory.

A task reads ahead by at most MAX_BUFFERED_BYTES. Beyond that it stops reading, so that TCP slows the client down. There
is no limit on the client's speed, because programs send whole files as fast as they can. If the client disconnects, its
session is cancelled at once. Every session ends with a close code and a reason.

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
from collections.abc import Callable, Coroutine
from typing import Any

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
FULL = "all sessions together keep too much audio, and this one most; try again later"
MAX_REASON_BYTES = 123  # RFC 6455: a control frame has up to 125 bytes, of which the code takes two

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


class Link:
    """The two directions of one WebSocket."""

    def __init__(self, socket: WebSocket, recognizer: Recognizer) -> None:
        self.describe: Callable[[Refusal], dict[str, Any]] = funasr_error  # the protocol's error event
        self._socket = socket
        self.client: str | None = socket.state.client  # the client for quotas and for its turn at the readers
        self._settings = recognizer.settings
        self._is_draining = recognizer.is_draining
        self._messages: deque[str | bytes] = deque()
        self._num_bytes = 0  # in waiting messages
        self._num_held = 0  # bytes of audio that the protocol keeps
        self.evicted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._share = recognizer.session_bytes.share(lambda: self.evicted.set_result(None))
        self._is_waiting = False  # whether the session waits for the client
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()

    async def receive(self, *, joined: bool = False) -> str | bytes | None:
        """The next message; None when the server shuts down and no message is left.

        With `joined`, all waiting binary messages up to the next text message are returned as one.
        """
        while not self._messages:
            if self._is_draining.is_set():
                return None
            self._changed.clear()
            self._is_waiting = True
            await self._changed.wait()
            self._is_waiting = False
        message = self._take()
        if joined and isinstance(message, bytes):
            pieces = [message]
            while self._messages and isinstance(self._messages[0], bytes):
                pieces.append(self._take())  # type: ignore[arg-type]
            message = b"".join(pieces)
        self._has_room.set()
        return message

    def _take(self) -> str | bytes:
        message = self._messages.popleft()
        self._num_bytes -= max(len(message), MESSAGE_BYTES)
        self.hold(self._num_held)
        return message

    def hold(self, num_bytes: int) -> None:
        """Set how much audio the protocol keeps. If all sessions together keep too much, the largest one is ended."""
        self._num_held = num_bytes
        if not self.evicted.done():
            self._share.hold(num_bytes + self._num_bytes)
            self._share.budget.evict_largest()

    async def send(self, message: dict[str, Any]) -> None:
        """Send one JSON text message. Raises SessionEnd if the client does not read it within session_idle_s."""
        try:
            async with asyncio.timeout(self._settings.session_idle_s):
                # The message may quote the client's own text, in which half of a surrogate pair must stay escaped.
                text = json.dumps(message, ensure_ascii=False).encode(errors="backslashreplace").decode()
                await self._socket.send_text(text)
        except TimeoutError:
            raise SessionEnd(1008, "the client does not read what it is sent") from None

    async def fail(self, error: ASRError, **fields: Any) -> None:
        """Send the error with these extra `fields`. Raises SessionEnd if the engine failed or the service is closed."""
        await self.send(self.describe(refusal_of(error)) | fields)
        if isinstance(error, DecodeError):
            raise SessionEnd(1011, "the engine has failed")
        if isinstance(error, ServiceClosedError):
            raise SessionEnd(1012, "the server is shutting down")

    async def read_ahead(self) -> int:
        """Read until the client disconnects, and return its close code. Raises SessionEnd if a limit is exceeded."""
        while True:
            while self._num_bytes > MAX_BUFFERED_BYTES:
                self._has_room.clear()
                await self._has_room.wait()
            try:
                async with asyncio.timeout(self._settings.session_idle_s):
                    message = await self._socket.receive()
            except TimeoutError:
                if not self._is_waiting:  # the session is at work, and the client waits for its answer
                    continue
                raise SessionEnd(1008, f"no message for {self._settings.session_idle_s:g} s") from None
            if message["type"] == "websocket.disconnect":
                return int(message.get("code", CLIENT_GONE))
            content = message.get("bytes")
            content = message.get("text", "") if content is None else content
            if len(content) > self._settings.max_message_bytes:
                raise SessionEnd(1009, f"a message may have {self._settings.max_message_bytes:,} bytes")
            self._messages.append(content)
            self._num_bytes += max(len(content), MESSAGE_BYTES)
            self.hold(self._num_held)
            self._changed.set()
            await asyncio.sleep(0)  # let other tasks run: socket.receive() does not yield if a message is there

    def wake(self) -> None:
        """Make `receive` check again whether the server is draining."""
        self._changed.set()

    async def end(self) -> None:
        """Release the memory, and tell the client if its session was ended for want of memory."""
        self._share.hold(0)
        if self.evicted.done():
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(LAST_WORD_S):
                    await self._socket.send_text(json.dumps(self.describe(Refusal(429, FULL, code="server_busy"))))


Talk = Callable[[Link], Coroutine[Any, Any, None]]


async def hold_session(socket: WebSocket, recognizer: Recognizer, protocol: str, talk: Talk) -> None:
    """Accept a WebSocket, run `talk` on it, and close it with a code and a reason, whatever happens meanwhile."""
    settings = recognizer.settings
    if not recognizer.ledger.take("sessions", settings.max_sessions):
        message = f"{settings.max_sessions} sessions are open, no more are taken; try again later"
        headers = {"Retry-After": str(settings.retry_after_s)}
        await socket.send_denial_response(error_response(Refusal(429, message, code="server_busy", headers=headers)))
        return
    started = time.perf_counter()
    try:
        with recognizer.metrics.active_sessions.labels(protocol).track_inprogress():
            await socket.accept(subprotocol=_chosen(socket))
            end = await _talk_until_end(Link(socket, recognizer), recognizer, talk)
    finally:
        recognizer.ledger.add("sessions", -1)
    if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
        # The client may disconnect at this moment, or not read, and then the close frame is never sent.
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(LAST_WORD_S):
                await socket.close(end.code, end.reason)
    recognizer.metrics.sessions.labels(protocol, str(end.code)).inc()
    fields = {"request_id": socket.state.request_id, "protocol": protocol, "code": end.code, "reason": end.reason}
    seconds = round(time.perf_counter() - started, 2)
    log.info("session", extra={"fields": fields | {"key": socket.state.key, "seconds": seconds}})


async def _talk_until_end(link: Link, recognizer: Recognizer, talk: Talk) -> SessionEnd:
    talking: asyncio.Task[Any] = asyncio.create_task(talk(link))
    reading = asyncio.create_task(link.read_ahead())
    draining = asyncio.create_task(recognizer.is_draining.wait())
    draining.add_done_callback(lambda _: link.wake())
    try:
        timeout_s = recognizer.settings.session_timeout_s
        ends = {talking, reading, link.evicted}
        done, _ = await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return SessionEnd(1008, f"a session may last {timeout_s:g} s")
        if link.evicted in done:
            return SessionEnd(1013, FULL)
        first = talking if talking in done else reading
        error = first.exception()
        if error is not None:
            return end_after(error, is_client_gone=reading.done())
        if first is reading:
            return SessionEnd(await reading, "the client has closed")
        return SessionEnd(1012, "the server is shutting down") if draining.done() else SessionEnd(1000, "")
    finally:
        for task in (talking, reading, draining):
            task.cancel()
        await asyncio.gather(talking, reading, draining, return_exceptions=True)
        await link.end()


def end_after(error: BaseException, *, is_client_gone: bool) -> SessionEnd:
    """How a session ends in which this error was raised. Any error ends only its own session."""
    match error:
        case SessionEnd():
            return error
        case ASRError():
            return SessionEnd(1011, str(error))
        case WebSocketDisconnect() | RuntimeError() if is_client_gone:  # raised by sending to a closed connection
            return SessionEnd(CLIENT_GONE, "")
    log.error("a session failed", exc_info=error)
    return SessionEnd(1011, "the server failed; its log says why")


def _chosen(socket: WebSocket) -> str | None:
    """The subprotocol to accept. Browsers close the connection unless one that they offer is accepted."""
    offered: list[str] = socket.scope.get("subprotocols", [])
    plain = [protocol for protocol in offered if not protocol.startswith(KEY_SUBPROTOCOL)]
    return next(iter(plain or offered), None)
