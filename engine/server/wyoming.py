"""Home Assistant's Wyoming protocol, on an address of its own: speech to text for voice assistants.

    client: describe; or transcribe, audio-start, audio-chunk ..., audio-stop
    server: info; or transcript-start, transcript-chunk ..., transcript, transcript-stop; or error, and the end

The protocol is that of the package `wyoming`, whose classes stand for the events and write them; they are read by
wyoming_events.py, since the package reads whatever length a client names. Audio is heard while it comes, as in every
live session here: a transcript-chunk holds text that will not change, the chunks of a transcript one after the other
are its text, and a client that does not know them waits for `transcript`. The limits of ServerSettings hold; a client
is an address. The protocol has no keys: whoever reaches the address may have speech transcribed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import numpy as np
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from ..audio.waveform import Waveform
from ..errors import ASRError, ConfigError
from ..families.languages import LANGUAGES
from .failures import Refusal, refusal_of
from .quotas import Quota, client_of
from .recognizer import Recognizer
from .sessions import CLIENT_GONE, SHUTTING_DOWN, UNREAD, Inbox, SessionEnd, at_work, counted, end_after, record_end
from .utterance import PCMFormat, Utterance
from .wyoming_events import EventReader

PROTOCOL = "wyoming"  # in metrics and log lines

CLOSE_TIMEOUT_S = 2.0

_CODES = {  # by the WebSocket close codes, which stand for the reasons of this protocol's ends as well
    1007: "bad_event",
    1008: "limit_passed",
    1009: "too_large",
    SHUTTING_DOWN: "shutting_down",
    1013: "server_busy",
}
_Kind = TypeVar("_Kind", bound=Eventable)

log = logging.getLogger("twostage_asr.sessions")


@dataclass(frozen=True, slots=True)
class WyomingAddress:
    """Where to listen, written as usual for this protocol: tcp://HOST:PORT or unix:///PATH."""

    host: str | None
    port: int
    path: str  # of a Unix socket, if there is no host

    @classmethod
    def of(cls, uri: str) -> "WyomingAddress":
        """Parse an address. Raises ConfigError for anything else."""
        try:
            parts = urlsplit(uri)
            if parts.scheme == "tcp" and parts.hostname and parts.port is not None:
                return cls(parts.hostname, parts.port, "")
            if parts.scheme == "unix" and parts.path:
                return cls(None, 0, parts.path)
        except ValueError:  # the port is not a number
            pass
        raise ConfigError(f"a Wyoming address is tcp://HOST:PORT or unix:///PATH, got {uri!r}")


