"""The web page at `/`, and the routes that only the page calls.

    GET  /page/NAME               the page's files; they need no key
    GET  /page/about              the model, its languages and limits, the formats, and the samples
    GET  /page/samples/NAME       a sample
    POST /page/transcripts        a file, as a form -> lines of JSON while it is transcribed
    POST /page/exports/FORMAT     a transcript, as the reader has edited it -> a file of engine/writers

The lines of a transcript are {"event": "read"} with the duration and the peaks of the waveform, {"event": "segment"}
for each part as soon as it is done, in any order, and {"event": "done"} with the whole transcript, or
{"event": "error"}.
"""

import asyncio
import base64
import contextlib
import gc
import json
import math
import unicodedata
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import Field, TypeAdapter, ValidationError
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from ..audio.waveform import SAMPLE_RATE
from ..errors import ASRError
from ..families.languages import LANGUAGES
from ..run_options import TranscribeOptions
from ..segments import Part, join_parts, join_texts, with_warnings
from ..transcript import Segment, SpeakerTurn, Transcript, TranscriptWarning, Word
from ..vad.splitting import Piece
from ..writers import WRITERS
from .bodies import require_few_values
from .failures import Refusal, first_problem, refusal_of
from .fields import MAX_WORDS, ClientRoute, hotwords_in
from .page_content import FILES, INDEX, MEDIA_TYPES
from .recognizer import Recognizer
from .recording import OnPart
from .speakers import SpeakerForm
from .sse import followed

PEAKS_PER_S = 50  # of the waveform that the page draws
MAX_TRANSCRIPT_VALUES = 1_000_000  # of JSON; three hours of speech have some 200,000
MAX_TIME_S = 1e6  # in a transcript that is to be written to a file
FRESH = {"Cache-Control": "no-cache"}  # a browser asks again, so that no old script meets a new server

_TRANSCRIPTS: TypeAdapter[Transcript] = TypeAdapter(Transcript)


class PageForm(SpeakerForm):
    """The options of the page."""

    language: str | None = None
    hotwords: list[str] = Field([], max_length=MAX_WORDS)
    itn: bool = True


def router(recognizer: Recognizer, *, offline: bool) -> APIRouter:
    """`offline`: whether this server takes files."""
    routes = APIRouter(include_in_schema=False, route_class=ClientRoute)
    for path, content in FILES.items():
        routes.add_api_route(path, _fixed(content, MEDIA_TYPES[PurePath(path).suffix]), methods=["GET"])
    routes.add_api_route("/", _fixed(INDEX, "text/html"), methods=["GET"])
    samples = recognizer.settings.page.samples if offline else {}

    @routes.get("/page/about")
    async def about() -> dict[str, Any]:
        return {**_about(recognizer), "takes_files": offline, "samples": list(samples)}

    @routes.get("/page/samples/{name}")
    async def sample(name: str) -> Response:
        if name not in samples:
            raise Refusal(404, f"there is no sample {name!r}", code="not_found", param="name")
        return FileResponse(samples[name], headers=FRESH)

    if offline:

        @routes.post("/page/transcripts")
        async def transcripts(request: Request, form: Annotated[PageForm, Form()]) -> Response:
            recognizer.unknown_fields.heed(request, form)
            return await _transcribe(recognizer, request, form)

    @routes.post("/page/exports/{name}")
    async def exports(name: str, transcript: Annotated[UploadFile, File()]) -> Response:
        return await _export(recognizer, name, transcript)

    return routes


def _fixed(content: bytes, media_type: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def answer() -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=FRESH)

    return answer


def _about(recognizer: Recognizer) -> dict[str, Any]:
    settings, family = recognizer.settings, recognizer.service.model.family
    languages = [{"code": code, "name": LANGUAGES[code].english} for code in family.languages if code in LANGUAGES]
    return {
        "model": settings.model_name,
        "family": family.name,
        "note": settings.page.note.model_dump(),
        "languages": languages,
        "default_language": settings.language,
        "formats": list(WRITERS),
        "max_audio_s": settings.max_audio_s,
        "max_file_bytes": settings.max_body_bytes,
    }


async def _transcribe(recognizer: Recognizer, request: Request, form: PageForm) -> Response:
    recognizer.require_prompt(form.language or "", *form.hotwords)
    hotwords = hotwords_in(",".join(form.hotwords))
    options = recognizer.options(language=form.language, hotwords=hotwords, itn=form.itn, timestamps=True)
    if form.language:
        recognizer.require_language(form.language)
    missing: tuple[TranscriptWarning, ...] = ()
    if form.spk:
        options, missing = await recognizer.speakers.or_warning(options, form.speaker_settings())
    recording = await form.read(recognizer, request)
    lines = _lines(recognizer, recording, options, missing)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=FRESH)


