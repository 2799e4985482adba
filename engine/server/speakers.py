"""Who speaks in the recordings of requests: the steps of engine/speakers/stage.py, without blocking the event loop.

fields of a form       -> SpeakerSettings
clips of a recording   -> the service embeds them, beside its two stages
embeddings, transcript -> the transcript with speakers, in one thread for all requests
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from pydantic import Field

from ..audio.waveform import Waveform
from ..errors import ASRError, QueueFullError
from ..model import ClipService
from ..options import SpeakerOptions
from ..run_options import SpeakerSettings, TranscribeOptions, speaker_settings
from ..speakers.diarize import Stretch, windows_of
from ..speakers.enrolment import KnownSpeakers
from ..speakers.model import Embeddings, Parts, SpeakerModel
from ..speakers.stage import enrolled, heard, named
from ..streaming import LiveSpeakers
from ..transcript import Transcript, TranscriptWarning
from ..vad.splitting import Cut, Piece
from .failures import Refusal
from .fields import AudioForm, Open

BUSY_WAIT_S = 0.1  # until a clip is offered again to a service that is full
MAX_SPEAKERS = 100  # that a request may ask for
MAX_KNOWN = 4  # speakers of one request, as in OpenAI's API; so are the next two
REFERENCE_MIN_S, REFERENCE_MAX_S = 2.0, 10.0

Done = TypeVar("Done")
Count = Annotated[int | None, Field(ge=1, le=MAX_SPEAKERS)]

log = logging.getLogger("twostage_asr.requests")


class SpeakerCounts(Open):
    """How many speakers there are; without a meaning unless speakers are asked for."""

    num_speakers: Annotated[Count, Field(description="If it is known how many speak")] = None
    min_speakers: Annotated[Count, Field(description="Bound of the number that is found")] = None
    max_speakers: Annotated[Count, Field(description="Bound of the number that is found")] = None

    @property
    def counts_given(self) -> list[str]:
        return [name for name in SpeakerCounts.model_fields if getattr(self, name) is not None]

    def speaker_settings(self, known: dict[str, Waveform] | None = None) -> SpeakerSettings:
        """Raises ConfigError if the counts contradict each other."""
        counts = {name: getattr(self, name) for name in self.counts_given}
        settings = speaker_settings(cast(SpeakerOptions, {"speakers": True, "known_speakers": known, **counts}))
        assert settings is not None
        return settings


class SpeakerForm(AudioForm, SpeakerCounts):
    """A form that may ask who speaks."""

    spk: Annotated[bool, Field(description="Say who speaks, in segments and words")] = False


class RecordingSpeakers:
    """The speakers of one recording."""

    def __init__(self, speakers: "ServerSpeakers", settings: SpeakerSettings, known: KnownSpeakers | None) -> None:
        self._speakers = speakers
        self._settings = settings
        self._known = known
        self._stretches: list[Stretch] = []

    async def hear(self, cut: Cut) -> None:
        """Embed a clip of the recording. One that fails has no speaker, which a warning says."""
        rows: Embeddings | ASRError
        try:
            rows = await self._speakers.embed(cut.waveform, windows_of(len(cut.waveform)))
        except ASRError as error:
            rows = error
        self._stretches.append(heard(cut.start, len(cut.waveform), rows, cut.channel))

    async def named(self, transcript: Transcript) -> Transcript:
        """The transcript of the recording, all of whose clips were heard, with its speakers."""
        loop, thread = asyncio.get_running_loop(), self._speakers.naming_thread
        return await loop.run_in_executor(thread, named, transcript, self._stretches, self._settings.count, self._known)


class ServerSpeakers:
    """Tells the speakers of all requests apart."""

    def __init__(self, service: ClipService, known: KnownSpeakers | None) -> None:
        """`known`: of all recordings that have no known speakers of their own."""
        self._service = service
        self._known = known
        self.naming_thread = ThreadPoolExecutor(1, "speaker-names")

    @property
    def known_names(self) -> tuple[str, ...]:
        return () if self._known is None else self._known.names

    def live(self) -> LiveSpeakers:
        """For a live session."""
        return LiveSpeakers(self._service, known=self._known)

    async def require(self, param: str) -> None:
        """Wait until the speaker model is loaded. Raises Refusal, which names this parameter, if there is none."""
        try:
            await self.embed(np.zeros(0, np.float32), ())
        except QueueFullError:
            raise
        except ASRError as error:
            log.warning("there is no speaker model: %s", error)
            message = f"this server cannot say who speaks; `serve --speaker-model DIR` gives it a model: {error}"
            raise Refusal(400, message, code="unsupported_value", param=param) from error

    async def or_warning(
        self, options: TranscribeOptions, settings: SpeakerSettings
    ) -> tuple[TranscribeOptions, tuple[TranscriptWarning, ...]]:
        """The options with speakers; or those given and a warning, for clients that want their text without them."""
        try:
            await self.require("spk")
        except Refusal as refusal:
            return options, (TranscriptWarning("no_speakers", str(refusal.detail)),)
        return replace(options, timestamps=True, speakers=settings), ()

    async def of(self, settings: SpeakerSettings) -> RecordingSpeakers:
        """For a recording whose known speakers, (N,) float32 each, are enrolled here. Raises ASRError."""
        own = await asyncio.to_thread(enrolled, _Embedder(self._service), settings, allow_urls=False)
        return RecordingSpeakers(self, settings, own or self._known)

    async def embed(self, waveform: Waveform, windows: Sequence[tuple[int, int]]) -> Embeddings:
        return await offered(lambda: self._service.embed(waveform, windows))

    def close(self) -> None:
        self.naming_thread.shutdown(cancel_futures=True)


class _Embedder(SpeakerModel):
    """The service's speaker model; waits, so it is not for the event loop."""

    def __init__(self, service: ClipService) -> None:
        self._service = service

    def embed_windows(self, parts: Parts) -> Embeddings:
        futures = [self._service.embed(waveform, windows) for waveform, windows in parts]
        return np.concatenate([future.result() for future in futures])

    def warm_up(self) -> None:
        """The service does this by itself."""


