"""whisper.cpp's server: POST /inference, whose form and answers are nearly those of OpenAI's API."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from .failures import Refusal
from .fields import ClientRoute
from .openai_audio import TranscriptionForm, answer
from .recognizer import Recognizer


class InferenceForm(TranscriptionForm):
    translate: bool = False


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(tags=["whisper.cpp"], route_class=ClientRoute)

    @routes.post("/inference", response_class=Response)
    async def inference(request: Request, form: Annotated[InferenceForm, Form()]) -> Response:
        """Transcribe a file."""
        if form.translate:
            message = f"{recognizer.settings.model_name} transcribes and does not translate"
            raise Refusal(400, message, code="unsupported_task", param="translate")
        return await answer(recognizer, request, form)

    return routes
