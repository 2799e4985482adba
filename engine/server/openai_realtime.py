"""The WebSocket /v1/realtime: OpenAI's Realtime transcription sessions, and vLLM's events for the same path.

    OpenAI's client: session.update or transcription_session.update (realtime_config.py),
                input_audio_buffer.append / commit / clear
        server: session.created / updated, input_audio_buffer.speech_started / speech_stopped / committed,
                conversation.item.input_audio_transcription.delta / segment / completed, error
    vLLM's client: session.update with a model, input_audio_buffer.commit (begin), append, commit with final: true
        server: session.created, transcription.delta / done, error

With "spk": true in audio.input.transcription, a segment event for each part of an item in which one speaker talks comes
before the item's `completed`. A commit of the client may be followed by conversation.speakers.relabelled, whose
`speakers` maps names to the names in place of them: they have turned out to be one speaker's.

A delta holds text that will not change. A session.update without a `session` switches to vLLM's events; OpenAI's are
the default. Mistakes are answered with an error event, and the session goes on.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
from fastapi import APIRouter, WebSocket

from ..audio.urls import decode_base64
from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ASRError, ConfigError, UnsupportedAudioError
from ..speakers.model import Embeddings
from ..streaming import AsyncStreamingSession, Event, Final, LiveSpeakers, TextSoFar
from ..transcript import Transcript
from . import formats
from .bodies import require_few_values
from .commands import finish_stream
from .failures import Refusal, error_body, refusal_of
from .fields import named, shown
from .pcm import PCMDecoder, Resampler
from .realtime_config import SessionConfig
from .recognizer import Recognizer
from .sessions import Link, SessionEnd, hold_session

# vLLM's clients send 16 kHz without saying so.
VLLM_SESSION = SessionConfig.of({"audio": {"input": {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}}}})

AT_ONCE_CHARS = 1 << 18  # base64 of up to this length (4 s of audio, 3 ms) is decoded on the event loop, not a thread


class Dialect(Protocol):
    """Turns streaming events into the messages of one protocol."""

    def heard(self, events: Sequence[Event]) -> Iterable[dict[str, Any]]: ...

    def ended(self, events: Sequence[Event], seconds: float) -> Iterable[dict[str, Any]]:
        """Messages for the last events before a commit of `seconds` of audio, and for the commit itself."""

    def forget(self) -> None:
        """Drop the state of audio that has not been committed."""


class OpenAIDialect:
    """Each segment is an item of a conversation."""

    def __init__(self) -> None:
        self._item: str | None = None  # id of the open segment's item
        self._last_item: str | None = None
        self._sent = ""  # text of that item that has been sent

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
                yield from self._segments(event)
                yield self._buffer("speech_stopped", audio_end_ms=round(event.end * 1000))
                yield from self._commit(*(("failed", {"error": error}) if error else ("completed", _said(event))))

    def ended(self, events: Sequence[Event], seconds: float) -> Iterable[dict[str, Any]]:
        """Clients wait for an answer to each commit, so a commit of silence is answered with an empty text."""
        before = self._last_item
        yield from self.heard(events)
        if self._last_item == before:
            self._item = f"item_{uuid.uuid4().hex}"
            yield from self._commit(
                "completed", {"transcript": "", "usage": {"type": "duration", "seconds": round(seconds)}}
            )

    def forget(self) -> None:
        self._item = None

    def _segments(self, final: Final) -> Iterable[dict[str, Any]]:
        """OpenAI's events for segments of which a speaker is known."""
        for segment in final.transcript.segments:
            if segment.speaker is not None:
                said = {"text": segment.text, "speaker": segment.speaker, "start": segment.start, "end": segment.end}
                yield self._transcription("segment", id=f"seg_{uuid.uuid4().hex}", **said)

    def _commit(self, outcome: Literal["completed", "failed"], fields: dict[str, Any]) -> Iterable[dict[str, Any]]:
        yield self._buffer("committed", previous_item_id=self._last_item)
        yield self._transcription(outcome, **fields)
        self._last_item, self._item = self._item, None

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

    def ended(self, events: Sequence[Event], seconds: float) -> Iterable[dict[str, Any]]:
        yield from self.heard(events)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        yield {"type": "transcription.done", "text": self._text.text, "usage": usage}
        self.forget()

    def forget(self) -> None:
        self._text, self._sent = TextSoFar(), ""


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])

    @routes.websocket("/v1/realtime")
    async def realtime_events(socket: WebSocket) -> None:
        await hold_session(socket, recognizer, "events", lambda link: _EventSession(link, recognizer).run())

    return routes


