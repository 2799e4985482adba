"""FunASR's text commands, which its two WebSocket protocols, `funasr.py` and `realtime.py`, share.

START, LANGUAGE:x, HOTWORDS:a,b, SPK:true and STOP are FunASR's own. PING is answered with {"event": "pong"}; it exists
because browsers cannot send a WebSocket ping. White space around a command is ignored. A mistake is answered with an
error event and the session goes on: clients send STOP twice, or commands of newer servers, and must not lose text.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ASRError, ConfigError, PromptTooLongError, QueueFullError
from ..streaming import AsyncStreamingSession, Event
from .failures import Refusal
from .fields import hotwords_in
from .recognizer import Recognizer
from .sessions import Link, SessionEnd

KNOWN = "START, LANGUAGE:x, HOTWORDS:a,b, SPK:true, SPK:false, PING or STOP"
BUSY_WAIT_S = 0.5  # before the last sentences are submitted again to a service that is full


async def finish_stream(stream: AsyncStreamingSession, rest: Waveform | None = None) -> list[Event]:
    """Push the rest of the audio and finish a stream, trying again for as long as the service is full.

    Returns the last events.
    """
    events: list[Event] = []
    if rest is not None and len(rest):
        with contextlib.suppress(QueueFullError):  # the audio has been taken, and finish() yields what is missing
            events = await stream.push(rest)
    while True:
        try:
            return events + await stream.finish()
        except QueueFullError:
            await asyncio.sleep(BUSY_WAIT_S)


class CommandSession(ABC):
    """One client's connection: any number of recordings, each from START to STOP."""

    def __init__(self, link: Link, recognizer: Recognizer) -> None:
        self._link = link
        self._recognizer = recognizer
        self._language: str | None = None
        self._hotwords: list[str] = []
        self._spk = recognizer.settings.names_speakers
        self._has_started = False  # START came at least once
        self._has_heard = False  # audio of the current recording has come
        self._is_told = False  # the client knows that audio before START is dropped

    @property
    @abstractmethod
    def _is_listening(self) -> bool:
        """Whether a recording is under way: after START, before STOP."""

    @abstractmethod
    def _start(self) -> None:
        """Begin a recording. Raises ConfigError for a language that the model does not know."""

    @abstractmethod
    async def _hear(self, pcm: bytes) -> None:
        """Take audio of the recording: any number of bytes of 16-bit samples."""

    @abstractmethod
    async def _stop(self) -> None:
        """End the recording and answer with its last sentences."""

    async def run(self, first: str | bytes | None = None) -> None:
        """Handle messages until the client disconnects or the server shuts down; `first` has been received already."""
        message = first or await self._link.receive(joined=True)
        while message is not None:
            try:
                if isinstance(message, str):
                    await self._obey(message)
                elif self._is_listening:
                    self._has_heard = True
                    await self._hear(message)
                else:
                    await self._refuse_audio()
            except (ConfigError, PromptTooLongError, QueueFullError) as error:  # an unknown command, or many words
                await self._link.fail(error)
            except Refusal as refusal:  # there is no speaker model
                await self._link.send(self._link.describe(refusal))
            message = await self._link.receive(joined=True)
        if self._is_listening:  # the server is shutting down: transcribe what has been heard
            await self._stop_listening()

    def _require_duration(self, num_samples: int) -> None:
        if num_samples > self._recognizer.settings.max_audio_s * SAMPLE_RATE:
            raise SessionEnd(1009, f"more than {self._recognizer.settings.max_audio_s:g} s of audio")

    async def _obey(self, message: str) -> None:
        self._recognizer.require_prompt(message)
        command, _, value = message.strip().partition(":")
        match command.strip().upper():
            case "START":
                await self._require_speakers(self._spk)
                self._start()
                self._has_started, self._has_heard, self._is_told = True, False, False
                await self._link.send({"event": "started"})
            case "LANGUAGE":
                language = value.strip()
                self._recognizer.require_language(language)
                self._language = language or None
                self._restart_before_audio()
                await self._link.send({"event": "language_set", "language": language})
            case "HOTWORDS":
                self._hotwords = hotwords_in(value)
                self._restart_before_audio()
                await self._link.send({"event": "hotwords_set", "hotwords": self._hotwords})
            case "SPK":
                wanted = _is_true(value)
                await self._require_speakers(wanted)
                self._spk = wanted
                self._restart_before_audio()
                await self._link.send({"event": "spk_set", "spk": wanted})
            case "PING":
                await self._link.send({"event": "pong"})
            case "STOP" if self._is_listening:
                await self._stop_listening()
            case "STOP" if self._has_started:
                await self._link.send({"event": "stopped"})
            case "STOP":
                raise ConfigError("STOP without START: no recording has begun")
            case _:
                raise ConfigError(f"unknown command {message.strip()[:50]!r}; allowed: {KNOWN}")

    async def _require_speakers(self, wanted: bool) -> None:
        """Raises Refusal if speakers are wanted and there is no speaker model."""
        if wanted:
            await self._recognizer.speakers.require("SPK")

    def _restart_before_audio(self) -> None:
        """Commands apply to later recordings, and to the current one if none of its audio has come."""
        if self._is_listening and not self._has_heard:
            self._start()

    async def _stop_listening(self) -> None:
        try:
            await self._stop()
        except ASRError as error:
            await self._link.fail(error)
        await self._link.send({"event": "stopped"})

    async def _refuse_audio(self) -> None:
        """Say once that START is missing. Audio after STOP gets no answer: microphones send a little more."""
        if not self._has_started and not self._is_told:
            self._is_told = True
            raise ConfigError("audio outside a recording is not heard: send START first")


def _is_true(value: str) -> bool:
    """Raises ConfigError for anything but true and false."""
    match value.strip().lower():
        case "true":
            return True
        case "false":
            return False
    raise ConfigError(f"SPK takes true or false, got {value.strip()[:50]!r}")
