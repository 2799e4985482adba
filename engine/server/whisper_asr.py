"""whisper-asr-webservice: POST /asr with `audio_file` (its route is in funasr.py), and POST /detect-language.

Clients such as Bazarr send the options in the query. With `encode=false` they send samples without a header: 16-bit
little-endian, mono, 16 kHz. The answer of /asr is a text file in the format that `output` names.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request, UploadFile
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from ..audio.waveform import SAMPLE_RATE
from ..errors import ConfigError
from ..families.languages import LANGUAGES, KnownLanguages
from ..vad.splitting import Piece
from ..writers import WRITERS
from .bodies import samples_of
from .failures import Refusal
from .fields import ClientRoute, Open, log_duration
from .recognizer import Recognizer
from .speakers import SpeakerCounts

UNDETERMINED = "und"  # the ISO 639-2 code for an undetermined language, which Bazarr understands
_CODES = KnownLanguages({code: code for code in LANGUAGES})


class RawQuery(Open):
    encode: Annotated[bool, Field(description="false: the file is 16-bit mono samples of 16 kHz, without a head")] = (
        True
    )


class AsrQuery(RawQuery, SpeakerCounts):
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    initial_prompt: str = ""
    output: Literal["txt", "vtt", "srt", "tsv", "json"] = "txt"
    word_timestamps: Annotated[bool, Field(description="Words in json; subtitles always use their times")] = False
    diarize: Annotated[bool, Field(description="Say who speaks, in txt, vtt, srt and json")] = False
    vad_filter: Annotated[bool, Field(description="Long audio is always cut at pauses")] = False


class DetectForm(Open):
    audio_file: UploadFile


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(tags=["whisper-asr-webservice"], route_class=ClientRoute)

    @routes.post("/detect-language")
    async def detect_language(
        request: Request, form: Annotated[DetectForm, Form()], query: Annotated[RawQuery, Query()]
    ) -> dict[str, Any]:
        """The language of the first segment, as the model names it; "und" if it names none."""
        recognizer.unknown_fields.heed(request, form, query)
        recording = await _read(recognizer, request, form.audio_file, query)
        first = replace(recording, cuts=recording.cuts[:1])
        transcript = await recognizer.transcribe(first, recognizer.options(timestamps=False))
        code = language_code(transcript.language)
        name = LANGUAGES[code].english.lower() if code in LANGUAGES else "undetermined"
        return {"detected_language": name, "language_code": code, "confidence": None}

    return routes


async def answer(recognizer: Recognizer, request: Request, file: UploadFile, query: AsrQuery) -> Response:
    """The answer of /asr to a form with `audio_file`."""
    if query.task == "translate":
        message = f"{recognizer.settings.model_name} transcribes and does not translate"
        raise Refusal(400, message, code="unsupported_task", param="task")
    hotwords, context = recognizer.prompted(query.initial_prompt)
    options = recognizer.options(
        language=query.language,
        hotwords=hotwords,
        context=context,
        timestamps=query.word_timestamps or query.output in ("srt", "vtt") or query.diarize,
    )
    if query.diarize:
        settings = query.speaker_settings()
        await recognizer.speakers.require("diarize")
        options = replace(options, speakers=settings)
    transcript = await recognizer.transcribe(await _read(recognizer, request, file, query), options)
    name = f"attachment; filename*=UTF-8''{quote(file.filename or 'audio', safe='')}.{query.output}"
    return PlainTextResponse(WRITERS[query.output](transcript), headers={"Content-Disposition": name})


def language_code(language: str | None) -> str:
    """A transcript's language -> an ISO 639 code, that of the first language if there are several."""
    try:
        return _CODES.prompt_name((language or "").split(",")[0]) or UNDETERMINED
    except ConfigError:  # a model may write anything
        return UNDETERMINED


async def _read(recognizer: Recognizer, request: Request, file: UploadFile, query: RawQuery) -> Piece:
    client = request.state.client
    if query.encode:
        recording = await recognizer.read_upload(file, client=client)
    else:
        recording = await recognizer.read(await samples_of(file), SAMPLE_RATE, client=client)
    log_duration(request, recording)
    return recording
