"""OpenAI's audio API: POST /v1/audio/transcriptions and /v1/audio/translations, GET /v1/models."""

import re
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..transcriber import TranscribeOptions
from ..transcript import Transcript
from ..writers import WRITERS
from . import formats
from .failures import Refusal
from .speech import Speech
from .sse import TextStream, event_stream

Granularity = Literal["word", "segment"]


class TranscriptionForm(BaseModel):
    """The fields of OpenAI's request, and `hotwords`, `spk` and `itn`, which FunASR's users know."""

    model_config = ConfigDict(extra="forbid")

    file: Annotated[UploadFile, Field(description="Any common audio or video file")]
    model: Annotated[str, Field(description="For compatibility; this server has one model")] = "fun-asr-nano"
    language: Annotated[str | None, Field(description="A name or ISO code; left to the model by default")] = None
    prompt: Annotated[
        str, Field(description="What the speech is about; words separated by commas where the model takes no more")
    ] = ""
    keywords: Annotated[list[str], Field(alias="keywords[]", description="Words that the model shall prefer")] = []
    hotwords: Annotated[str, Field(description="The same, separated by commas")] = ""
    response_format: formats.ResponseFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    granularities: Annotated[list[Granularity], Field(alias="timestamp_granularities[]")] = []
    timestamp_granularities: list[Granularity] = []
    include: Annotated[list[Literal["logprobs"]], Field(alias="include[]")] = []
    stream: bool = False
    chunking_strategy: Annotated[Literal["auto"] | None, Field(description="Long audio is always cut at pauses")] = None
    itn: Annotated[bool, Field(description="Numbers, dates and amounts in figures")] = True
    spk: Annotated[bool, Field(description="Speaker labels; there is no speaker model yet")] = False

    @property
    def wants_words(self) -> bool:
        asked = {*self.granularities, *self.timestamp_granularities}
        return not asked or "word" in asked


def router(speech: Speech) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])

    @routes.post("/audio/transcriptions", response_class=Response)
    async def transcriptions(request: Request, form: Annotated[TranscriptionForm, Form()]) -> Response:
        """Transcribe a file. With `stream`, text comes as server-sent events while it is written."""
        _refuse_what_is_missing(form)
        options = _options(speech, form)
        recording = await speech.read_upload(form.file)
        request.state.log = {"audio_s": round(recording.duration, 2)}
        if form.stream:
            return event_stream(request, speech, TextStream(), recording, options)
        return _answer(form, await speech.transcribe(recording, options))

    @routes.post("/audio/translations", response_class=Response)
    async def translations(request: Request) -> Response:
        """Always refused: these models write down what is said, in its own language."""
        async for _ in request.stream():  # a client that is still sending would not read the answer
            pass
        raise Refusal(
            400,
            f"{speech.settings.model_name} transcribes and does not translate; use /v1/audio/transcriptions",
            code="unsupported_task",
        )

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The one model of this server."""
        return {"object": "list", "data": [_model(speech)]}

    @routes.get("/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        if model != speech.settings.model_name:
            message = f"there is no model {model!r}; this server has {speech.settings.model_name!r}"
            raise Refusal(404, message, code="model_not_found", param="model")
        return _model(speech)

    return routes


def hotwords_in(text: str) -> list[str]:
    """Hotwords as people write them into one field: separated by commas of any script, or lines."""
    return [word for part in re.split(r"[,，、\n]", text) if (word := part.strip())]


def _model(speech: Speech) -> dict[str, Any]:
    return {
        "id": speech.settings.model_name,
        "object": "model",
        "created": speech.created,
        "owned_by": "twostage-asr",
    }


def _answer(form: TranscriptionForm, transcript: Transcript) -> Response:
    match form.response_format:
        case "json":
            return JSONResponse(formats.plain(transcript))
        case "verbose_json":
            answer = formats.verbose(transcript, with_words=form.wants_words, temperature=form.temperature)
            return JSONResponse(answer)
        case "text":
            return PlainTextResponse(transcript.text)
    return PlainTextResponse(WRITERS[form.response_format](transcript))


def _refuse_what_is_missing(form: TranscriptionForm) -> None:
    if form.response_format == "diarized_json" or form.spk:
        raise Refusal(
            400,
            "this server has no speaker model: diarized_json and spk are not available",
            code="unsupported_value",
            param="response_format" if form.response_format == "diarized_json" else "spk",
        )
    if form.stream and form.response_format not in ("json", "text"):
        message = f"stream=true sends text alone: response_format must be json or text, got {form.response_format}"
        raise Refusal(400, message, code="unsupported_value", param="response_format")
    if form.include and form.response_format != "json":
        message = f"include[]=logprobs needs response_format=json, got {form.response_format}"
        raise Refusal(400, message, code="unsupported_value", param="include[]")


def _options(speech: Speech, form: TranscriptionForm) -> TranscribeOptions:
    prompted = [] if speech.takes_context else hotwords_in(form.prompt)
    options = speech.options(
        language=form.language,
        hotwords=[*form.keywords, *hotwords_in(form.hotwords), *prompted],
        itn=form.itn,
        context=form.prompt if speech.takes_context else "",
        timestamps=not form.stream and form.response_format in ("verbose_json", "srt", "vtt"),
        temperature=form.temperature,
    )
    return replace(options, token_log_probs=bool(form.include))