class _EventSession:
    """One client's connection."""

    def __init__(self, link: Link, recognizer: Recognizer) -> None:
        self._link = link
        link.describe = _error_event
        self._recognizer = recognizer
        self._id = f"sess_{uuid.uuid4().hex}"
        self._config = SessionConfig()
        self._dialect: Dialect = OpenAIDialect()
        self._speakers: LiveSpeakers | None = None  # from the first stream on that asks for them
        self._begin()

    async def run(self) -> None:
        about = {"id": self._id, "type": "transcription", "object": "realtime.transcription_session"}
        await self._send({"type": "session.created", "id": self._id, "created": int(time.time()), "session": about})
        while (message := await self._link.receive()) is not None:
            event_id = None
            try:
                event = _parsed(message, self._recognizer.settings.max_json_values)
                event_id = event.get("event_id")
                await self._obey(event)
            except (ASRError, Refusal) as error:
                await self._complain(error, event_id)
        if self._num_samples:
            await self._commit()  # the server is shutting down: transcribe what has been heard

    def _begin(self) -> None:
        """Start a new stream with the current configuration.

        Raises ConfigError for a language that the model does not know, PromptTooLongError for too long a prompt.
        """
        asked, live, audio = self._config.transcription, self._recognizer.live, self._config.audio.input
        prompt, keywords = asked.prompt or "", asked.keywords or ()
        self._recognizer.require_prompt(asked.language or "", prompt, *keywords)
        prompted, context = self._recognizer.prompted(prompt)
        options = self._recognizer.options(language=asked.language, hotwords=[*keywords, *prompted], context=context)
        if asked.language:
            self._recognizer.require_language(asked.language)
        self._cuts = audio.turn_detection is not None
        if not asked.spk:
            self._speakers = None
        elif self._speakers is None:
            self._speakers = self._recognizer.speakers.live()
        rules = audio.turn_detection.rules(live.rules) if audio.turn_detection is not None else live.rules
        self._options = replace(options, token_log_probs=self._config.wants_logprobs)
        self._stream = AsyncStreamingSession(
            self._recognizer.service, self._options, replace(live, rules=rules), speakers=self._speakers
        )
        self._decoder = PCMDecoder(audio.format.type)
        self._resampler = Resampler(audio.format.sample_rate)
        self._held: list[Waveform] = []  # audio up to the commit, if the server does not detect turns
        self._link.hold(0)
        self._num_samples = 0  # at 16 kHz, since the last commit

    async def _obey(self, event: dict[str, Any]) -> None:
        match event.pop("type", None):
            case "session.update" if "session" not in event:
                await self._speak_as_vllm()
            case "session.update" | "transcription_session.update" as kind:
                await self._update(SessionConfig.of(event.get("session")), f"{kind}d")
            case "input_audio_buffer.append":
                await self._append(event.get("audio"))
            case "input_audio_buffer.commit" if isinstance(self._dialect, VLLMDialect):
                if event.get("final", False):  # without "final", the commit only announces audio
                    await self._commit()
            case "input_audio_buffer.commit":
                self._require_audio()
                await self._commit()
            case "input_audio_buffer.clear":
                self._dialect.forget()
                self._begin()
                await self._send({"type": "input_audio_buffer.cleared"})
            case kind:
                known = "session.update, input_audio_buffer.append, commit or clear"
                raise ConfigError(f"unknown event type {str(kind)[:50]!r}; allowed: {known}")

    async def _speak_as_vllm(self) -> None:
        if self._num_samples:
            await self._commit()
        self._dialect, self._config = VLLMDialect(), VLLM_SESSION
        self._begin()

    async def _update(self, asked: SessionConfig, answer: str) -> None:
        if asked.transcription.spk:
            await self._recognizer.speakers.require("session.audio.input.transcription.spk")
        if self._num_samples:
            await self._commit()
        before, self._config = self._config, asked
        try:
            self._begin()
        except ASRError:
            self._config = before
            raise
        about = {"id": self._id, "object": "realtime.transcription_session"}
        await self._send({"type": answer, "session": {**about, **asked.model_dump(exclude_none=True)}})
        if unknown := asked.unknown_keys():
            message = f"ignored, since they are unknown here: {named(unknown)}"
            raise Refusal(400, message, code="unknown_parameter", param=shown(unknown[0]))

    def _require_audio(self) -> None:
        """Raises Refusal, with OpenAI's code, if there is nothing to commit."""
        if not self._num_samples:
            message = "the input audio buffer is empty: append audio before a commit"
            raise Refusal(400, message, code="input_audio_buffer_commit_empty")

    async def _append(self, content: object) -> None:
        if not isinstance(content, str):
            raise UnsupportedAudioError("input_audio_buffer.append needs `audio`, base64 of the session's format")
        is_short = len(content) <= AT_ONCE_CHARS
        await self._hear(self._samples(content) if is_short else await asyncio.to_thread(self._samples, content))

    def _samples(self, content: str) -> Waveform:
        return self._resampler.push(self._decoder.decode(decode_base64(content)))

    async def _hear(self, samples: Waveform) -> None:
        self._count_samples(samples)
        if self._cuts and len(samples):
            await self._say(await self._stream.push(samples))

    def _count_samples(self, samples: Waveform) -> None:
        """Count more audio, and keep it if the server does not detect turns. Raises SessionEnd if it is too much."""
        self._num_samples += len(samples)
        if self._num_samples > self._recognizer.settings.max_audio_s * SAMPLE_RATE:
            raise SessionEnd(1009, f"more than {self._recognizer.settings.max_audio_s:g} s of audio")
        if not self._cuts:
            self._held.append(samples)
            self._link.hold(samples.itemsize * self._num_samples)

    async def _commit(self) -> None:
        """End the audio so far: transcribe all of it, and start a new stream."""
        rest = self._resampler.finish()
        self._count_samples(rest)
        seconds = self._num_samples / SAMPLE_RATE
        events: Sequence[Event] = ()
        if self._cuts:
            events = await finish_stream(self._stream, rest)
            self._count(events)
        elif self._num_samples > 1:
            recording = await self._recognizer.read(np.concatenate(self._held), client=self._link.client)
            transcript = await self._named(await self._recognizer.transcribe(recording, self._options))
            events = [Final(0, 0.0, seconds, transcript)]
        for said in self._dialect.ended(events, seconds):
            await self._send(said)
        await self._relabel()
        self._begin()

    async def _named(self, transcript: Transcript) -> Transcript:
        """The transcript of the held audio with its speakers, if the client asks for them."""
        if self._speakers is None:
            return transcript
        audio = np.concatenate(self._held)
        try:
            voices: Embeddings | ASRError = await asyncio.wrap_future(self._speakers.hear(audio))
        except ASRError as error:
            voices = error
        return self._speakers.named(transcript, 0.0, len(audio), voices)

    async def _relabel(self) -> None:
        """Tell which names of speakers have turned out to be one speaker's."""
        names = await self._stream.relabel()
        changed = {old: new for old, new in names.items() if old != new}
        if changed:
            await self._send({"type": "conversation.speakers.relabelled", "speakers": changed})

    async def _say(self, events: Sequence[Event]) -> None:
        self._count(events)
        for said in self._dialect.heard(events):
            await self._send(said)

    def _count(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Final):
                self._recognizer.metrics.count(event.transcript)

    async def _send(self, event: dict[str, Any]) -> None:
        await self._link.send(_with_id(event))

    async def _complain(self, error: ASRError | Refusal, event_id: object) -> None:
        refusal = error if isinstance(error, Refusal) else refusal_of(error)
        await self._link.send(_error_event(refusal, event_id))
        if refusal.status_code == 503:
            raise SessionEnd(1011, str(refusal.detail))