class WyomingServer:
    """Serves the Wyoming protocol on the HTTP server's event loop, with the same model and limits."""

    def __init__(self, recognizer: Recognizer, address: WyomingAddress) -> None:
        self._recognizer = recognizer
        self._address = address
        self._server: asyncio.Server | None = None
        settings = recognizer.settings
        self._sessions = Quota(
            "sessions", settings.max_sessions_per_client, recognizer.ledger, total=settings.max_sessions
        )

    async def start(self) -> None:
        """Begin to listen. Raises ConfigError if the address cannot be used."""
        address = self._address
        try:
            if address.host is None:
                self._server = await asyncio.start_unix_server(self._serve, address.path)
            else:
                self._server = await asyncio.start_server(self._serve, address.host, address.port)
        except OSError as error:
            raise ConfigError(f"the Wyoming server cannot listen: {error}") from error
        where = address.path or f"{address.host}:{self.port}"
        log.info("the Wyoming server listens at %s", where)
        if self._recognizer.settings.api_keys or self._recognizer.settings.api_key_file:
            log.warning("the Wyoming protocol has no keys: whoever reaches %s may have speech transcribed", where)

    @property
    def port(self) -> int:
        """The port that it listens on; a free one was chosen if port 0 was asked for."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Take no more connections. Open ones have ended with the drain, or end with the event loop."""
        if self._server is not None:
            self._server.close()
            if self._address.host is None:
                Path(self._address.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, counted as a session, and properly ended whatever happens meanwhile."""
        recognizer = self._recognizer
        connection = _Connection(reader, writer, recognizer)
        try:
            with self._counted(writer):
                end = await connection.run()
                await connection.close(end)
        except Refusal as refusal:
            await connection.close(SessionEnd(1013, str(refusal.detail)))
            return
        record_end(recognizer, PROTOCOL, end, {})

    @contextlib.contextmanager
    def _counted(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """One more session of this client's, meanwhile. Raises Refusal if there may be no more."""
        recognizer, peer = self._recognizer, writer.get_extra_info("peername")
        if not recognizer.is_ready:
            raise Refusal(503, "the server is busy or shutting down; try again later", code="server_busy")
        address = peer[0] if isinstance(peer, tuple) else None  # a Unix socket has none
        with counted(recognizer, PROTOCOL), self._sessions.held(client_of(None, address)):
            yield


class _Connection(Inbox[Event]):
    """One client. What it has sent before it disconnects is still answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recognizer: Recognizer) -> None:
        super().__init__(recognizer)
        self._reader = EventReader(reader, recognizer.settings, self.count)
        self._writer = writer
        self._recognizer = recognizer
        self._asked = Transcribe()
        self._utterance: Utterance | None = None
        self._has_begun = False  # whether transcript-start has been sent for the utterance

    async def run(self) -> SessionEnd:
        """Answer events until the client disconnects or exceeds a limit, or the server shuts down."""
        try:
            async with at_work(self._talk(), self._read_ahead(), self.put_end_at_drain()) as (talking, *_):
                ended = await self.first_ended(talking)
        finally:
            self.release()
        if isinstance(ended, SessionEnd):
            return ended
        error = talking.exception()
        assert error is not None
        return SessionEnd(CLIENT_GONE, "") if isinstance(error, ConnectionError) else end_after(error)

    async def close(self, end: SessionEnd) -> None:
        """Send an error event, unless the session ended normally or the client is gone, and close the connection."""
        with contextlib.suppress(ConnectionError, SessionEnd, TimeoutError):
            if end.code not in (1000, CLIENT_GONE):
                cause = end.__cause__
                code = refusal_of(cause).code if isinstance(cause, ASRError) else _CODES.get(end.code, "server_error")
                await self._send(Error(text=end.reason, code=code))
            self._writer.close()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        self._writer.transport.abort()

    async def _talk(self) -> NoReturn:
        """Answer events until the session ends; raises the exception that ends it, normally a SessionEnd."""
        while True:
            try:
                event = await self.next()
                if event is not None:
                    await self._obey(event)
                    continue
                assert self.end is not None
                if self.end.code == SHUTTING_DOWN and self._utterance is not None:
                    await self._finish()  # transcribe what has been heard
                raise self.end
            except ASRError as error:  # for example an unknown language, or invalid audio
                raise SessionEnd(1008, str(error)) from error

    async def _obey(self, event: Event) -> None:
        if AudioChunk.is_type(event.type):
            await self._hear(event)
        elif Describe.is_type(event.type):
            await self._send(_info(self._recognizer))
        elif Transcribe.is_type(event.type):
            self._asked = _parsed(Transcribe.from_event, event)
        elif AudioStart.is_type(event.type):
            self._begin()
        elif AudioStop.is_type(event.type):
            await self._finish()
        elif Ping.is_type(event.type):
            await self._send(Pong(text=_parsed(Ping.from_event, event).text))
        else:  # the protocol's servers ignore unknown events
            log.debug("a Wyoming event of type %r is ignored", event.type)

    def _begin(self) -> Utterance:
        self._has_begun = False
        asked = self._asked
        words = [*_words(asked.transcript_names), *_words(asked.transcript_terms)]
        if not isinstance(asked.language, str | None):
            raise SessionEnd(1007, f"not a language: {asked.language!r}")
        self._utterance = Utterance(self._recognizer, language=asked.language, hotwords=words)
        return self._utterance

    async def _hear(self, event: Event) -> None:
        """Transcribe this chunk and all chunks that wait behind it, so that a slow machine keeps up."""
        utterance = self._utterance or self._begin()  # some clients leave audio-start out
        samples = [_samples(utterance, event)]
        while (waiting := self.peek()) is not None and AudioChunk.is_type(waiting.type):
            samples.append(_samples(utterance, self.take()))
        await self._say(await utterance.push(np.concatenate(samples)))

    async def _finish(self) -> None:
        utterance, self._utterance = self._utterance or self._begin(), None
        await self._say(await utterance.finish())
        if not self._has_begun:
            await self._send(TranscriptStart(language=utterance.language))
        await self._send(Transcript(text=utterance.text, language=utterance.language))
        await self._send(TranscriptStop())

    async def _say(self, text: str) -> None:
        """Send the transcript's next chunk, unless it is empty."""
        if not text:
            return
        if not self._has_begun:
            self._has_begun = True
            await self._send(TranscriptStart())
        await self._send(TranscriptChunk(text=text))

    async def _send(self, event: Eventable) -> None:
        try:
            async with self.soon(UNREAD):
                await async_write_event(event.event(), self._writer)
        except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair, UTF-8 cannot
            raise SessionEnd(1007, f"not a text: {error}") from error

    async def _read_ahead(self) -> None:
        """Read until the client disconnects or sends something that is not an event."""
        while self.end is None:
            await self.wait_for_room()
            event = await self._reader.event()
            if isinstance(event, SessionEnd):
                self.put_end(event)
            else:
                self.put(event, self._reader.num_bytes)


def _info(recognizer: Recognizer) -> Info:
    """The answer to `describe`: one program with one model."""
    name, languages = recognizer.settings.model_name, recognizer.service.model.family.languages or tuple(LANGUAGES)
    about = Attribution(name="twostage-asr", url="")
    package_version = version("twostage-asr")
    model = AsrModel(
        name=name,
        attribution=about,
        installed=True,
        description=f"{name} ({recognizer.family})",
        version=package_version,
        languages=list(languages),
    )
    program = AsrProgram(
        name="twostage-asr",
        attribution=about,
        installed=True,
        description="Speech recognition with LLM decoders",
        version=package_version,
        models=[model],
        supports_transcript_streaming=True,
    )
    return Info(asr=[program])


def _words(given: object) -> list[str]:
    if isinstance(given, list) and all(isinstance(word, str) for word in given):
        return given
    if given is None:
        return []
    raise SessionEnd(1007, f"not a list of words: {given!r}")


def _samples(utterance: Utterance, event: Event) -> Waveform:
    chunk = _parsed(AudioChunk.from_event, event)
    return utterance.samples(chunk.audio, PCMFormat(chunk.rate, chunk.width, chunk.channels))


def _parsed(parse: Callable[[Event], _Kind], event: Event) -> _Kind:
    """Parse an event. Raises SessionEnd if it lacks a field that its type must have."""
    try:
        return parse(event)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SessionEnd(1007, f"not a {event.type} event: {error!r}") from error
