"""FunASR's offline protocols: POST /asr, and the WebSocket /ws, which takes whole recordings."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile, WebSocket
from pydantic import BaseModel, ConfigDict, Field

from ..errors import ASRError, ConfigError
from ..streaming import samples_of
from ..waveform import SAMPLE_RATE
from . import formats
from .openai_audio import hotwords_in
from .sessions import Link, SessionEnd, hold_session
from .speech import Speech

NO_SPEAKERS = {"code": "no_speakers", "message": "spk was asked for, but this server has no speaker model"}


class AsrForm(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: Annotated[UploadFile, Field(description="Any common audio or video file")]
    language: Annotated[str | None, Field(description='"中文", "English", "zh", ...; left to the model by default')] = (
        None
    )
    hotwords: Annotated[str, Field(description="Separated by commas")] = ""
    spk: Annotated[bool, Field(description="Speaker labels, where the server has a speaker model")] = False
    timestamp: Annotated[bool, Field(description="Word times")] = True


def router(speech: Speech) -> APIRouter:
    routes = APIRouter(tags=["FunASR"])

    @routes.post("/asr")
    async def asr(request: Request, form: Annotated[AsrForm, Form()]) -> dict[str, Any]:
        """Transcribe a file: text, segments and words with times in seconds."""
        started = time.perf_counter()
        hotwords = hotwords_in(form.hotwords)
        options = speech.options(language=form.language, hotwords=hotwords, timestamps=form.timestamp)
        recording = await speech.read(await form.file.read())
        request.state.log = {"audio_s": round(recording.duration, 2)}
        transcript = await speech.transcribe(recording, options)
        wall_s = time.perf_counter() - started
        answer = formats.funasr(transcript, with_words=form.timestamp, wall_s=wall_s)
        if form.spk:
            answer["warnings"].append(NO_SPEAKERS)
        return answer

    @routes.websocket("/ws")
    async def offline_session(socket: WebSocket) -> None:
        await hold_session(socket, speech, "offline", lambda link: _OfflineSession(link, speech).run())

    return routes


class _OfflineSession:
    """START, LANGUAGE:x, HOTWORDS:a,b, binary PCM16 at 16 kHz, STOP; and again, until the client closes."""

    def __init__(self, link: Link, speech: Speech) -> None:
        self._link = link
        self._speech = speech
        self._pcm: bytearray | None = None  # of the recording that has been started
        self._language: str | None = None
        self._hotwords: list[str] = []

    async def run(self) -> None:
        while (message := await self._link.receive()) is not None:
            if isinstance(message, bytes):
                self._hear(message)
            else:
                try:
                    await self._obey(message)
                except ConfigError as error:  # a language that the model does not know
                    await self._link.fail(error)

    def _hear(self, pcm: bytes) -> None:
        if self._pcm is None:
            raise SessionEnd(1008, "audio outside a recording: send START first")
        self._pcm += pcm
        allowed = int(self._speech.settings.max_audio_s * 2 * SAMPLE_RATE)
        if len(self._pcm) > allowed:
            raise SessionEnd(1009, f"more than {self._speech.settings.max_audio_s:g} s of audio")

    async def _obey(self, message: str) -> None:
        command, _, value = message.partition(":")
        match command:
            case "START":
                self._pcm = bytearray()
                await self._link.send({"event": "started"})
            case "LANGUAGE":
                self._speech.require_language(value)
                self._language = value
                await self._link.send({"event": "language_set", "language": value})
            case "HOTWORDS":
                self._hotwords = hotwords_in(value)
                await self._link.send({"event": "hotwords_set", "hotwords": self._hotwords})
            case "STOP" if self._pcm is not None:
                await self._stop(bytes(self._pcm))
            case "STOP":
                raise SessionEnd(1008, "STOP without START")
            case _:
                known = "START, LANGUAGE:x, HOTWORDS:a,b or STOP"
                raise SessionEnd(1008, f"unknown command; allowed: {known}")

    async def _stop(self, pcm: bytes) -> None:
        self._pcm = None
        answer: dict[str, Any] = {"sentences": [], "is_final": True, "duration_ms": len(pcm) // 32}
        if len(pcm) >= 4:
            options = self._speech.options(language=self._language, hotwords=self._hotwords)
            try:
                transcript = await self._speech.transcribe(await self._speech.read(samples_of(pcm)), options)
            except ASRError as error:
                await self._link.fail(error)
                return
            answer["sentences"] = formats.sentences(transcript)
            answer["warnings"] = formats.warnings(transcript)
        await self._link.send(answer)
        await self._link.send({"event": "stopped"})
