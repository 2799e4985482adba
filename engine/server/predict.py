"""POST /asr/predict and /asr/stream-predict: the protocol of Zerolan's speech services.

A request is multipart: `audio`, a file, and `json`, an object that describes it. Paths in the object name files of the
client and are never opened here. Raw PCM (`media_type` "raw" or "pcm") is 16-bit little-endian, with the stated rate
and channels. For any other audio, the file's own header decides.
"""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import StreamingResponse

from ..errors import ASRError
from ..transcript import Transcript
from ..vad.splitting import Piece
from .bodies import require_few_values, samples_of
from .failures import Refusal, first_problem, refusal_of
from .fields import ClientRoute, Open, log_duration
from .recognizer import Recognizer
from .sse import texts

RAW = ("raw", "pcm")


class AudioDescription(Open):
    """The `json` part."""

    audio_path: str = ""
    media_type: str = "wav"
    sample_rate: Annotated[int, Field(gt=0)] = 16_000
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    is_final: bool = True


class Prediction(BaseModel):
    id: str
    transcript: str


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(prefix="/asr", tags=["predict"], route_class=ClientRoute)

    @routes.post("/predict")
    async def predict(
        request: Request, audio: Annotated[UploadFile, File()], description: Annotated[str, Form(alias="json")] = "{}"
    ) -> Prediction:
        """Transcribe a file."""
        recording = await _read(recognizer, request, audio, description)
        log_duration(request, recording)
        transcript = await recognizer.transcribe(recording, recognizer.options(timestamps=False))
        return Prediction(id=uuid.uuid4().hex, transcript=transcript.text)

    @routes.post("/stream-predict", response_class=StreamingResponse)
    async def stream_predict(
        request: Request, audio: Annotated[UploadFile, File()], description: Annotated[str, Form(alias="json")] = "{}"
    ) -> StreamingResponse:
        """Send a line of JSON with the whole text so far each time it grows; `is_final` is true in the last line."""
        recording = await _read(recognizer, request, audio, description)
        log_duration(request, recording)
        return StreamingResponse(_lines(recognizer, recording), media_type="application/x-ndjson")

    return routes


async def _lines(recognizer: Recognizer, recording: Piece) -> AsyncIterator[str]:
    prediction_id = uuid.uuid4().hex
    try:
        async for news in texts(recognizer, recording, recognizer.options(timestamps=False)):
            is_final = isinstance(news, Transcript)
            text = news.text if isinstance(news, Transcript) else news
            line = {"id": prediction_id, "transcript": text, "is_final": is_final}
            yield json.dumps(line, ensure_ascii=False) + "\n"
    except ASRError as error:
        yield json.dumps(refusal_of(error).body) + "\n"


async def _read(recognizer: Recognizer, request: Request, audio: UploadFile, description: str) -> Piece:
    require_few_values(description.encode(errors="surrogatepass"), recognizer.settings.max_json_values)
    try:
        described = AudioDescription.model_validate_json(description)
    except ValidationError as error:
        message = f"json: {' '.join(first_problem(error))}".strip()
        raise Refusal(400, message, code="invalid_request", param="json") from error
    recognizer.unknown_fields.heed(request, described)
    if described.media_type.lower() not in RAW:
        return await recognizer.read_upload(audio, client=request.state.client)
    num_bytes = audio.size or 0
    if num_bytes % (2 * described.channels):
        message = f"{num_bytes} bytes are not whole 16-bit samples of {described.channels} channels"
        raise Refusal(400, message, code="unsupported_audio", param="audio")
    planes = (await samples_of(audio)).reshape(-1, described.channels).T
    return await recognizer.read(planes, described.sample_rate, client=request.state.client)
