"""OpenAI's audio API: POST /v1/audio/transcriptions and /v1/audio/translations, GET /v1/models."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from pydantic import Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..run_options import SpeakerSettings, TranscribeOptions
from ..writers import SubtitleShape, formatted
from ..writers.cues import LINE_COLUMNS, LINES_PER_CUE
from . import formats
from .failures import Refusal
from .fields import MAX_WORDS, ClientRoute, hotwords_in, require_audio_url
from .recognizer import Recognizer
from .speakers import MAX_KNOWN, SpeakerForm, known_speakers, require_references
from .sse import DiarizedStream, TextStream, event_stream

Granularity = Literal["word", "segment"]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class TranscriptionForm(SpeakerForm):
    """The fields of OpenAI's request; FunASR's `hotwords`, `spk` and `itn`; and vLLM's sampling parameters.

    If the model knows exactly one of `languages`, it is asked for that one; else it detects the language itself.
    """

    model: Annotated[str, Field(description="For compatibility; this server has one model")] = "fun-asr-nano"
    language: Annotated[str | None, Field(description="A name or ISO code; left to the model by default")] = None
    languages: list[str] = Field([], max_length=64, description="Those that there may be")
    prompt: Annotated[
        str, Field(description="What the speech is about; words separated by commas where the model takes no more")
    ] = ""
    keywords: list[str] = Field([], max_length=MAX_WORDS, description="Words that the model shall prefer")
    hotwords: list[str] = Field([], max_length=MAX_WORDS, description="The same, separated by commas")
    response_format: formats.ResponseFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    timestamp_granularities: list[Granularity] = Field([], max_length=8)
    include: list[Literal["logprobs"]] = Field([], max_length=8)
    stream: bool = False
    chunking_strategy: Annotated[Any, Field(description='Long audio is always cut at pauses, as by "auto"')] = "auto"
    itn: Annotated[bool, Field(description="Numbers, dates and amounts in figures")] = True
    diarize: Annotated[bool, Field(description="The same as spk")] = False
    known_speaker_names: list[Name] = Field([], max_length=MAX_KNOWN, description="Speakers to call by these names")
    known_speaker_references: list[str] = Field(
        [], max_length=MAX_KNOWN, description="Their voices: a data URL of 2 to 10 seconds of audio for each"
    )
    max_line_width: Annotated[int, Field(ge=1, description="Columns of srt and vtt; an ideograph takes two")] = (
        LINE_COLUMNS
    )
    max_lines: Annotated[int, Field(ge=1, description="Of one cue of srt and vtt")] = LINES_PER_CUE
    max_words_per_cue: Annotated[int | None, Field(ge=1, description="Of srt and vtt; as many as fit")] = None
    highlight_words: Annotated[bool, Field(description="srt and vtt mark each word while it is spoken")] = False

    @property
    def subtitle_shape(self) -> SubtitleShape:
        return SubtitleShape(
            max_line_width=self.max_line_width,
            max_lines=self.max_lines,
            max_words_per_cue=self.max_words_per_cue,
            highlight_words=self.highlight_words,
        )

    @property
    def wants_words(self) -> bool:
        return not self.timestamp_granularities or "word" in self.timestamp_granularities

    @property
    def names_speakers(self) -> bool:
        """Whether speakers are asked for, and the answer has a place for them."""
        asked = self.spk or self.diarize
        return self.response_format == "diarized_json" or (
            asked and self.response_format in ("verbose_json", "srt", "vtt")
        )

    @property
    def without_effect(self) -> list[str]:
        """Known fields whose value has no effect here."""
        about_speakers = ("spk", "diarize", "known_speaker_names", "known_speaker_references")
        given = [] if self.names_speakers else [name for name in about_speakers if getattr(self, name)]
        counts = [] if self.names_speakers else self.counts_given
        return [*given, *counts, *([] if self.chunking_strategy == "auto" else ["chunking_strategy"])]


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=ClientRoute)

    @routes.post("/audio/transcriptions", response_class=Response)
    async def transcriptions(request: Request, form: Annotated[TranscriptionForm, Form()]) -> Response:
        """Transcribe a file. With `stream`, the text is sent as server-sent events while it is decoded."""
        return await answer(recognizer, request, form)

    @routes.post("/audio/translations", response_class=Response)
    async def translations(request: Request) -> Response:
        """Always refused: these models transcribe speech in its own language."""
        async for _ in request.stream():  # read the body first: a client that is still sending reads no answer
            pass
        raise Refusal(
            400,
            f"{recognizer.settings.model_name} transcribes and does not translate; use /v1/audio/transcriptions",
            code="unsupported_task",
        )

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The one model of this server."""
        return {"object": "list", "data": [_model(recognizer)]}

    @routes.get("/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        if model != recognizer.settings.model_name:
            message = f"there is no model {model!r}; this server has {recognizer.settings.model_name!r}"
            raise Refusal(404, message, code="model_not_found", param="model")
        return _model(recognizer)

    return routes


def _model(recognizer: Recognizer) -> dict[str, Any]:
    return {
        "id": recognizer.settings.model_name,
        "object": "model",
        "created": recognizer.created,
        "owned_by": "twostage-asr",
    }


async def answer(recognizer: Recognizer, request: Request, form: TranscriptionForm) -> Response:
    """Transcribe the audio of a form and answer in the format that it names. Raises ASRError and Refusal."""
    recognizer.unknown_fields.heed(request, form, others=form.without_effect)
    _refuse_what_is_missing(form)
    options = _options(recognizer, form)
    if form.names_speakers:
        options = replace(options, speakers=await _speakers(recognizer, request, form))
    known = form.known_speaker_names or recognizer.speakers.known_names
    recording = await form.read(recognizer, request)
    if form.stream:
        events = DiarizedStream(known) if form.names_speakers else TextStream()
        return event_stream(recognizer, events, recording, options)
    transcript = await recognizer.transcribe(recording, options)
    match form.response_format:
        case "json":
            return JSONResponse(formats.plain(transcript))
        case "verbose_json":
            verbose = formats.verbose(transcript, with_words=form.wants_words, temperature=form.temperature)
            return JSONResponse(verbose)
        case "diarized_json":
            return JSONResponse(formats.diarized(transcript, known=known))
        case "text":
            return PlainTextResponse(transcript.text)
    return PlainTextResponse(formatted(transcript, form.response_format, form.subtitle_shape))


def _refuse_what_is_missing(form: TranscriptionForm) -> None:
    if form.stream and form.response_format not in ("json", "text", "diarized_json"):
        message = f"stream=true needs response_format json, text or diarized_json, got {form.response_format}"
        raise Refusal(400, message, code="unsupported_value", param="response_format")
    if form.include and form.response_format != "json":
        message = f"include[]=logprobs needs response_format=json, got {form.response_format}"
        raise Refusal(400, message, code="unsupported_value", param="include[]")


async def _speakers(recognizer: Recognizer, request: Request, form: TranscriptionForm) -> SpeakerSettings:
    """What the form says about speakers. Raises AudioError, ConfigError and Refusal, before any work on the file."""
    names, references = form.known_speaker_names, form.known_speaker_references
    form.speaker_settings()
    require_references(names, references)
    for reference in references:
        require_audio_url(reference, param="known_speaker_references")
    await recognizer.speakers.require("response_format" if form.response_format == "diarized_json" else "spk")
    read = [
        await recognizer.read(reference, name=f"the reference of {name!r}", client=request.state.client)
        for name, reference in zip(names, references, strict=True)
    ]
    return form.speaker_settings(known_speakers(names, read))


def _options(recognizer: Recognizer, form: TranscriptionForm) -> TranscribeOptions:
    recognizer.require_prompt(form.language or "", form.prompt, *form.hotwords, *form.keywords)
    prompted, context = recognizer.prompted(form.prompt)
    options = recognizer.options(
        language=form.language or recognizer.only_language(form.languages),
        hotwords=[*form.keywords, *hotwords_in(",".join(form.hotwords)), *prompted],
        itn=form.itn,
        context=context,
        timestamps=form.names_speakers or (not form.stream and form.response_format in ("verbose_json", "srt", "vtt")),
        temperature=form.temperature,
        top_p=form.top_p,
        repetition_penalty=form.repetition_penalty,
        seed=form.seed,
    )
    return replace(options, token_log_probs=bool(form.include))
