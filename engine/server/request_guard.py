"""The middleware around all routes: it identifies clients, enforces limits, and logs and counts requests.

Limits on a body are enforced while it is read, so that a body that is too large never fills the memory. If a client
disconnects, its handler is cancelled, and with it the work in both stages.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .api_keys import ApiKeys
from .bodies import Body, is_form
from .discard import discard_body
from .failures import Refusal, error_response
from .origins import Origins
from .pace import Pace
from .page_content import FILES
from .quotas import Quota, client_of
from .recognizer import Recognizer

OPEN_PATHS = frozenset({"/", "/health", "/ready", *FILES})  # need no key
KEY_SUBPROTOCOL = "openai-insecure-api-key."  # OpenAI's web clients send keys so: browsers set no WebSocket headers

log = logging.getLogger("twostage_asr.requests")

_REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)


@dataclass(slots=True, eq=False)
class Exchange:
    """One HTTP request and its response, while they are transferred."""

    receive_from: Receive
    send_to: Send
    request_id: str
    body: Body
    pace: Pace
    status: int = 0  # of the response, once it has begun
    is_answered: bool = False
    is_client_gone: bool = False
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _watch: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """The next part of the body. Raises Refusal if it exceeds a limit."""
        if self._watch is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self.body.receive(self.receive_from)
        await self.pace.turn()
        if message["type"] == "http.disconnect":
            self.is_client_gone = True
            return message
        if not message.get("more_body", False):
            handler = asyncio.current_task()
            assert handler is not None
            self._watch = asyncio.create_task(self._wait_until_gone(handler))
        return message

    async def discard_body(self) -> bool:
        """Read and drop the rest of a refused body, within bounds; returns whether that was all of it."""
        return self._watch is not None or await discard_body(self.receive_from)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_answered = True
        await self.send_to(message)

    async def end(self) -> None:
        self.body.end()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    async def _wait_until_gone(self, handler: asyncio.Task[object]) -> None:
        while (await self.receive_from())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if not self.is_answered:
            self.is_client_gone = True
            handler.cancel()


class RequestGuard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, recognizer: Recognizer, paths: Collection[str]) -> None:
        """`paths`: the known routes. All other paths share one metric label, so that clients cannot add labels."""
        self._app = app
        self._paths = paths
        self._recognizer = recognizer
        self._settings = settings = recognizer.settings
        self._keys = ApiKeys(settings.api_keys, settings.api_key_file)
        self._origins = Origins(settings.cors_origins, settings.allowed_hosts, needs_key=self._keys.are_needed)
        ledger = recognizer.ledger
        self._requests = Quota("requests", settings.max_requests_per_client, ledger, total=settings.max_requests)
        self._sessions = Quota("sessions", settings.max_sessions_per_client, ledger, total=settings.max_sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, started = Headers(scope=scope), time.perf_counter()
        body = Body(self._settings, self._recognizer.uploads, is_form=is_form(headers))
        exchange = Exchange(receive, send, _request_id(headers), body, self._recognizer.pace)
        scope.setdefault("state", {}).update(request_id=exchange.request_id, key=None, client=None)
        try:
            await self._answer(scope, headers, exchange)
        finally:
            await exchange.end()
            self._record(scope, exchange, time.perf_counter() - started)

    async def _answer(self, scope: Scope, headers: Headers, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                try:
                    self._admit(scope, headers, exchange)
                    with self._counted(scope), self._requests.held(_client_to_count(scope)):
                        if _has_body(scope):
                            await self._recognizer.pace.turn()
                        await self._app(scope, exchange.receive, exchange.send)
                except asyncio.CancelledError:
                    if not exchange.is_client_gone:
                        raise
                    task = asyncio.current_task()
                    assert task is not None
                    task.uncancel()
        except TimeoutError:
            if not exchange.status:
                allowed = f"within {self._settings.request_timeout_s:g} s"
                refusal = Refusal(408, f"the request was not complete and answered {allowed}", code="timeout")
                await error_response(refusal)(scope, exchange.receive, exchange.send)
        except Refusal as refusal:
            response = error_response(refusal)
            if not await exchange.discard_body():
                response.headers["Connection"] = "close"
            await response(scope, exchange.receive, exchange.send)

    @contextlib.contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        """Count this request. Raises Refusal if there are too many."""
        if scope["path"] in OPEN_PATHS:
            yield
            return
        ledger, most = self._recognizer.ledger, self._settings.max_requests
        if not ledger.take("requests", most if _has_body(scope) else sys.maxsize):
            message = f"{most} requests are under way, no more are taken; try again later"
            raise Refusal(429, message, code="server_busy", headers=self._retry)
        try:
            yield
        finally:
            ledger.add("requests", -1)

    def _admit(self, scope: Scope, headers: Headers, exchange: Exchange) -> None:
        """Check what the head alone tells, before any of the body is read. Raises Refusal."""
        self._origins.require(scope, headers)
        if scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            return
        self._identify(scope, _bearer(headers))
        if scope["method"] != "GET":
            self._require_open()
        length = headers.get("content-length", "")
        exchange.body.require_size(int(length) if length.isdecimal() else 0)

    def _identify(self, scope: Scope, key: str | None) -> None:
        """Find whose request it is, for logs and quotas. Raises Refusal if a key is needed and missing."""
        name = self._keys.name_of(key)
        if name is None and self._keys.are_needed:
            raise Refusal(
                401,
                "this server needs one of its API keys: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        address = scope["client"][0] if scope.get("client") else None
        scope["state"] |= {"key": name, "client": client_of(name, address)}

    @property
    def _retry(self) -> dict[str, str]:
        return {"Retry-After": str(self._settings.retry_after_s)}

    def _require_open(self) -> None:
        if self._recognizer.service.failed:
            raise Refusal(
                503, "the engine has failed and is being restarted", code="engine_failed", headers=self._retry
            )
        if self._recognizer.is_draining.is_set():
            raise Refusal(503, "this server is shutting down", code="shutting_down", headers=self._retry)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        scope.setdefault("state", {})["request_id"] = _request_id(headers)
        with contextlib.ExitStack() as held:
            try:
                self._origins.require(scope, headers)
                offered = [name for name in scope.get("subprotocols", ()) if name.startswith(KEY_SUBPROTOCOL)]
                key = _bearer(headers) or (offered[0].removeprefix(KEY_SUBPROTOCOL) if offered else None)
                self._identify(scope, key)
                self._require_open()
                held.enter_context(self._sessions.held(scope["state"]["client"]))
            except Refusal as refusal:
                await WebSocket(scope, receive, send).send_denial_response(error_response(refusal))
                return
            await self._app(scope, receive, send)

    def _record(self, scope: Scope, exchange: Exchange, wall_s: float) -> None:
        status = exchange.status or 499  # nginx's status for a client that disconnected before the answer
        route = getattr(scope.get("route"), "path", None)  # None if the guard refused the request
        path = route or (scope["path"] if scope["path"] in self._paths else "unknown")
        self._recognizer.metrics.requests.labels(path, str(status)).inc()
        self._recognizer.metrics.request_seconds.labels(path).observe(wall_s)
        if scope["path"] in OPEN_PATHS or scope["path"] == "/metrics":
            return
        client = scope.get("client")
        line = {
            "request_id": exchange.request_id,
            "client": client[0] if client else None,
            "key": scope["state"]["key"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "bytes": exchange.body.num_bytes,
            "seconds": round(wall_s, 4),
        }
        log.info("request", extra={"fields": line | scope["state"].get("log", {})})


def _has_body(scope: Scope) -> bool:
    """Whether it may take long; others are not limited, and wait for no turn of the loop."""
    return scope["method"] not in ("GET", "OPTIONS")


def _client_to_count(scope: Scope) -> str | None:
    """The client whose quota this request counts against; None for GET, to which limits on requests do not apply."""
    client: str | None = scope["state"]["client"]
    return None if scope["method"] == "GET" else client


def _request_id(headers: Headers) -> str:
    """The client's own X-Request-ID if it is well-formed, else a random one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _bearer(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