async def offered(submit: Callable[[], Future[Done]], *, waits: bool = True) -> Done:
    """The result of what `submit` hands to the service, as soon as that has room.

    Raises:
        QueueFullError: it has none, and this does not wait for any.
    """
    while True:
        try:
            return await asyncio.wrap_future(submit())
        except QueueFullError:
            if not waits:
                raise
            await asyncio.sleep(BUSY_WAIT_S)


def known_speakers(names: Sequence[str], references: Iterable[Piece]) -> dict[str, Waveform]:
    """The reference clips by name. Raises Refusal for one that is too short or too long."""
    known: dict[str, Waveform] = {}
    for name, reference in zip(names, references, strict=True):
        if not REFERENCE_MIN_S <= reference.duration <= REFERENCE_MAX_S:
            message = (
                f"the reference of {name!r} has {reference.duration:.2f} s; each must have {REFERENCE_MIN_S:.0f} to "
                f"{REFERENCE_MAX_S:.0f} s"
            )
            raise _refused(message)
        known[name] = reference.cuts[0].waveform  # it is too short to be cut
    return known


def require_references(names: Sequence[str], references: Sequence[Any]) -> None:
    """Raises Refusal unless there is a data URL for each name, and each name is there once."""
    if len(names) != len(references):
        raise _refused(f"{len(names)} known_speaker_names and {len(references)} references: each name needs one")
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        message = f"known_speaker_names must be different and not empty, got {', '.join(map(repr, names))}"
        raise Refusal(400, message, code="invalid_value", param="known_speaker_names")


def _refused(message: str) -> Refusal:
    return Refusal(400, message, code="invalid_value", param="known_speaker_references")