def _with_id(event: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": f"event_{uuid.uuid4().hex}", **event}


def _error_event(refusal: Refusal, event_id: object = None) -> dict[str, Any]:
    """The error event for a mistake. `event_id` is that of the client's event, if it has one."""
    return _with_id({"type": "error", "error": {**refusal.body["error"], "event_id": event_id}})


def _error_of(event: Event) -> dict[str, Any] | None:
    """The error of a segment that could not be transcribed, else None."""
    if not isinstance(event, Final) or event.transcript.status != "error":
        return None
    body: dict[str, Any] = error_body(500, event.transcript.error or "", code="segment_failed")["error"]
    return body


def _said(final: Final) -> dict[str, Any]:
    """The fields of OpenAI's `completed` event."""
    transcript = final.transcript
    said: dict[str, Any] = {"transcript": transcript.text, "usage": formats.usage(transcript)}
    if transcript.warnings:
        said["warnings"] = formats.warnings(transcript)
    if transcript.tokens is not None:
        said["logprobs"] = formats.logprobs(transcript.tokens)
    return said


def _parsed(message: str | bytes, max_values: int) -> dict[str, Any]:
    """Parse one event. Raises Refusal if parsing would take long, SessionEnd if it is not an event."""
    if isinstance(message, bytes):
        raise SessionEnd(1003, "events are JSON text; audio comes in input_audio_buffer.append")
    require_few_values(message.encode(errors="surrogatepass"), max_values)
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise SessionEnd(1007, f"not JSON: {error}") from error
    if not isinstance(event, dict):
        raise SessionEnd(1007, f"an event is a JSON object, got {type(event).__name__}")
    return event
