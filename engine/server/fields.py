"""Known and unknown fields of requests.

Clients are written for many servers and send fields that this one does not know. Such a field is ignored, named in the
answer's X-Ignored-Fields header and, once, in the log; with `serve --strict-fields` it is an error. In a form, lists
and objects may be written with brackets, as OpenAI's SDKs do: `languages[]`, `chunking_strategy[type]`. A null means
the same as a field that is left out.
"""

import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from fastapi import UploadFile
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..vad.splitting import Piece
from .bodies import is_form
from .failures import Refusal

if TYPE_CHECKING:
    from .recognizer import Recognizer

HEADER = "X-Ignored-Fields"
MAX_NAMED = 16  # fields in one header or message
MAX_NAME_CHARS = 40
MAX_LOGGED = 1_000  # most names of fields that are logged, for all routes together
MAX_WORDS = 10_000  # in a list of hotwords; a prompt may hold fewer
MAX_PART_BYTES = 4 << 20  # of a part of a form that is no file: 10 s of 48 kHz and 24 bits as a data URL
FILE_FIELDS = ("file", "audio_file")  # of forms; they may not be texts
AUDIO_SCHEMES = ("http://", "https://", "data:")

_BRACKETED = re.compile(r"(\w+)\[(\w*)\]", re.ASCII)

log = logging.getLogger("twostage_asr.requests")


class Open(BaseModel):
    """A request that may have any fields; `unknown_fields` finds the unknown ones."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _as_json(cls, given: Any) -> Any:
        """Drop nulls, and turn the bracketed names of forms into lists and objects."""
        if not isinstance(given, Mapping):
            return given
        return _unbracketed({name: value for name, value in given.items() if value is not None})


def _unbracketed(given: dict[str, Any]) -> dict[str, Any]:
    bracketed = {name: found for name in given if (found := _BRACKETED.fullmatch(name))}
    plain = {name: value for name, value in given.items() if name not in bracketed}
    for name, (outer, inner) in ((name, found.groups()) for name, found in bracketed.items()):
        if inner:
            plain[outer] = {**(plain[outer] if isinstance(plain.get(outer), dict) else {}), inner: given[name]}
        else:
            plain[outer] = [*_listed(plain.get(outer, [])), *_listed(given[name])]
    return plain


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def unknown_fields(given: BaseModel, place: str = "") -> Iterator[str]:
    """Dotted names of unknown fields, without list indices; a name may come more than once."""
    for name in given.model_extra or ():
        yield f"{place}{name}"
    for name in type(given).model_fields:
        value = getattr(given, name)
        for part in _listed(value):
            if isinstance(part, BaseModel):
                yield from unknown_fields(part, f"{place}{name}.")


class UnknownFields:
    """How one server handles unknown fields: it ignores and logs them, or refuses the request."""

    def __init__(self, *, are_errors: bool) -> None:
        self._are_errors = are_errors
        self._logged: set[tuple[str, str]] = set()  # path, name

    def heed(self, request: Request, given: Open, query: Open | None = None, *, others: Iterable[str] = ()) -> None:
        """Find unknown fields of a body and of the query, add `others`, and name them in the answer and the log.

        Raises:
            Refusal: there are some, and this server treats them as errors.
        """
        known_query = () if query is None else type(query).model_fields
        found = [*unknown_fields(given), *(name for name in request.query_params if name not in known_query), *others]
        names = list(dict.fromkeys(found))
        if not names:
            return
        if self._are_errors:
            known = ", ".join([*type(given).model_fields, *known_query])
            message = f"without a meaning here: {named(names)}; the fields that are known: {known}"
            raise Refusal(400, message, code="unknown_parameter", param=shown(names[0]))
        request.state.ignored = named(names)
        self._log(request.scope["route"].path, names)

    def _log(self, path: str, names: list[str]) -> None:
        pairs = {(path, shown(name)) for name in names[:MAX_NAMED]}
        if (new := pairs - self._logged) and len(self._logged) < MAX_LOGGED:
            self._logged |= new
            log.info("fields ignored", extra={"fields": {"path": path, "names": sorted(name for _, name in new)}})


def hotwords_in(text: str) -> list[str]:
    """Split hotwords that are written into one field, separated by commas of any script or by line ends."""
    return [word for part in re.split(r"[,，、\n]", text) if (word := part.strip())]


def shown(name: str) -> str:
    """A client's name for a field, short and safe in a header and in the log."""
    plain = re.sub(r"[^\w.\[\]-]", "?", name[:MAX_NAME_CHARS], flags=re.ASCII)
    return (plain or "?") if len(name) <= MAX_NAME_CHARS else f"{plain}..."


