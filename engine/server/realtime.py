"""FunASR's realtime WebSocket, at `/`: sentences as they are spoken.

    client: START, LANGUAGE:x, HOTWORDS:a,b, binary PCM16 (little-endian, 16 kHz, mono, any size), STOP
    server: {"event": "started"}, {"event": "language_set", ...}, {"event": "hotwords_set", ...}
            {"sentences": [{"text", "start", "end"}], "partial", "partial_start_ms", "duration_ms", "is_final": false}
            after STOP the same with is_final true, then {"event": "stopped"}; START begins anew

Sentences never change once they are sent; `partial` is what is being spoken and may change. Every answer holds all
sentences since START, because FunASR's clients show what the last answer holds and nothing else: three hours of speech
without a pause come to 2.2 GB in 22,000 answers, of which the last has 200 KB. Before an answer that lacks a segment
which could not be transcribed comes {"event": "error", "error": why, "code": "segment_failed"}. Times are milliseconds
from START. LANGUAGE and HOTWORDS hold for the sessions that start after them, and for one that has heard nothing yet.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, WebSocket

from ..errors import ConfigError, QueueFullError, UnsupportedAudioError
from ..streaming import AsyncStreamingSession, Event, Final
from ..waveform import SAMPLE_RATE
from . import formats
from .openai_audio import hotwords_in
from .sessions import Link, SessionEnd, hold_session
from .speech import Speech

BUSY_WAIT_S = 0.5  # between two attempts to have the last sentences decoded while the service is full


def router(speech: Speech) -> APIRouter:
    routes = APIRouter(tags=["FunASR"])

    @routes.websocket("/")
    async def realtime_session(socket: WebSocket) -> None:
        await hold_session(socket, speech, "realtime", lambda link: _RealtimeSession(link, speech).run())

    return routes


class _RealtimeSession:
    """One client's START to STOP, as often as it likes."""

    def __init__(self, link: Link, speech: Speech) -> None:
        self._link = link
        self._speech = speech
        self._language: str | None = None
        self._hotwords: list[str] = []
        self._has_started = False  # at some time
        self._stream: AsyncStreamingSession | None = None  # while it is listening
        self._num_samples = 0
        self._sentences: list[dict[str, Any]] = []

    async def run(self) -> None:
        while (message := await self._link.receive(joined=True)) is not None:
            if isinstance(message, bytes):
                await self._hear(message)
            else:
                try:
                    await self._obey(message)
                except ConfigError as error:  # a language that the model does not know
                    await self._link.fail(error)
        if self._stream is not None:  # the server is shutting down: what was said is not lost
            await self._stop(self._stream)

    async def _obey(self, message: str) -> None:
        command, _, value = message.partition(":")
        match command:
            case "START":
                self._start()
                await self._link.send({"event": "started"})
            case "LANGUAGE":
                self._speech.require_language(value)
                self._language = value
                await self._set_before_audio({"event": "language_set", "language": value})
            case "HOTWORDS":
                self._hotwords = hotwords_in(value)
                await self._set_before_audio({"event": "hotwords_set", "hotwords": self._hotwords})
            case "STOP" if self._stream is not None:
                await self._stop(self._stream)
            case "STOP":
                raise SessionEnd(1008, "STOP without START")
            case _:
                raise SessionEnd(1008, "unknown command; allowed: START, LANGUAGE:x, HOTWORDS:a,b or STOP")

    def _start(self) -> None:
        options = self._speech.options(language=self._language, hotwords=self._hotwords)
        self._stream = AsyncStreamingSession(self._speech.service, options, self._speech.live)
        self._has_started = True
        self._num_samples, self._sentences = 0, []

    async def _set_before_audio(self, answer: dict[str, Any]) -> None:
        if self._stream is not None and not self._num_samples:
            self._start()
        await self._link.send(answer)

    async def _hear(self, pcm: bytes) -> None:
        if self._stream is None:
            if not self._has_started:
                raise SessionEnd(1008, "audio outside a session: send START first")
            return  # a microphone sends a little more after STOP
        self._num_samples += len(pcm) // 2
        if self._num_samples > self._speech.settings.max_audio_s * SAMPLE_RATE:
            raise SessionEnd(1009, f"more than {self._speech.settings.max_audio_s:g} s of audio")
        try:
            events = await self._stream.push(pcm)
        except UnsupportedAudioError as error:
            raise SessionEnd(1007, str(error)) from error
        except QueueFullError as error:  # a later push gives what is missing
            await self._link.fail(error)
            return
        if events:
            await self._tell(events, is_final=False)

    async def _stop(self, stream: AsyncStreamingSession) -> None:
        self._stream = None
        while True:
            try:
                events = await stream.finish()
                break
            except QueueFullError:
                await asyncio.sleep(BUSY_WAIT_S)
        await self._tell(events, is_final=True)
        await self._link.send({"event": "stopped"})

    async def _tell(self, events: Sequence[Event], *, is_final: bool) -> None:
        """Send the state after these events; a segment that could not be transcribed is an error event before it."""
        for event in events:
            if isinstance(event, Final) and event.transcript.status == "error":
                await self._link.send({"event": "error", "error": event.transcript.error, "code": "segment_failed"})
        await self._link.send(self._answer(events, is_final=is_final))

    def _answer(self, events: Sequence[Event], *, is_final: bool) -> dict[str, Any]:
        """The state after these events."""
        answer: dict[str, Any] = {"sentences": self._sentences, "partial": ""}
        for event in events:
            if isinstance(event, Final):
                self._speech.metrics.count(event.transcript)
                self._sentences += formats.sentences(event.transcript)
            else:
                answer |= {"partial": event.text, "partial_start_ms": round(event.start * 1000)}
        return answer | {"duration_ms": self._num_samples * 1000 // SAMPLE_RATE, "is_final": is_final}
