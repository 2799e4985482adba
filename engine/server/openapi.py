"""What /openapi.json and /docs say of the routes beyond what FastAPI finds: forms with files, errors and examples.

FastAPI describes a form that is a model as urlencoded, which has no place for a file. It also says that wrong fields
are answered 422, where this server answers 400 in OpenAI's schema (failures.py).
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from .failures import error_body

JSON, TEXT, LINES = "application/json", "text/plain", "application/x-ndjson"
FORM, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
ABOUT = (
    "Speech recognition with LLM decoders. Live audio goes to the WebSockets `/v1/realtime` (OpenAI's and vLLM's "
    "events), `/` (FunASR's commands and JSON) and `/ws` (FunASR's commands, whole recordings), which OpenAPI does not "
    "describe. If the server has keys, send one as `Authorization: Bearer KEY`."
)
_ANSWERED_422 = ("HTTPValidationError", "ValidationError")  # FastAPI's own schemas of these answers
_TEXT = "Set the volume to 25."
_WORDS = [{"word": "Set", "start": 0.33, "end": 0.52}]
_USAGE = {"type": "duration", "seconds": 3}
_MODEL = {"id": "Fun-ASR-Nano-2512", "object": "model", "created": 1795910400, "owned_by": "twostage-asr"}


@dataclass(frozen=True, slots=True)
class Example:
    """A request of a route, and what is answered."""

    answer: Any
    request: Mapping[str, Any] | None = None  # fields of the form without its file, or the JSON body
    media_type: str = JSON  # of the answer


EXAMPLES: Mapping[str, Example] = {
    "/health": Example({"status": "ok"}),
    "/ready": Example({"status": "ok"}),
    "/v1/models": Example({"object": "list", "data": [_MODEL]}),
    "/v1/models/{model}": Example(_MODEL),
    "/v1/audio/transcriptions": Example(
        {
            "task": "transcribe",
            "language": "en",
            "duration": 2.31,
            "text": _TEXT,
            "segments": [
                {
                    "id": 0,
                    "seek": 0,
                    "start": 0.33,
                    "end": 2.01,
                    "text": _TEXT,
                    "tokens": [],
                    "temperature": 0.0,
                    "avg_logprob": -0.01,
                    "compression_ratio": 0.72,
                    "no_speech_prob": None,
                    "words": _WORDS,
                }
            ],
            "usage": _USAGE,
            "confidence": 0.99,
            "warnings": [],
            "words": _WORDS,
        },
        {"language": "en", "response_format": "verbose_json"},
    ),
    "/v1/chat/completions": Example(
        {
            "id": "chatcmpl-5f0c7e",
            "created": 1795910400,
            "model": "Fun-ASR-Nano-2512",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _TEXT},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "total_tokens": 12,
                "prompt_tokens_details": {"audio_tokens": 5},
            },
            "warnings": [],
        },
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "BASE64"}}]}]},
    ),
    "/asr": Example(
        {
            "text": _TEXT,
            "segments": [{"text": _TEXT, "start": 0.33, "end": 2.01, "words": _WORDS}],
            "duration": 2.31,
            "processing_time": 0.091,
            "rtf": 0.0394,
            "language": "en",
            "warnings": [],
        },
        {"language": "en", "hotwords": "Catherine,Boston"},
    ),
    "/asr/predict": Example({"id": "0d9c3f", "transcript": _TEXT}, {"json": '{"media_type": "wav"}'}),
    "/asr/stream-predict": Example(
        '{"id": "0d9c3f", "transcript": "Set the", "is_final": false}\n'
        f'{{"id": "0d9c3f", "transcript": "{_TEXT}", "is_final": true}}\n',
        {"json": '{"media_type": "wav"}'},
        LINES,
    ),
    "/detect-language": Example({"detected_language": "english", "language_code": "en", "confidence": None}, {}),
    "/inference": Example(
        f"1\n00:00:00,330 --> 00:00:02,010\n{_TEXT}\n", {"language": "en", "response_format": "srt"}, TEXT
    ),
}
ERROR = error_body(400, "response_format 'xml' is unknown", code="invalid_value", param="response_format")


def describe(app: FastAPI) -> None:
    """Complete the description of the app's routes."""
    found = app.openapi

    @functools.cache
    def openapi() -> dict[str, Any]:
        schema = found()
        forms = schema.get("components", {}).get("schemas", {})
        for name in _ANSWERED_422:
            forms.pop(name, None)
        for form in forms.values():
            _show_files(form)
        for path, example in EXAMPLES.items():
            for operation in schema["paths"].get(path, {}).values():
                _prefill(operation, forms, example.request or {})
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _complete(operation, EXAMPLES.get(path))
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _show_files(form: dict[str, Any]) -> None:
    """Describe files, which may be absent, as plain files, for which /docs has a button, and put them first."""
    fields = form.get("properties", {})
    files = {name: field for name, field in fields.items() if "contentMediaType" in json.dumps(field)}
    for name, field in files.items():
        shown = {key: value for key, value in field.items() if key in ("title", "description")}
        files[name] = {**shown, "type": "string", "format": "binary"}
    if files:
        form["properties"] = {**files, **{name: field for name, field in fields.items() if name not in files}}


def _prefill(operation: dict[str, Any], forms: dict[str, Any], request: Mapping[str, Any]) -> None:
    """Let /docs begin with the example's fields and leave the others empty: it invents values, which are refused."""
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        if media_type in (FORM, URLENCODED):
            for name, field in forms[body["schema"]["$ref"].rpartition("/")[2]]["properties"].items():
                if name in request:
                    field["example"] = request[name]
                elif field.get("type") == "array":
                    field["example"] = []
                elif field.get("default") is None and field.get("format") != "binary":
                    field["example"] = ""


def _complete(operation: dict[str, Any], example: Example | None) -> None:
    content = operation.get("requestBody", {}).get("content", {})
    if URLENCODED in content:
        content[FORM] = content.pop(URLENCODED)
    answers = operation["responses"]
    if answers.pop("422", None) or "requestBody" in operation:
        answers["400"] = {"description": "The request cannot be answered", "content": {JSON: {"example": ERROR}}}
    if example is None:
        return
    answers["200"].setdefault("content", {}).setdefault(example.media_type, {})["example"] = example.answer
    for body in content.values():
        body["example"] = example.request
