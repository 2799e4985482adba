"""Error answers: every failure of every route has OpenAI's error schema.

{"error": {"message": what was wrong, "type": ..., "param": the field or null, "code": ...}}
"""

import errno
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from ..errors import (
    ASRError,
    AudioError,
    AudioTooLongError,
    ConfigError,
    DecodeError,
    PromptTooLongError,
    QueueFullError,
    ServiceClosedError,
)

# The most specific class that fits decides the status. The `code` of an answer is that of the error (errors.py).
STATUS: dict[type[ASRError], int] = {
    AudioTooLongError: 413,
    AudioError: 400,
    ConfigError: 400,
    PromptTooLongError: 400,
    QueueFullError: 429,
    ServiceClosedError: 503,
    DecodeError: 503,
    ASRError: 500,
}
MOST_SAID = 10  # most problems with a request's fields that one answer names
MOST_CHARS = 200  # most characters for each of them
FORM_ADVICE = "audio comes as a part of a form, as of curl -F file=@a.wav"  # for those who send it in another way
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Refusal(HTTPException):
    """Answers the request with an error. It is an HTTPException so that FastAPI's parsers pass it on."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.param = param

    @property
    def body(self) -> dict[str, Any]:
        """The answer, in the schema above."""
        return error_body(self.status_code, str(self.detail), code=self.code, param=self.param)


def refusal_of(error: ASRError) -> Refusal:
    """The error answer for a request that failed with this error."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return Refusal(status, str(error), code=error.code)


def first_problem(error: ValidationError, *above: str) -> tuple[str, str]:
    """Where the first value that pydantic refuses lies, below the names `above`, and what is wrong with it."""
    problem = error.errors()[0]
    return ".".join(map(str, (*above, *problem["loc"]))), problem["msg"]


def error_body(status: int, message: str, *, code: str | None, param: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(refusal: HTTPException) -> JSONResponse:
    """Any HTTPException as an answer in the schema above."""
    status, headers = refusal.status_code, dict(refusal.headers or {})
    code = refusal.code if isinstance(refusal, Refusal) else _CODES.get(status, "bad_request")
    param = refusal.param if isinstance(refusal, Refusal) else None
    cause = refusal.__cause__
    message = str(refusal.detail)
    if isinstance(cause, OSError):  # the form parser could not write the upload to the disk
        status, code = (507, "disk_full") if cause.errno == errno.ENOSPC else (500, "server_error")
        message = "the server could not store the upload" + (": its disk is full" if status == 507 else "")
    if status in (429, 503):
        headers.setdefault("Retry-After", "1")
    return JSONResponse(error_body(status, message, code=code, param=param), status, headers)


def install(app: FastAPI) -> None:
    """Register handlers that answer every error of `app` in the schema."""

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not isinstance(error, Refusal) and error.status_code in _CODES:
            error.detail = _unknown_route(request, error)
        return error_response(error)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_validation_refusal(error))

    async def on_asr_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ASRError)
        return error_response(refusal_of(error))

    async def on_anything(request: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, so that the server logs it.
        return error_response(Refusal(500, "the server failed; its log says why", code="server_error"))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(ASRError, on_asr_error)
    app.add_exception_handler(Exception, on_anything)


def _unknown_route(request: Request, error: HTTPException) -> str:
    """What to send in place of a request that no route takes, as a PUT of a file by GStreamer or curl -T."""
    path = _shortened(request.url.path)
    if error.status_code == 404:
        return f"this server has nothing at {path}"
    allowed = (error.headers or {}).get("Allow", "")
    advice = f"; {FORM_ADVICE}" if "POST" in allowed else ""
    return f"{_shortened(request.method)} is not allowed at {path}, but {allowed}{advice}"


def _validation_refusal(error: RequestValidationError) -> Refusal:
    """A Refusal that names the request's invalid fields; `param` is the first of them."""
    problems = error.errors()
    places = [
        _shortened(".".join(str(part) for part in problem["loc"][1:]) or "body") for problem in problems[:MOST_SAID]
    ]
    messages = [_shortened(problem["msg"]) for problem in problems[:MOST_SAID]]
    sentences = [f"{place}: {message}" for place, message in zip(places, messages, strict=True)]
    if len(problems) > MOST_SAID:
        sentences.append(f"and {len(problems) - MOST_SAID:,} more")
    return Refusal(400, "; ".join(sentences), code="invalid_request", param=places[0] if places else None)


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}..."
