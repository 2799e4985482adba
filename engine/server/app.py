"""The ASGI application: all protocols share one Recognizer, behind the RequestGuard; CORS is answered before it."""

import asyncio
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from . import (
    chat,
    failures,
    fields,
    funasr,
    metrics,
    openai_audio,
    openai_realtime,
    openapi,
    predict,
    realtime,
    web_page,
    whisper_asr,
    whisper_cpp,
)
from .headers import SecurityHeaders
from .recognizer import Recognizer
from .request_guard import RequestGuard


def create_app(recognizer: Recognizer, *, offline: bool = True, live: bool = True, has_docs: bool = True) -> FastAPI:
    """The ASGI application; `offline` and `live` choose the protocols for files and for live audio."""
    about: dict[str, Any] = {
        "title": "twostage-asr",
        "version": "1",
        "description": openapi.ABOUT,
    }
    # FastAPIOffline serves /docs with Swagger UI from this server's own files.
    app = FastAPIOffline(redoc_url=None, **about) if has_docs else FastAPI(openapi_url=None, **about)
    failures.install(app)
    app.include_router(_operation(recognizer))
    app.include_router(web_page.router(recognizer, offline=offline))
    if offline:
        for protocol in (openai_audio, chat, funasr, predict, whisper_asr, whisper_cpp):
            app.include_router(protocol.router(recognizer))
    if live:
        for live_protocol in (realtime, openai_realtime):
            app.include_router(live_protocol.router(recognizer))
    paths = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    app.add_middleware(RequestGuard, recognizer=recognizer, paths=paths)
    openapi.describe(app)
    if recognizer.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=recognizer.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", fields.HEADER],
        )
    app.add_middleware(SecurityHeaders)
    return app


def _operation(recognizer: Recognizer) -> APIRouter:
    """The routes for operators: health, readiness and metrics."""
    router = APIRouter(tags=["operation"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The process lives and answers."""
        return {"status": "ok"}

    @router.get("/ready", responses={503: {"description": "not ready"}})
    async def ready() -> Response:
        """Requests are taken: the engine lives, there is room, and the server is not being shut down."""
        status = recognizer.readiness
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @router.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Counters, in Prometheus' text format."""
        text = await asyncio.to_thread(recognizer.metrics_text)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    return router