def named(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return ", ".join([*map(shown, names[:MAX_NAMED]), *more])


class ClientRoute(APIRoute):
    """A route whose answer names the ignored fields, and whose forms may have data URLs, and one file of each name."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            if is_form(request.headers) and self.body_field is not None:
                try:
                    form = await request.form(max_part_size=MAX_PART_BYTES)  # which FastAPI finds read
                except OSError as error:
                    raise HTTPException(400, "the form could not be read") from error
                for name in FILE_FIELDS:  # FastAPI would take the last one
                    if (count := len(form.getlist(name))) > 1:
                        raise Refusal(400, f"one {name} is transcribed, got {count}", code="invalid_value", param=name)
            response = await answer(request)
            if ignored := getattr(request.state, "ignored", ""):
                response.headers[HEADER] = ignored
            return response

        return handler


class AudioForm(Open):
    """A form with audio, and with options for reading it."""

    file: Annotated[UploadFile | None, Field(description="Any common audio or video file")] = None
    url: Annotated[str | None, Field(description="In place of a file, from a host that this server allows")] = None
    channels: Annotated[
        Literal["mix", "split"] | Annotated[int, Field(ge=0)],
        Field(description="mix: their mean; split: each by itself; a number: that one alone, counted from 0"),
    ] = "mix"
    salvage: Annotated[bool, Field(description="Of a damaged file, take what can be decoded")] = False

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, given: Any) -> Any:
        """Drop fields that were left empty, which web forms send as empty texts, and empty entries of lists."""
        if not isinstance(given, Mapping):
            return given
        filled = {
            name: [each for each in value if each != ""] if isinstance(value, list) else value
            for name, value in given.items()
        }
        return {name: value for name, value in filled.items() if name in FILE_FIELDS or value not in ("", [])}

    @field_validator("file", mode="before")
    @classmethod
    def _is_a_file(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError("this part of the form needs a filename, as files have")
        return given

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [name for name in self.sources() if getattr(self, name) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none: is the body a form, as of curl -F file=@a.wav?"
            raise ValueError(f"one of {', '.join(self.sources())} is needed, got {found}")
        return self

    @classmethod
    def sources(cls) -> tuple[str, ...]:
        """The fields that may hold the audio; each request has exactly one of them."""
        return ("file", "url")

    async def read(self, recognizer: "Recognizer", request: Request) -> Piece:
        """Raises AudioError, or Refusal for a URL of another kind."""
        how: dict[str, Any] = {"channels": self.channels, "salvage": self.salvage, "client": request.state.client}
        if self.url is not None:
            require_audio_url(self.url, param="url")
            recording = await recognizer.read(self.url, **how)
        else:
            assert self.file is not None
            recording = await recognizer.read_upload(self.file, **how)
        log_duration(request, recording)
        return recording


def log_duration(request: Request, recording: Piece) -> None:
    """Let the log's line of this request say how much audio it had."""
    request.state.log = {"audio_s": round(recording.duration, 2)}


def require_audio_url(url: str, *, param: str) -> None:
    """Raises Refusal unless the URL has one of AUDIO_SCHEMES, so that clients cannot read this machine's files."""
    if not url.lower().startswith(AUDIO_SCHEMES):
        raise Refusal(400, f"{param} must be a data:, http: or https: URL", code="invalid_value", param=param)
