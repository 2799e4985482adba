"""OpenAI's chat completions with audio in the messages: how Qwen3-ASR's users call their server."""

import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from ..transcript import Transcript
from . import formats
from .failures import Refusal
from .speech import Speech
from .sse import event_stream

QWEN = "qwen3_asr"  # the family whose answers its users parse themselves: "language X<asr_text>..."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AudioURL(_Strict):
    url: Annotated[str, Field(description="data:audio/...;base64,... or, where the server allows its host, http(s)")]


class InputAudio(_Strict):
    data: Annotated[str, Field(description="base64 of a file")]
    format: str = "wav"


class AudioURLPart(_Strict):
    type: Literal["audio_url"]
    audio_url: AudioURL


class InputAudioPart(_Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


class TextPart(_Strict):
    type: Literal["text"]
    text: str


Part = Annotated[AudioURLPart | InputAudioPart | TextPart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["system", "developer", "user"]
    content: str | list[Part]
    name: str | None = None


class ChatRequest(_Strict):
    """One audio in the messages. Text beside it is context, where the model takes that; else a warning says so.

    What a Qwen3-ASR answers begins with the language, "language X<asr_text>", as its users parse it; streamed, it does
    not.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=16)]
    model: str = "fun-asr-nano"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Literal[1] = 1
    stream: bool = False
    user: str | None = None


def router(speech: Speech) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])

    @routes.post("/chat/completions", response_class=Response)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Transcribe the audio of a chat message."""
        url, text = _audio(body.messages)
        options = speech.options(
            context=text if speech.takes_context else "",
            temperature=body.temperature,
            max_new_tokens=body.max_completion_tokens or body.max_tokens or speech.settings.max_new_tokens,
            timestamps=False,
        )
        recording = await speech.read(url)
        request.state.log = {"audio_s": round(recording.duration, 2)}
        form = ChatForm(speech, has_unused_text=bool(text) and not speech.takes_context)
        if body.stream:
            return event_stream(request, speech, form, recording, options)
        return JSONResponse(form.whole(await speech.transcribe(recording, options)))

    return routes


class ChatForm:
    """chat.completion, and chat.completion.chunk while it is written."""

    def __init__(self, speech: Speech, *, has_unused_text: bool) -> None:
        model = speech.settings.model_name
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._has_unused_text = has_unused_text
        self._says_language = speech.family == QWEN

    def whole(self, transcript: Transcript) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._content(transcript)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": transcript.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "warnings": self._warnings(transcript)}

    def first(self) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": ""}, None)]

    def delta(self, new_text: str) -> dict[str, Any]:
        return self._chunk({"content": new_text}, None)

    def done(self, transcript: Transcript) -> list[dict[str, Any]]:
        return [{**self._chunk({}, transcript.finish_reason), "warnings": self._warnings(transcript)}]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _content(self, transcript: Transcript) -> str:
        if not self._says_language:
            return transcript.text
        return f"language {transcript.language}<asr_text>{transcript.text}"

    def _warnings(self, transcript: Transcript) -> list[dict[str, str]]:
        found = formats.warnings(transcript)
        if self._has_unused_text:
            message = "the text of the messages was not used: this model takes audio alone"
            found.append({"code": "text_not_used", "message": message})
        return found


def _audio(messages: list[Message]) -> tuple[str, str]:
    """The URL of the one audio, and the text beside it. Raises Refusal."""
    urls: list[str] = []
    texts: list[str] = []
    for message in messages:
        if isinstance(message.content, str):
            texts.append(message.content.strip())
            continue
        for part in message.content:
            match part:
                case AudioURLPart():
                    urls.append(part.audio_url.url)
                case InputAudioPart():
                    urls.append(f"data:audio/{part.input_audio.format};base64,{part.input_audio.data}")
                case TextPart():
                    texts.append(part.text.strip())
    if len(urls) != 1:
        problem = f"the messages must hold one audio_url or input_audio, got {len(urls)}"
        raise Refusal(400, problem, code="invalid_value", param="messages")
    if not urls[0][:8].lower().startswith(("data:", "http://", "https://")):
        raise Refusal(400, "audio_url must be a data:, http: or https: URL", code="invalid_value", param="messages")
    return urls[0], "\n".join(filter(None, texts))
