"""Security headers for every answer: browsers may not run scripts in it, frame it, or guess its media type.

The web page and the API documentation have policies of their own, which allow what they need.
"""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page runs its own scripts alone. What it plays and saves are the reader's files, which it has as blobs.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; media-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI is served from this server's own files. Its page starts it with an inline script.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OTHER_POLICY = "default-src 'none'; frame-ancestors 'none'"
_POLICIES = {"/": PAGE_POLICY, "/docs": DOCS_POLICY}


class SecurityHeaders:
    """ASGI middleware around the whole application, refusals included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICIES.get(scope["path"], OTHER_POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                # With "no-referrer", some browsers would send "Origin: null" from our own page.
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, send_with_headers)
