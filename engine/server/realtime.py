"""FunASR's realtime WebSocket, at `/`: sentences are sent while they are spoken.

    client: START, LANGUAGE:x, HOTWORDS:a,b, SPK:true, PING, binary PCM16 (little-endian, 16 kHz, mono, any size), STOP
    server: {"event": "started"}, {"event": "language_set", ...}, {"event": "hotwords_set", ...}
            {"event": "spk_set", ...}
            {"sentences": [{"text", "start", "end", "spk"}], "partial", "partial_confirmed", "partial_start_ms",
             "duration_ms", "is_final": false}
            after STOP the same with is_final true, then {"event": "stopped"}; START begins anew

Sentences never change once they are sent. `partial` is the text of the sentence being spoken, which may change, save
its beginning `partial_confirmed`. Times are in milliseconds from START. LANGUAGE, HOTWORDS and SPK apply to later
recordings, and to the current one if none of its audio has come. If a segment cannot be transcribed,
{"event": "error", "error": why, "code": "segment_failed"} is sent before the answer that lacks it.

After SPK:true, a sentence has `spk`, the number of its speaker. The last answer has all sentences with the numbers that
a look at the whole recording gives; they differ where two numbers turn out to be one speaker. What is to be known of
the sentences of an answer, such as that their speakers could not be told apart, is in its `warnings`.

Every answer holds all sentences since START, because FunASR's clients show only the last answer. Three hours of speech
without a pause give 22,000 answers of 2.2 GB together, the last of which has 200 KB.

A client whose first message is JSON uses FunASR's other protocol for the same address: see funasr_websocket.py.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, WebSocket

from ..audio.waveform import SAMPLE_RATE
from ..errors import QueueFullError
from ..streaming import AsyncStreamingSession, Event, Final
from . import formats
from .commands import CommandSession, finish_stream
from .funasr_websocket import ClassicSession, is_classic
from .recognizer import Recognizer
from .sessions import Link, hold_session

NO_NAMES: Mapping[str, str] = MappingProxyType({})


def router(recognizer: Recognizer) -> APIRouter:
    routes = APIRouter(tags=["FunASR"])

    @routes.websocket("/")
    async def realtime_session(socket: WebSocket) -> None:
        await hold_session(socket, recognizer, "realtime", lambda link: _talk(link, recognizer))

    return routes


async def _talk(link: Link, recognizer: Recognizer) -> None:
    """The first message tells FunASR's two protocols apart."""
    first = await link.receive(joined=True)
    if is_classic(first):
        await ClassicSession(link, recognizer).run(first)
    else:
        await _RealtimeSession(link, recognizer).run(first)


class _RealtimeSession(CommandSession):
    """Sends sentences while a recording goes on."""

    def __init__(self, link: Link, recognizer: Recognizer) -> None:
        super().__init__(link, recognizer)
        self._stream: AsyncStreamingSession | None = None  # while it is listening
        self._num_bytes = 0
        self._sentences: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}  # of the speakers

    @property
    def _is_listening(self) -> bool:
        return self._stream is not None

    def _start(self) -> None:
        options = self._recognizer.options(language=self._language, hotwords=self._hotwords)
        service = self._recognizer.service
        speakers = self._recognizer.speakers.live() if self._spk else None
        self._stream = AsyncStreamingSession(service, options, self._recognizer.funasr_live, speakers=speakers)
        self._num_bytes, self._sentences, self._numbers = 0, [], {}

    async def _hear(self, pcm: bytes) -> None:
        assert self._stream is not None
        self._num_bytes += len(pcm)
        self._require_duration(self._num_bytes // 2)
        try:
            events = await self._stream.push(pcm)
        except QueueFullError as error:  # a later push yields the text that is missing
            await self._link.fail(error)
            return
        if events:
            await self._tell(events, is_final=False)

    async def _stop(self) -> None:
        assert self._stream is not None
        stream, self._stream = self._stream, None
        events = await finish_stream(stream)
        await self._tell(events, is_final=True, names=await stream.relabel())

    async def _tell(self, events: Sequence[Event], *, is_final: bool, names: Mapping[str, str] = NO_NAMES) -> None:
        """Send the state after these events, preceded by an error event for each segment that failed.

        `names`: of speakers, and the names in place of them from now on.
        """
        for event in events:
            if isinstance(event, Final) and event.transcript.status == "error":
                await self._link.send({"event": "error", "error": event.transcript.error, "code": "segment_failed"})
        answer = self._answer(events, is_final=is_final)
        known = self._recognizer.speakers.known_names
        now = {number: names.get(name, name) for name, number in self._numbers.items()}
        for sentence in self._sentences:
            if "spk" in sentence:
                sentence |= formats.sentence_speaker(now[sentence["spk"]], self._numbers, known)
        await self._link.send(answer)

    def _answer(self, events: Sequence[Event], *, is_final: bool) -> dict[str, Any]:
        """The state after these events."""
        answer: dict[str, Any] = {"sentences": self._sentences, "partial": ""}
        warnings: list[dict[str, str]] = []
        for event in events:
            if isinstance(event, Final):
                self._recognizer.metrics.count(event.transcript)
                known = self._recognizer.speakers.known_names
                self._sentences += formats.sentences(event.transcript, numbers=self._numbers, known=known)
                warnings += formats.warnings(event.transcript)
            else:
                answer |= {
                    "partial": event.text,
                    "partial_confirmed": event.confirmed,
                    "partial_start_ms": round(event.start * 1000),
                }
        if warnings:
            answer["warnings"] = warnings
        return answer | {"duration_ms": self._num_bytes // 2 * 1000 // SAMPLE_RATE, "is_final": is_final}
