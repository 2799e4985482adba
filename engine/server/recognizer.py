"""Recognizer: what request handlers call. Uploads -> waveforms -> transcripts, without blocking the event loop."""

import asyncio
import functools
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

from starlette.datastructures import UploadFile

from ..audio.channels import Channels
from ..audio.inputs import AudioInput, Samples
from ..errors import AudioError, ConfigError, PromptTooLongError
from ..families.base import Request
from ..options import RequestOptions
from ..run_options import TranscribeOptions, transcribe_options
from ..service import OnText
from ..streaming import LiveOptions
from ..transcriber import Transcriber
from ..transcript import Transcript
from ..vad import STREAMING_SCHEDULE, VoiceActivityModel
from ..vad.splitting import DEFAULT_SEGMENTATION, Piece
from .bodies import content_of
from .budget import Budget
from .fields import UnknownFields, hotwords_in
from .ledger import Ledger
from .metrics import Metrics
from .pace import Pace
from .recording import OnPart, transcribe_recording
from .service import LocalService, Service
from .settings import ServerSettings
from .speakers import ServerSpeakers

CHUNK_MS = 480.0  # of live audio between two partial texts; the text of shorter chunks is mostly wrong


class Recognizer:
    """One model, its service and its counters, shared by all protocols."""

    def __init__(
        self,
        service: Service,
        settings: ServerSettings,
        *,
        vad: VoiceActivityModel,
        chunk_ms: float = CHUNK_MS,
        ledger: Ledger | None = None,
    ) -> None:
        """A live session decodes a partial text after each `chunk_ms` of new audio. Raises ConfigError.

        Args:
            service: this server's engine; closed with the recognizer.
            settings, vad: of this server.
            chunk_ms: see above.
            ledger: the one that other front ends share; by default, this process is the whole server.
        """
        self.settings = settings
        self.live = LiveOptions(vad=vad, chunk_ms=chunk_ms)
        self.service = service
        self.metrics = service.metrics
        self.unknown_fields = UnknownFields(are_errors=settings.strict_fields)
        self.ledger = ledger or Ledger()  # of the requests and sessions under way, among others
        self.uploads = Budget("upload_bytes", settings.max_upload_bytes, self.ledger)  # bodies of requests under way
        self.session_bytes = Budget(  # audio and messages that WebSocket sessions keep
            "session_bytes", settings.max_session_bytes, self.ledger, largest="largest_session"
        )
        self.created = int(time.time())
        self.pace = Pace()  # of the requests
        self.is_leaving = False  # /ready tells load balancers to stop, but requests are still taken
        self.is_draining = asyncio.Event()  # set when no new requests are taken and sessions must end
        self.speakers = ServerSpeakers(self.service, settings.known_speakers)
        self._readers = service.model.readers
        self._family = service.model.family
        self._cutting = DEFAULT_SEGMENTATION.cutting(self._family.best_length_s)
        self.metrics.watch("twostage_active_requests", "Requests under way", lambda: self.num_requests)
        self.metrics.watch("twostage_upload_bytes", "Of bodies under way", lambda: self.uploads.num_bytes)
        self.metrics.watch("twostage_session_bytes", "Kept by sessions", lambda: self.session_bytes.num_bytes)
        self.metrics.watch("twostage_queue_clips", "Clips not yet encoded", lambda: self.service.num_waiting)
        self.metrics.watch("twostage_clips", "Clips not yet transcribed", lambda: self.service.num_jobs)
        self.metrics.watch("twostage_ready", "1 if requests are taken", lambda: float(self.is_ready))

    @classmethod
    def of(
        cls, model: Transcriber, settings: ServerSettings, *, vad: VoiceActivityModel, chunk_ms: float = CHUNK_MS
    ) -> Self:
        """The recognizer of a model that is loaded in this process. Raises ConfigError if the model is in use."""
        service = LocalService(model, Metrics(), max_waiting=settings.max_waiting)
        return cls(service, settings, vad=vad, chunk_ms=chunk_ms)

    @property
    def funasr_live(self) -> LiveOptions:
        """The options of live sessions of FunASR's clients, whose segments close by FunASR's table."""
        return replace(self.live, rules=self.live.rules.with_silence(STREAMING_SCHEDULE))

    @property
    def num_requests(self) -> int:
        """Requests under way in this process; request_guard.py counts them."""
        return self.ledger.own("requests")

    @property
    def num_sessions(self) -> int:
        """Sessions open in this process."""
        return self.ledger.own("sessions")

    @property
    def family(self) -> str:
        return self._family.name

    @functools.cached_property
    def takes_context(self) -> bool:
        """Whether the model's prompt has a place for free text."""
        try:
            self._family.prompt_text(Request(context="context"))
        except ConfigError:
            return False
        return True

    def prompted(self, text: str) -> tuple[list[str], str]:
        """What a client says that the speech is about, as hotwords and as context: whichever the model takes."""
        return ([], text) if self.takes_context else (hotwords_in(text), "")

    @property
    def readiness(self) -> str:
        """ "ok", or why requests should go elsewhere."""
        if self.service.failed:
            return "engine failed"
        if self.is_leaving or self.is_draining.is_set():
            return "shutting down"
        settings = self.settings
        num_requests = self.ledger.total("requests")
        is_full = self.service.num_waiting >= settings.max_waiting or num_requests >= settings.max_requests
        return "saturated" if is_full else "ok"

    @property
    def is_ready(self) -> bool:
        return self.readiness == "ok"

    def options(self, **asked: Unpack[RequestOptions]) -> TranscribeOptions:
        """The options of a request, with this server's defaults. Raises ConfigError, PromptTooLongError."""
        settings = self.settings
        self.require_prompt(asked.get("language") or "", asked.get("context") or "", *(asked.get("hotwords") or ()))
        defaults = RequestOptions(
            language=asked.get("language") or settings.language,
            hotwords=asked.get("hotwords") or settings.hotwords,
            max_new_tokens=asked.get("max_new_tokens", settings.max_new_tokens),
        )
        return transcribe_options(limits=settings.audio_limits, **(asked | defaults))

    def require_prompt(self, *texts: str) -> None:
        """Check the size of a client's prompt texts before they are processed. Raises PromptTooLongError."""
        num_bytes = sum(len(text.encode(errors="surrogatepass")) for text in texts)
        if num_bytes > self.settings.max_prompt_bytes:
            raise PromptTooLongError(
                f"hotwords, context and language have {num_bytes:,} bytes, at most "
                f"{self.settings.max_prompt_bytes:,} are allowed; give fewer or shorter words"
            )

    def require_language(self, language: str) -> None:
        """Raises ConfigError for a language that the model does not know."""
        self._family.prompt_text(Request(language=language))

    def only_language(self, languages: Sequence[str]) -> str | None:
        """The language to ask the model for, if a client lists the languages that may be spoken.

        That is the one that the model knows. The result is None, and the model detects the language, if it knows
        several of them, or if it cannot be asked for a language at all.

        Raises:
            ConfigError: the model knows none of the listed languages.
        """
        if not languages or not self._family.languages:
            return None
        known = [language for language in languages if self._knows(language)]
        if not known:
            self.require_language(languages[0])
        return known[0] if len(known) == 1 else None

    def _knows(self, language: str) -> bool:
        try:
            self.require_language(language)
        except ConfigError:
            return False
        return True

    def audio_tokens(self, recording: Piece) -> int:
        """Positions of the LLM that the audio takes."""
        return sum(self.service.num_audio_tokens(len(cut.waveform)) for cut in recording.cuts)

    async def read_upload(
        self, upload: UploadFile, *, channels: Channels = "mix", salvage: bool = False, client: Hashable = None
    ) -> Piece:
        """`read` of an uploaded file."""
        name = f"{upload.size or 0:,} bytes of audio"
        return await self.read(await content_of(upload), name=name, channels=channels, salvage=salvage, client=client)

    async def read(
        self,
        source: "bytes | Path | str | Samples",
        sample_rate: int | None = None,
        *,
        name: str | None = None,
        channels: Channels = "mix",
        salvage: bool = False,
        client: Hashable = None,
    ) -> Piece:
        """Decode a file, its content, a URL or samples, elsewhere than on the event loop if that takes long.

        Cancelling the wait ends the decoding. Error messages call the audio `name`, by default a file's path.
        GenerateOptions explains `channels` and `salvage`; AudioReaders.submit explains `client`.

        Raises:
            AudioError: not audio, too long, or a URL whose host is not allowed.
        """
        self.service.model.lock.require_open()  # after a fork, the readers of the parent would never answer
        how: dict[str, Any] = {"sample_rate": sample_rate, "channels": channels, "salvage": salvage, "name": name}
        item = AudioInput(key="audio", source=source, **how)
        limits, hosts = self.settings.audio_limits, self.settings.url_hosts
        future = self._readers.submit(item, limits=limits, allow_urls=hosts, cutting=self._cutting, client=client)
        pieces: list[Piece] = []
        for audio in future.result() if future.done() else await asyncio.wrap_future(future):
            if isinstance(audio, AudioError):
                raise audio
            pieces.append(audio)
        return replace(pieces[-1], cuts=[cut for piece in pieces for cut in piece.cuts])

    async def transcribe(
        self,
        recording: Piece,
        options: TranscribeOptions,
        on_text: OnText | None = None,
        on_part: OnPart | None = None,
    ) -> Transcript:
        """Transcribe a recording; transcribe_recording explains `on_text` and `on_part`.

        Cancelling the wait drops the work in both stages.

        Raises:
            ASRError: the recording could not be transcribed; this is the transcript's `exception()`. Or a known
                speaker's clip could not be embedded.
        """
        started = time.perf_counter()
        speakers = None if options.speakers is None else await self.speakers.of(options.speakers)
        transcript = await transcribe_recording(self.service, self.pace, recording, options, on_text, speakers, on_part)
        self.metrics.count(transcript, time.perf_counter() - started)
        if error := transcript.exception():
            raise error
        return transcript

    def metrics_text(self) -> bytes:
        """See Service.metrics_text."""
        return self.service.metrics_text()

    def close(self) -> None:
        """Close the service, which drops the work that is left. The model stays open; it belongs to the caller."""
        self.speakers.close()
        self.service.close()
