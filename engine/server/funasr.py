"""FunASR's offline protocols: POST /asr for files, and the WebSocket /ws for whole recordings as PCM."""

import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, UploadFile, WebSocket
from pydantic import Field

from ..run_options import SpeakerSettings
from ..streaming import samples_of
from ..transcript import TranscriptWarning
from . import formats, whisper_asr
from .commands import CommandSession
from .fields import MAX_WORDS, ClientRoute, hotwords_in
from .pcm import MIN_PCM_BYTES
from .recognizer import Recognizer
from .sessions import Link, hold_session
from .speakers import SpeakerForm


class AsrForm(SpeakerForm):
    """FunASR's form. With `audio_file` it is whisper-asr-webservice's, whose options are in the query."""

    audio_file: Annotated[UploadFile | None, Field(description="As whisper-asr-webservice takes it")] = None
    language: Annotated[str | None, Field(description='"中文", "English", "zh", ...; left to the model by default')] = (
        None
    )
    hotwords: list[str] = Field([], max_length=MAX_WORDS, description="Separated by commas")
    timestamp: Annotated[bool, Field(description="Word times")] = True

    @classmethod
    def sources(cls) -> tuple[str, ...]:
        return ("file", "url", "audio_file")


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(tags=["FunASR"], route_class=ClientRoute)

    @routes.post("/asr")
    async def asr(
        request: Request, form: Annotated[AsrForm, Form()], query: Annotated[whisper_asr.AsrQuery, Query()]
    ) -> Any:
        """Transcribe a file: text, segments and words with times in seconds.

        The name of the file's part selects the protocol: `file` (or `url`) is FunASR's, and `audio_file` is that of
        whisper-asr-webservice, whose options are in the query and whose answer is a text file.
        """
        if form.audio_file is None:
            recognizer.unknown_fields.heed(request, form, others=[] if form.spk else form.counts_given)
            return await _answer(recognizer, request, form)
        recognizer.unknown_fields.heed(request, form, query, others=[] if query.diarize else query.counts_given)
        return await whisper_asr.answer(recognizer, request, form.audio_file, query)

    @routes.websocket("/ws")
    async def offline_session(socket: WebSocket) -> None:
        await hold_session(socket, recognizer, "offline", lambda link: _OfflineSession(link, recognizer).run())

    return routes


async def _answer(recognizer: Recognizer, request: Request, form: AsrForm) -> dict[str, Any]:
    started = time.perf_counter()
    recognizer.require_prompt(*form.hotwords)
    hotwords = hotwords_in(",".join(form.hotwords))
    options = recognizer.options(language=form.language, hotwords=hotwords, timestamps=form.timestamp)
    missing: tuple[TranscriptWarning, ...] = ()
    if form.spk:  # FunASR's clients ask for speakers by habit
        options, missing = await recognizer.speakers.or_warning(options, form.speaker_settings())
    recording = await form.read(recognizer, request)
    transcript = await recognizer.transcribe(recording, options)
    wall_s = time.perf_counter() - started
    answer = formats.funasr(transcript, with_words=form.timestamp, wall_s=wall_s)
    answer["warnings"] += map(formats.warning_json, missing)
    return answer


class _OfflineSession(CommandSession):
    """Answers with all sentences after the end of a recording."""

    def __init__(self, link: Link, recognizer: Recognizer) -> None:
        super().__init__(link, recognizer)
        self._pcm: bytearray | None = None  # 16-bit samples of the current recording; None between recordings

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
        self._link.hold(3 * len(pcm))  # the PCM, and its float32 samples
        whole = pcm[: len(pcm) // 2 * 2]  # drop half a sample at the end
        answer: dict[str, Any] = {"sentences": [], "is_final": True, "duration_ms": len(whole) // 32}
        if len(whole) >= MIN_PCM_BYTES:
            options = self._recognizer.options(language=self._language, hotwords=self._hotwords)
            if self._spk:
                options = replace(options, speakers=SpeakerSettings())
            recording = await self._recognizer.read(samples_of(whole), client=self._link.client)
            transcript = await self._recognizer.transcribe(recording, options)
            answer["sentences"] = formats.sentences(transcript, known=self._recognizer.speakers.known_names)
            answer["warnings"] = formats.warnings(transcript)
        self._link.hold(0)
        await self._link.send(answer)
