"""The loaded model as request handlers see it: bytes -> waveform -> transcript, awaited, never blocking the loop."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from ..auto import transcribe_options
from ..errors import AudioError
from ..families.base import Request
from ..inputs import AudioInput
from ..service import TranscriptionService
from ..streaming import LiveOptions
from ..transcriber import TranscribeOptions, Transcriber
from ..transcript import Transcript
from ..vad import VoiceActivityModel
from ..waveform import SAMPLE_RATE, Waveform
from .metrics import Metrics, MetricsTimeline
from .settings import ServerSettings

CHUNK_MS = 480.0  # of live audio; what is heard of a shorter piece is mostly wrong

OnText = Callable[[str], None]


class Speech:
    """One model, its service and its counters, shared by all protocols."""

    def __init__(
        self, transcriber: Transcriber, settings: ServerSettings, *, vad: VoiceActivityModel, chunk_ms: float = CHUNK_MS
    ) -> None:
        """`chunk_ms` of new audio lie between two partial texts of a live session. Raises ConfigError."""
        self.settings = settings
        self.live = LiveOptions(vad=vad, chunk_ms=chunk_ms)
        self.metrics = Metrics()
        self.num_requests = 0  # under way; the gate counts
        self.num_sessions = 0
        self.created = int(time.time())
        self.is_draining = asyncio.Event()  # set when sessions and requests shall come to an end
        self.service = TranscriptionService(
            transcriber, max_waiting=settings.max_waiting, timeline=MetricsTimeline(self.metrics)
        )
        self._readers = transcriber.readers
        self._family = transcriber.family
        self.metrics.watch("twostage_active_requests", "Requests under way", lambda: self.num_requests)
        self.metrics.watch("twostage_queue_clips", "Clips not yet encoded", lambda: self.service.num_waiting)
        self.metrics.watch("twostage_clips", "Clips not yet transcribed", lambda: self.service.num_jobs)
        self.metrics.watch("twostage_ready", "1 if requests are taken", lambda: float(self.is_ready))

    @property
    def is_ready(self) -> bool:
        return not self.service.failed and not self.is_draining.is_set()

    def options(
        self,
        *,
        language: str | None = None,
        hotwords: Sequence[str] = (),
        itn: bool = True,
        timestamps: bool = True,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
    ) -> TranscribeOptions:
        """What a request asks for, with this server's defaults. Raises ConfigError."""
        return transcribe_options(
            language=language or self.settings.language,
            hotwords=tuple(hotwords) or self.settings.hotwords,
            itn=itn,
            timestamps=timestamps,
            temperature=temperature,
            max_new_tokens=max_new_tokens or self.settings.max_new_tokens,
            limits=self.settings.audio_limits,
        )

    def require_language(self, language: str) -> None:
        """Raises ConfigError for one that the model does not know."""
        self._family.prompt_text(Request(language=language))

    async def read(self, source: bytes | str) -> Waveform:
        """Decode a file's content or a URL, elsewhere than on the event loop.

        Raises:
            AudioError: not audio, too long, or a URL whose host is not allowed.
        """
        item = AudioInput(key="audio", source=source)
        future = self._readers.submit(item, limits=self.settings.audio_limits, allow_urls=self.settings.url_hosts)
        audio = await asyncio.wrap_future(future)
        if isinstance(audio, AudioError):
            raise audio
        return audio

    async def transcribe(
        self, waveform: Waveform, options: TranscribeOptions, on_text: OnText | None = None
    ) -> Transcript:
        """Transcribe one waveform; `on_text` is called on this event loop with the text so far.

        Cancelling the wait drops the work in both stages.

        Raises:
            ASRError: also where the transcript would be of status "error".
        """
        started = time.perf_counter()
        future = self.service.submit(waveform, options, on_text=_on_this_loop(on_text))
        transcript = await asyncio.wrap_future(future)
        self.metrics.count(transcript, time.perf_counter() - started)
        if transcript.status == "error":
            raise AudioError(transcript.error or "this audio cannot be transcribed")
        return transcript

    def close(self) -> None:
        """Drop what is left; the model is the caller's."""
        self.service.close()


def _on_this_loop(on_text: OnText | None) -> OnText | None:
    if on_text is None:
        return None
    loop, call = asyncio.get_running_loop(), on_text

    def tell(text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody listens any more
            loop.call_soon_threadsafe(call, text)

    return tell


def seconds_of(waveform: Waveform) -> float:
    """For log lines."""
    return round(len(waveform) / SAMPLE_RATE, 2)
