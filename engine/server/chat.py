"""OpenAI's chat completions with audio in the messages, which Qwen3-ASR's users call."""

import asyncio
import time
import uuid
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from ..audio.urls import is_data_url
from ..run_options import TranscribeOptions
from ..transcript import Transcript
from . import formats
from .failures import Refusal
from .fields import ClientRoute, Open, log_duration, require_audio_url
from .recognizer import Recognizer
from .sse import event_stream

MAX_MESSAGES = 64
MAX_PARTS = 32  # of one message
QWEN = "qwen3_asr"  # this family's clients parse the raw answer themselves: "language X<asr_text>..."


class AudioURL(Open):
    url: Annotated[str, Field(description="data:audio/...;base64,... or, where the server allows its host, http(s)")]


class InputAudio(Open):
    data: Annotated[str, Field(description="base64 of a file, a data URL, or a URL as for audio_url")]
    format: Annotated[str, Field(description="For compatibility; a file says itself what it is")] = "wav"


class AudioURLPart(Open):
    type: Literal["audio_url"]
    audio_url: AudioURL


class InputAudioPart(Open):
    type: Literal["input_audio"]
    input_audio: InputAudio


class TextPart(Open):
    type: Literal["text"]
    text: str


Part = Annotated[AudioURLPart | InputAudioPart | TextPart, Field(discriminator="type")]


class Message(Open):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Part], Field(max_length=MAX_PARTS)] = ""
    name: str | None = None


class StreamOptions(Open):
    include_usage: bool = False


class AsrOptions(Open):
    """The `asr_options` of Alibaba's API for Qwen3-ASR."""

    language: str | None = None
    enable_itn: bool = True


class ChatRequest(Open):
    """The messages must hold one audio. Text beside it is used as context if the model takes context; if it does not,
    a warning says so.

    The answer of a Qwen3-ASR begins with "language X<asr_text>", which its clients parse; a streamed answer does not.
    Messages of other roles than user, system and developer are not used.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: str = "fun-asr-nano"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool = False
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    asr_options: AsrOptions = AsrOptions()
    user: str | None = None


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=ClientRoute)

    @routes.post("/chat/completions", response_class=Response)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Transcribe the audio of a chat message."""
        recognizer.unknown_fields.heed(request, body)
        url, text = _audio(body.messages)
        recognizer.require_prompt(text)
        options = _options(recognizer, body, text)
        recording = await recognizer.read(url, client=request.state.client)
        log_duration(request, recording)
        num_audio_tokens = await asyncio.to_thread(recognizer.audio_tokens, recording)  # a front end asks the engine
        form = ChatForm(recognizer, body, num_prompt_tokens=num_audio_tokens, has_text=bool(text))
        if body.stream:
            return event_stream(recognizer, form, recording, options)
        return JSONResponse(form.whole(await recognizer.transcribe(recording, options)))

    return routes


def _options(recognizer: Recognizer, body: ChatRequest, text: str) -> TranscribeOptions:
    options = recognizer.options(
        language=body.asr_options.language,
        itn=body.asr_options.enable_itn,
        context=text if recognizer.takes_context else "",
        temperature=body.temperature,
        top_p=body.top_p,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        max_new_tokens=body.max_completion_tokens or body.max_tokens or recognizer.settings.max_new_tokens,
        timestamps=False,
    )
    return replace(options, token_log_probs=True)  # the usage counts the tokens, even if they are not shown


class ChatForm:
    """The answer as chat.completion, or streamed as chat.completion.chunk."""

    def __init__(self, recognizer: Recognizer, body: ChatRequest, *, num_prompt_tokens: int, has_text: bool) -> None:
        """`num_prompt_tokens` counts the audio alone; `has_text`: the messages had text beside the audio."""
        model = recognizer.settings.model_name
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._num_prompt_tokens = num_prompt_tokens
        self._has_unused_text = has_text and not recognizer.takes_context
        self._says_language = recognizer.family == QWEN
        self._body = body

    def whole(self, transcript: Transcript) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._content(transcript)}
        choice = self._choice({"message": message}, transcript)
        about = {"usage": self._usage(transcript), "warnings": self._warnings(transcript)}
        return {**self._head, "object": "chat.completion", "choices": [choice], **about}

    def first(self) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def delta(self, new_text: str) -> dict[str, Any]:
        return self._chunk({"content": new_text})

    def done(self, transcript: Transcript) -> list[dict[str, Any]]:
        last = {**self._chunk({}, transcript), "warnings": self._warnings(transcript)}
        if not self._body.stream_options.include_usage:
            return [last]
        return [last, {**self._chunk({}), "choices": [], "usage": self._usage(transcript)}]

    def _chunk(self, delta: dict[str, str], ended: Transcript | None = None) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [self._choice({"delta": delta}, ended)]}

    def _choice(self, said: dict[str, Any], ended: Transcript | None) -> dict[str, Any]:
        log_probs = None
        if ended is not None and self._body.logprobs:
            log_probs = {"content": [{**each, "top_logprobs": []} for each in formats.logprobs(ended.tokens or ())]}
        reason = None if ended is None else ended.finish_reason
        return {"index": 0, **said, "logprobs": log_probs, "finish_reason": reason}

    def _usage(self, transcript: Transcript) -> dict[str, Any]:
        """Only the audio counts as prompt tokens: this engine, not the client, writes the text around it."""
        num_prompt, num_written = self._num_prompt_tokens, len(transcript.tokens or ())
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_written,
            "total_tokens": num_prompt + num_written,
            "prompt_tokens_details": {"audio_tokens": num_prompt},
        }

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
        if message.role not in ("system", "developer", "user"):
            continue
        if isinstance(message.content, str):
            texts.append(message.content.strip())
            continue
        for part in message.content:
            match part:
                case AudioURLPart():
                    urls.append(part.audio_url.url)
                case InputAudioPart():
                    urls.append(_url_of(part.input_audio.data))
                case TextPart():
                    texts.append(part.text.strip())
    if len(urls) != 1:
        problem = f"the messages must hold one audio_url or input_audio, got {len(urls)}"
        raise Refusal(400, problem, code="invalid_value", param="messages")
    require_audio_url(urls[0], param="messages")
    return urls[0], "\n".join(filter(None, texts))


def _url_of(data: str) -> str:
    """The URL for `input_audio.data`, which may be base64, a data URL of any media type, or an http(s) URL.

    base64 is not decoded here, but where the audio is read.
    """
    if data.lower().startswith(("http://", "https://")):
        return data
    return f"data:;base64,{data.partition(',')[2] if is_data_url(data) else data}"
