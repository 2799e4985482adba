"""The WebSocket /v1/realtime: OpenAI's Realtime transcription sessions, and vLLM's events for the same path.

    OpenAI's client: session.update (type transcription), input_audio_buffer.append / commit / clear
        server: session.created / updated, input_audio_buffer.speech_started / speech_stopped / committed,
                conversation.item.input_audio_transcription.delta / completed, error
    vLLM's client: session.update with a model, input_audio_buffer.append, commit with final
        server: session.created, transcription.delta / done, error

A delta holds text that will not change. The first session.update decides which of the two is spoken. Mistakes are
answered with an error event, and the session goes on.
"""

import base64
import binascii
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import soxr
from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ASRError, ConfigError, UnsupportedAudioError
from ..streaming import AsyncStreamingSession, Event, Final, TextSoFar, samples_of
from ..waveform import SAMPLE_RATE, Waveform
from . import formats
from .failures import Refusal, error_body, refusal_of
from .openai_audio import hotwords_in
from .sessions import Link, SessionEnd, hold_session
from .speech import Speech

VLLM_RATE = SAMPLE_RATE  # Hz, of what vLLM's clients send
OPENAI_RATE = 24_000  # Hz, of what OpenAI's clients send unless they say so


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AudioFormat(_Strict):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Annotated[int, Field(ge=8_000, le=48_000)] = OPENAI_RATE


class Transcription(_Strict):
    model: str | None = None
    language: str | None = None
    prompt: str = ""
    keywords: list[str] = []


class TurnDetection(_Strict):
    """How speech is cut; what is left out is as in every live session here."""

    type: Literal["server_vad"]
    silence_duration_ms: Annotated[float | None, Field(gt=0)] = None
    prefix_padding_ms: Annotated[float | None, Field(ge=0, le=500)] = None


class AudioIn(_Strict):
    format: AudioFormat = AudioFormat()
    transcription: Transcription = Transcription()
    turn_detection: TurnDetection | None = TurnDetection(type="server_vad")
    noise_reduction: None = None


class Audio(_Strict):
    input: AudioIn = AudioIn()


class SessionUpdate(_Strict):
    type: Literal["transcription"]
    audio: Audio = Audio()


class Dialect(Protocol):
    """How what happens is said."""

    def heard(self, events: Sequence[Event]) -> Iterable[dict[str, Any]]: ...

    def ended(self, seconds: float) -> Iterable[dict[str, Any]]:
        """All that was committed, `seconds` of audio, has been heard."""

    def forget(self) -> None:
        """What was not committed is dropped."""


class OpenAIDialect:
    """Each segment is an item of a conversation."""

    def __init__(self) -> None:
        self._item: str | None = None  # of the segment that is open
        self._last_item: str | None = None
        self._sent = ""  # of its text

    def heard(self, events: Sequence[Event]) -> Iterable[dict[str, Any]]:
        for event in events:
            fixed = event.text if isinstance(event, Final) else event.confirmed
            error = _error_of(event)
            if self._item is None and (event.text or error or not isinstance(event, Final)):
                self._item, self._sent = f"item_{uuid.uuid4().hex}", ""
                yield self._buffer("speech_started", audio_start_ms=round(event.start * 1000))
            if len(fixed) > len(self._sent):
                yield self._transcription("delta", delta=fixed[len(self._sent) :])
                self._sent = fixed
            if isinstance(event, Final) and self._item is not None:
                yield self._buffer("speech_stopped", audio_end_ms=round(event.end * 1000))
                yield self._buffer("committed", previous_item_id=self._last_item)
                if error is not None:
                    yield self._transcription("failed", error=error)
                else:
                    usage = formats.usage(event.transcript)
                    yield self._transcription("completed", transcript=event.text, usage=usage)
                self._last_item, self._item = self._item, None

    def ended(self, seconds: float) -> Iterable[dict[str, Any]]:
        return ()

    def forget(self) -> None:
        self._item = None

    def _buffer(self, what: str, **fields: Any) -> dict[str, Any]:
        return {"type": f"input_audio_buffer.{what}", "item_id": self._item, **fields}

    def _transcription(self, what: str, **fields: Any) -> dict[str, Any]:
        kind = f"conversation.item.input_audio_transcription.{what}"
        return {"type": kind, "item_id": self._item, "content_index": 0, **fields}


class VLLMDialect:
    """One text from commit to commit."""

    def __init__(self) -> None:
        self._text = TextSoFar()
        self._sent = ""

    def heard(self, events: Sequence[Event]) -> Iterable[dict[str, Any]]:
        for error in filter(None, map(_error_of, events)):
            yield {"type": "error", "error": error}
        self._text.add(events)
        fixed = self._text.fixed_text
        if len(fixed) > len(self._sent):
            yield {"type": "transcription.delta", "delta": fixed[len(self._sent) :]}
            self._sent = fixed

    def ended(self, seconds: float) -> Iterable[dict[str, Any]]:
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        yield {"type": "transcription.done", "text": self._text.text, "usage": usage}
        self.forget()

    def forget(self) -> None:
        self._text, self._sent = TextSoFar(), ""


def router(speech: Speech) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])

    @routes.websocket("/v1/realtime")
    async def realtime_events(socket: WebSocket) -> None:
        await hold_session(socket, speech, "events", lambda link: _EventSession(link, speech).run())

    return routes