async def _lines(
    recognizer: Recognizer, recording: Piece, options: TranscribeOptions, missing: tuple[TranscriptWarning, ...]
) -> AsyncIterator[str]:
    peaks = base64.b64encode(await asyncio.to_thread(peaks_of, recording)).decode()
    yield _line("read", duration=recording.duration, peaks=peaks, peaks_per_s=PEAKS_PER_S)
    num_samples = sum(len(cut.waveform) for cut in recording.cuts)
    num_done = 0

    def start(tell: OnPart) -> Coroutine[Any, Any, Transcript]:
        return recognizer.transcribe(recording, options, on_part=tell)

    try:
        async for news in followed(start):
            if isinstance(news, Transcript):
                whole = with_warnings(news, missing)
                yield _line("done", transcript=replace(whole, words=None).to_dict())  # the segments have them
            else:
                number, part = news
                num_done += len(recording.cuts[number].waveform)
                segments = _placed(part, recording.duration)
                yield _line("segment", number=number, segments=segments, progress=num_done / max(num_samples, 1))
    except ASRError as error:
        yield _line("error", **refusal_of(error).body)


def _placed(part: Part, duration: float) -> list[dict[str, Any]]:
    """The segments of a part, with times from the start of the recording."""
    segments: list[dict[str, Any]] = join_parts("", [part], duration=duration, language=None).to_dict()["segments"]
    return segments


def _line(event: str, **fields: Any) -> str:
    return json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n"


def peaks_of(recording: Piece) -> bytes:
    """The loudest sample of each 1 / PEAKS_PER_S s, of the channels that are heard; 255 is full scale.

    What lies between the segments that a VAD has cut out was not kept, and counts as silence.
    """
    size = SAMPLE_RATE // PEAKS_PER_S
    peaks = np.zeros(math.ceil(recording.duration * PEAKS_PER_S) + 1, np.float32)
    for cut in recording.cuts:
        padded = np.pad(cut.waveform, (0, -len(cut.waveform) % size))
        found = np.abs(padded.reshape(-1, size)).max(1, initial=0.0)
        place = peaks[round(cut.start * PEAKS_PER_S) :][: len(found)]
        np.maximum(place, found[: len(place)], out=place)
    return (np.minimum(peaks[:-1], 1.0) * 255).astype(np.uint8).tobytes()


async def _export(recognizer: Recognizer, name: str, upload: UploadFile) -> Response:
    if name not in WRITERS:
        raise Refusal(404, f"there is no format {name!r}; allowed: {', '.join(WRITERS)}", code="not_found")
    most = recognizer.settings.max_json_bytes
    if (upload.size or 0) > most:
        message = f"the transcript has {upload.size:,} bytes, at most {most:,} are allowed"
        raise Refusal(413, message, code="body_too_large", param="transcript")
    content = await upload.read()
    require_few_values(content, MAX_TRANSCRIPT_VALUES)
    return PlainTextResponse(await asyncio.to_thread(_written, name, content))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the collector of cycles: records have none, and its passes over 100,000 of them hold all requests up."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_uncollected()
def _written(name: str, content: bytes) -> str:
    """The file. Text and words are those of the segments. Raises Refusal for what could not be a transcript."""
    try:
        transcript = _TRANSCRIPTS.validate_json(content)
    except ValidationError as error:
        message = " ".join(first_problem(error)).strip()
        raise Refusal(400, message, code="invalid_request", param="transcript") from error
    words = [word for segment in transcript.segments for word in segment.words or ()]
    spoken: list[Segment | Word | SpeakerTurn] = [*transcript.segments, *words, *(transcript.turns or ())]
    for each in spoken:
        if not 0 <= each.start <= each.end <= MAX_TIME_S:
            message = f"times must have 0 <= start <= end <= {MAX_TIME_S:.0f}, got {each.start} and {each.end}"
            raise Refusal(400, message, code="invalid_value", param="transcript")
    if hidden := [word.text for word in words if not _is_visible(word.text)]:
        message = f"a word needs a letter, a figure or another visible character, got {hidden[0][:50]!r}"
        raise Refusal(400, message, code="invalid_value", param="transcript")
    text = join_texts(segment.text for segment in transcript.segments)
    is_timed = any(segment.words is not None for segment in transcript.segments)
    return WRITERS[name](replace(transcript, text=text, words=tuple(words) if is_timed else None))


def _is_visible(text: str) -> bool:
    """Whether a word takes room in a line. Subtitles are filled by width, so others would never fill one."""
    return any(unicodedata.category(character)[0] not in "MZC" for character in text)
