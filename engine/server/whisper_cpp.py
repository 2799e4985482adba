"""whisper.cpp's server: POST /inference, whose form and answers are nearly those of OpenAI's API."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from .failures import Refusal
from .fields import ClientRoute
from .openai_audio import TranscriptionForm, answer
from .speech import Speech


class InferenceForm(TranscriptionForm):
    translate: bool = False


def router(speech: Speech) -> APIRouter:
    routes = APIRouter(tags=["whisper.cpp"], route_class=ClientRoute)

    @routes.post("/inference", response_class=Response)
    async def inference(request: Request, form: Annotated[InferenceForm, Form()]) -> Response:
        """Transcribe a file."""
        if form.translate:
            message = f"{speech.settings.model_name} transcribes and does not translate"
            raise Refusal(400, message, code="unsupported_task", param="translate")
        return await answer(speech, request, form)

    return routes