class _EventSession:
    """One client's connection."""

    def __init__(self, link: Link, speech: Speech) -> None:
        self._link = link
        self._speech = speech
        self._id = f"sess_{uuid.uuid4().hex}"
        self._audio = AudioIn()
        self._dialect: Dialect = OpenAIDialect()
        self._begin()

    async def run(self) -> None:
        about = {"id": self._id, "type": "transcription", "object": "realtime.transcription_session"}
        await self._send({"type": "session.created", "id": self._id, "created": int(time.time()), "session": about})
        while (message := await self._link.receive()) is not None:
            event_id = None
            try:
                event = _parsed(message)
                event_id = event.get("event_id")
                await self._obey(event)
            except (ASRError, Refusal) as error:
                await self._complain(error, event_id)
        await self._commit()  # the server is shutting down: what was said is not lost

    def _begin(self) -> None:
        """Listen anew. Raises ConfigError for a language or words that the model does not take."""
        asked, live = self._audio.transcription, self._speech.live
        rules, cut = live.rules, self._audio.turn_detection
        if cut is not None and cut.silence_duration_ms is not None:
            rules = replace(rules, silence_schedule=((inf, cut.silence_duration_ms),))
        if cut is not None and cut.prefix_padding_ms is not None:
            rules = replace(rules, padding_s=cut.prefix_padding_ms / 1000)
        options = self._speech.options(
            language=asked.language,
            hotwords=[*asked.keywords, *([] if self._speech.takes_context else hotwords_in(asked.prompt))],
            context=asked.prompt if self._speech.takes_context else "",
        )
        if asked.language:
            self._speech.require_language(asked.language)
        self._stream = AsyncStreamingSession(self._speech.service, options, replace(live, rules=rules))
        self._options = options
        self._rate = self._audio.format.rate
        self._resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._held: list[Waveform] = []  # what is not cut by the server
        self._num_samples = 0  # at 16 kHz, since the last commit

    async def _obey(self, event: dict[str, Any]) -> None:
        match event.pop("type", None):
            case "session.update":
                await self._update(event)
            case "input_audio_buffer.append":
                await self._append(event.get("audio"))
            case "input_audio_buffer.commit":
                if event.get("final", True):
                    await self._commit()
            case "input_audio_buffer.clear":
                self._dialect.forget()
                self._begin()
                await self._send({"type": "input_audio_buffer.cleared"})
            case kind:
                known = "session.update, input_audio_buffer.append, commit or clear"
                raise ConfigError(f"unknown event type {str(kind)[:50]!r}; allowed: {known}")

    async def _update(self, event: dict[str, Any]) -> None:
        if self._num_samples:
            await self._commit()
        if "session" not in event:
            self._dialect, self._audio = VLLMDialect(), AudioIn(format=AudioFormat(rate=VLLM_RATE))
            self._begin()
            return
        try:
            update = SessionUpdate.model_validate(event["session"])
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, ("session", *problem["loc"])))
            raise Refusal(400, f"{place}: {problem['msg']}", code="invalid_value", param=place) from error
        before, self._audio = self._audio, update.audio.input
        try:
            self._begin()
        except ConfigError:
            self._audio = before
            raise
        session = {"id": self._id, "object": "realtime.transcription_session", **update.model_dump()}
        await self._send({"type": "session.updated", "session": session})

    async def _append(self, content: object) -> None:
        if not isinstance(content, str):
            raise UnsupportedAudioError("input_audio_buffer.append needs `audio`, base64 of 16-bit PCM")
        try:
            pcm = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UnsupportedAudioError(f"audio is not base64: {error}") from error
        samples: Waveform = samples_of(pcm)
        if self._rate != SAMPLE_RATE:
            samples = self._resampler.resample_chunk(samples)
        await self._hear(samples)

    async def _hear(self, samples: Waveform) -> None:
        self._num_samples += len(samples)
        if self._num_samples > self._speech.settings.max_audio_s * SAMPLE_RATE:
            raise SessionEnd(1009, f"more than {self._speech.settings.max_audio_s:g} s of audio")
        if self._audio.turn_detection is None:
            self._held.append(samples)
        elif len(samples):
            await self._say(await self._stream.push(samples))

    async def _commit(self) -> None:
        """The end of what was said: everything is transcribed, and listening begins anew."""
        if self._rate != SAMPLE_RATE:
            await self._hear(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        seconds = self._num_samples / SAMPLE_RATE
        if self._audio.turn_detection is not None:
            await self._say(await self._stream.finish())
        elif self._num_samples > 1:
            recording = await self._speech.read(np.concatenate(self._held))
            transcript = await self._speech.transcribe(recording, self._options)
            await self._say([Final(0, 0.0, seconds, transcript)])
        for event in self._dialect.ended(seconds):
            await self._send(event)
        self._begin()

    async def _say(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Final) and self._audio.turn_detection is not None:
                self._speech.metrics.count(event.transcript)
        for said in self._dialect.heard(events):
            await self._send(said)

    async def _send(self, event: dict[str, Any]) -> None:
        await self._link.send({"event_id": f"event_{uuid.uuid4().hex}", **event})

    async def _complain(self, error: ASRError | Refusal, event_id: object) -> None:
        refusal = error if isinstance(error, Refusal) else refusal_of(error)
        message = str(refusal.detail)
        body = error_body(refusal.status_code, message, code=refusal.code, param=refusal.param)["error"]
        await self._send({"type": "error", "error": {**body, "event_id": event_id}})
        if refusal.status_code == 503:
            raise SessionEnd(1011, message)


def _error_of(event: Event) -> dict[str, Any] | None:
    """Why a segment could not be transcribed, if so."""
    if not isinstance(event, Final) or event.transcript.status != "error":
        return None
    body: dict[str, Any] = error_body(500, event.transcript.error or "", code="segment_failed")["error"]
    return body


def _parsed(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise SessionEnd(1003, "events are JSON text; audio comes in input_audio_buffer.append")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise SessionEnd(1007, f"not JSON: {error}") from error
    if not isinstance(event, dict):
        raise SessionEnd(1007, f"an event is a JSON object, got {type(event).__name__}")
    return event
