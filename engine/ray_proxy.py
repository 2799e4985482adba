"""Middleware of Ray Serve's proxies: it answers for a replica that died, so that clients try again.

Ray itself then sends nothing: a request becomes a plain 500, and a WebSocket is cut without a close code. With this, a
request is answered 503 with Retry-After, and a WebSocket is closed with code 1012. The proxies load it if the
environment of every node, before `ray start`, has

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=twostage_asr.engine.ray_proxy.middlewares
"""

from http import HTTPStatus

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

RESTART = 1012  # close code of a server that is being restarted: connect again
_LAST = frozenset({"websocket.close", "websocket.http.response.start"})  # what a WebSocket that has not died sends


class UnavailableReplica:
    """Answers what nobody has answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen: set[str] = set()  # types of messages, in either direction

        async def receive_noted() -> Message:
            message = await receive()
            seen.add(message["type"])
            return message

        async def send_noted(message: Message) -> None:
            seen.add(message["type"])
            await send(message)

        await self._app(scope, receive_noted, send_noted)
        error = {"message": "the replica that had this request has died; try again", "code": "engine_failed"}
        answer = JSONResponse({"error": error}, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"})
        if scope["type"] == "http" and "http.response.start" not in seen:
            await answer(scope, receive, send)
        elif scope["type"] == "websocket" and not seen & (_LAST | {"websocket.disconnect"}):
            if "websocket.accept" in seen:
                reason = "the replica of this session has died; connect again"
                await send({"type": "websocket.close", "code": RESTART, "reason": reason})
            else:
                await WebSocket(scope, receive, send).send_denial_response(answer)


def middlewares() -> list[Middleware]:
    """What Ray Serve calls in each proxy."""
    return [Middleware(UnavailableReplica)]
