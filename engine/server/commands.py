"""FunASR's text commands: what its two WebSocket protocols, `funasr.py` and `realtime.py`, have in common.

START, LANGUAGE:x, HOTWORDS:a,b and STOP are FunASR's own; PING is answered with {"event": "pong"}, since browsers
cannot send a WebSocket's own ping. White space around a command does not count. A mistake is answered with an error
event and the session goes on: clients send a second STOP, or commands of newer servers, and must not lose their text
by it.
"""

import asyncio
from abc import ABC, abstractmethod

from ..audio.waveform import SAMPLE_RATE
from ..errors import ASRError, ConfigError, PromptTooLongError, QueueFullError
from ..streaming import AsyncStreamingSession, Event
from .openai_audio import hotwords_in
from .sessions import Link, SessionEnd
from .speech import Speech

KNOWN = "START, LANGUAGE:x, HOTWORDS:a,b, PING or STOP"
BUSY_WAIT_S = 0.5  # between two attempts to have the last sentences decoded while the service is full


async def finish_stream(stream: AsyncStreamingSession) -> list[Event]:
    """The last events of a stream, however long the service is full."""
    while True:
        try:
            return await stream.finish()
        except QueueFullError:
            await asyncio.sleep(BUSY_WAIT_S)


class CommandSession(ABC):
    """One client's connection: any number of recordings, each from START to STOP."""

    def __init__(self, link: Link, speech: Speech) -> None:
        self._link = link
        self._speech = speech
        self._language: str | None = None
        self._hotwords: list[str] = []
        self._has_started = False  # at some time
        self._has_heard = False  # some of the present recording
        self._is_told = False  # that audio outside a recording is not heard

    @property
    @abstractmethod
    def _is_listening(self) -> bool:
        """Whether START was said and STOP was not."""

    @abstractmethod
    def _start(self) -> None:
        """Begin a recording. Raises ConfigError for a language that the model does not know."""

    @abstractmethod
    async def _hear(self, pcm: bytes) -> None:
        """Take audio of the recording: any number of bytes of 16-bit samples."""

    @abstractmethod
    async def _stop(self) -> None:
        """Answer with the recording's last sentences; the session listens no longer."""

    async def run(self, first: str | bytes | None = None) -> None:
        """Obey until the client has gone or the server shuts down; `first` is a message that was received already."""
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
            except (ConfigError, PromptTooLongError) as error:  # a language or words that are not taken
                await self._link.fail(error)
            message = await self._link.receive(joined=True)
        if self._is_listening:  # the server is shutting down: what was said is not lost
            await self._stop_listening()

    def _require_duration(self, num_samples: int) -> None:
        if num_samples > self._speech.settings.max_audio_s * SAMPLE_RATE:
            raise SessionEnd(1009, f"more than {self._speech.settings.max_audio_s:g} s of audio")

    async def _obey(self, message: str) -> None:
        self._speech.require_prompt(message)
        command, _, value = message.strip().partition(":")
        match command.strip().upper():
            case "START":
                self._start()
                self._has_started, self._has_heard, self._is_told = True, False, False
                await self._link.send({"event": "started"})
            case "LANGUAGE":
                language = value.strip()
                self._speech.require_language(language)
                self._language = language or None
                self._restart_before_audio()
                await self._link.send({"event": "language_set", "language": language})
            case "HOTWORDS":
                self._hotwords = hotwords_in(value)
                self._restart_before_audio()
                await self._link.send({"event": "hotwords_set", "hotwords": self._hotwords})
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

    def _restart_before_audio(self) -> None:
        """LANGUAGE and HOTWORDS hold for a recording of which nothing has been heard, and for later ones."""
        if self._is_listening and not self._has_heard:
            self._start()

    async def _stop_listening(self) -> None:
        try:
            await self._stop()
        except ASRError as error:
            await self._link.fail(error)
        await self._link.send({"event": "stopped"})

    async def _refuse_audio(self) -> None:
        """Say once that START is missing. After STOP a microphone sends a little more, which needs no answer."""
        if not self._has_started and not self._is_told:
            self._is_told = True
            raise ConfigError("audio outside a recording is not heard: send START first")
