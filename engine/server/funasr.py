"""FunASR's offline protocols: POST /asr, and the WebSocket /ws, which takes whole recordings."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile, WebSocket
from pydantic import BaseModel, ConfigDict, Field

from ..streaming import samples_of
from . import formats
from .commands import CommandSession
from .openai_audio import hotwords_in
from .sessions import Link, hold_session
from .speech import Speech

MIN_PCM_BYTES = 4  # two samples: less has no features
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
        recording = await speech.read_upload(form.file)
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


class _OfflineSession(CommandSession):
    """Sentences after a recording's end."""

    def __init__(self, link: Link, speech: Speech) -> None:
        super().__init__(link, speech)
        self._pcm: bytearray | None = None  # of the recording that has been started

    @property
    def _is_listening(self) -> bool:
        return self._pcm is not None

    def _start(self) -> None:
        self._pcm = bytearray()

    async def _hear(self, pcm: bytes) -> None:
        assert self._pcm is not None
        self._pcm += pcm
        self._require_duration(len(self._pcm) // 2)
        self._link.hold(len(self._pcm))

    async def _stop(self) -> None:
        assert self._pcm is not None
        pcm, self._pcm = bytes(self._pcm), None
        self._link.hold(3 * len(pcm))  # with the samples that are made of it
        whole = pcm[: len(pcm) // 2 * 2]  # half a sample at the end is no sound
        answer: dict[str, Any] = {"sentences": [], "is_final": True, "duration_ms": len(whole) // 32}
        if len(whole) >= MIN_PCM_BYTES:
            options = self._speech.options(language=self._language, hotwords=self._hotwords)
            transcript = await self._speech.transcribe(await self._speech.read(samples_of(whole)), options)
            answer["sentences"] = formats.sentences(transcript)
            answer["warnings"] = formats.warnings(transcript)
        self._link.hold(0)
        await self._link.send(answer)
