"""Middleware of Ray Serve's proxies: a request whose replica died is answered 503, which clients try again.

Ray itself answers it with nothing, which becomes a plain 500. The proxies load this if the environment of every node,
before `ray start`, has

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=twostage_asr.engine.ray_proxy.middlewares
"""

from http import HTTPStatus

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class UnavailableReplica:
    """Answers requests that nobody has answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        await self._app(scope, receive, send_noted)
        if scope["type"] == "http" and not is_answered:
            error = {"message": "the replica that had this request has died; try again", "code": "engine_failed"}
            answer = JSONResponse({"error": error}, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"})
            await answer(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Ray Serve calls in each proxy."""
    return [Middleware(UnavailableReplica)]
