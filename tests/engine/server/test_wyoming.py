"""Home Assistant's Wyoming protocol, with the clients of the package `wyoming`."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from tests.engine.server.conftest import Running
from tests.engine.server.fakes import fake_running, pcm, words_of
from tests.fake_model import LANGUAGES
from tests.processes import wait_until
from twostage_asr.engine import ConfigError
from twostage_asr.engine.cli import main
from twostage_asr.engine.cli.serve import _wyoming
from twostage_asr.engine.server import wyoming
from twostage_asr.engine.server.ledger import Ledger
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.server.utterance import PCMFormat, Utterance, decode_pcm
from twostage_asr.engine.server.wyoming import WyomingAddress, WyomingServer

T = TypeVar("T")


@contextmanager
def wyoming_running(directory: Path, **settings: Any) -> Iterator[tuple[Running, int]]:
    """A server, and the port of its Wyoming protocol."""
    listeners: list[WyomingServer] = []

    def beside(recognizer: Any) -> list[WyomingServer]:
        listeners.append(WyomingServer(recognizer, WyomingAddress.of("tcp://127.0.0.1:0")))
        return listeners

    with fake_running(directory, beside=beside, **settings) as server:
        yield server, listeners[0].port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, int]]:
    with wyoming_running(tmp_path_factory.mktemp("model"), max_audio_s=20.0) as served:
        yield served


@pytest.fixture
def port(served: tuple[Running, int]) -> int:
    return served[1]


def with_client(port: int, talk: Callable[[AsyncTcpClient], Awaitable[T]]) -> T:
    async def one() -> T:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=60.0) as client:
            return await talk(client)

    return asyncio.run(one())


async def said_until(client: AsyncTcpClient, last: type[Any]) -> list[Event]:
    """Everything up to an event of this type, or to the end of the connection."""
    said: list[Event] = []
    while (event := await client.read_event()) is not None:
        said.append(event)
        if last.is_type(event.type):
            break
    return said


async def speak(
    client: AsyncTcpClient, content: bytes, *, rate: int = 16_000, width: int = 2, channels: int = 1, piece: int = 1024
) -> None:
    """As Home Assistant sends what a satellite heard."""
    await client.write_event(AudioStart(rate=rate, width=width, channels=channels).event())
    for first in range(0, len(content), piece):
        chunk = AudioChunk(rate=rate, width=width, channels=channels, audio=content[first : first + piece])
        await client.write_event(chunk.event())
    await client.write_event(AudioStop().event())


def test_describe_names_the_model_and_its_languages(port: int) -> None:
    async def ask(client: AsyncTcpClient) -> Info:
        await client.write_event(Describe().event())
        return Info.from_event((await said_until(client, Info))[-1])

    (program,) = with_client(port, ask).asr
    (model,) = program.models
    assert (model.name, model.installed, model.languages) == ("fun-asr-nano", True, list(LANGUAGES))
    assert program.supports_transcript_streaming and program.version == model.version


def test_utterances_are_transcribed_in_chunks_and_as_a_whole(port: int) -> None:
    async def ask(client: AsyncTcpClient) -> list[list[Event]]:
        heard = []
        for seconds in ((1.0,), (2.4, 3.0, 1.0), (0.0, 1.0)):
            await client.write_event(Transcribe(name="any", language="en").event())
            await speak(client, pcm(*seconds))
            heard.append(await said_until(client, TranscriptStop))
        return heard

    first, second, silence = with_client(port, ask)
    for said in (first, second, silence):
        start, *chunks, whole, stop = said
        assert TranscriptStart.is_type(start.type) and TranscriptStop.is_type(stop.type)
        text = Transcript.from_event(whole).text
        assert text == "".join(TranscriptChunk.from_event(chunk).text for chunk in chunks)
    assert Transcript.from_event(first[-2]).text == words_of(16_000)
    assert Transcript.from_event(first[-2]).language == "en"
    assert Transcript.from_event(second[-2]).text.count("w0") == 2
    assert Transcript.from_event(silence[-2]).text == ""


@pytest.mark.parametrize(("rate", "width", "channels"), [(16_000, 1, 1), (44_100, 2, 2), (48_000, 3, 1), (8_000, 4, 2)])
def test_any_format_is_heard_wherever_it_is_cut(port: int, rate: int, width: int, channels: int) -> None:
    level = 0.1 if width > 1 else 64.5 / 127
    wave = np.full((rate, channels), level)
    whole = (wave * ((1 << (8 * width - 1)) - 1)).astype("<i4")
    raw = whole.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width] if width > 1 else (whole + 128).astype(np.uint8)

    async def ask(client: AsyncTcpClient) -> str:
        await speak(client, raw.tobytes(), rate=rate, width=width, channels=channels, piece=1001)
        return Transcript.from_event((await said_until(client, Transcript))[-1]).text

    assert with_client(port, ask).startswith(words_of(15_000))


def test_pieces_that_end_inside_of_a_sample_are_heard_whole(served: tuple[Running, int]) -> None:
    utterance = Utterance(served[0].recognizer, language=None, hotwords=[])
    given = PCMFormat(16_000, 2, 2)
    content = np.arange(-400, 400, dtype="<i2").tobytes()
    pieces = [utterance.samples(content[first : first + 7], given) for first in range(0, len(content), 7)]
    assert np.array_equal(np.concatenate(pieces), decode_pcm(content, given))


def test_samples_of_every_width_are_decoded() -> None:
    expected = np.array([0.5, -0.25, 0.0], np.float32)
    for width, scale in ((2, 1 << 15), (4, 1 << 31)):
        content = (expected * scale).astype(f"<i{width}").tobytes()
        assert np.array_equal(decode_pcm(content, PCMFormat(16_000, width, 1)), expected)
    packed = b"".join(int(value * (1 << 23)).to_bytes(3, "little", signed=True) for value in expected)
    assert np.array_equal(decode_pcm(packed, PCMFormat(16_000, 3, 1)), expected)
    assert np.array_equal(decode_pcm(bytes([192, 96, 128]), PCMFormat(16_000, 1, 1)), expected)
    assert decode_pcm(bytes([192, 128]), PCMFormat(16_000, 1, 2)) == 0.25  # the mean of the channels


def audio(**changes: Any) -> bytes:
    chunk = {"rate": 16_000, "width": 2, "channels": 1} | changes
    return json.dumps({"type": "audio-chunk", "data": chunk, "payload_length": 4}).encode() + b"\n1234"


@pytest.mark.parametrize(
    ("sent", "code", "why"),
    [
        (b"[1]\n", "bad_event", "not an event"),
        (b"hello\n", "bad_event", "no JSON"),
        (b'{"type": "audio-chunk", "data": {"rate": 1}}\n', "bad_event", "not a audio-chunk event"),
        (
            b'{"type": "transcribe", "data": {"transcript_names": 5}}\n{"type": "audio-start"}\n',
            "bad_event",
            "words: 5",
        ),
        (b'{"type": "x", "payload_length": 99999999999}\n', "too_large", "a part of an event may have"),
        (b'{"type": "x", "data_length": 99999999999}\n', "too_large", "a part of an event may have"),
        (b'{"type": "x", "data_length": "9"}\n', "bad_event", "data_length is '9'"),
        (b'{"type": "x", "data": [' + b"1," * 20_000 + b"1]}\n", "too_large", "JSON of 20,00"),
        (b'{"type": "x", "data_length": 40003}\n[' + b"1," * 20_000 + b"1]", "too_large", "JSON of 20,00"),
        (b'{"type": "' + b"x" * 100_000 + b'"}\n', "too_large", "the line of an event is too long"),
        (b'{"type": 5}\n', "bad_event", "`type` is a text"),
        (b'{"type": "transcribe", "data": {"language": 5}}\n' + audio(), "bad_event", "not a language: 5"),
        (b'{"type": "transcribe", "data": {"transcript_terms": [5]}}\n' + audio(), "bad_event", "not a list of words"),
        (
            b'{"type": "transcribe", "data": {"language": "\\ud800"}}\n' + audio(),
            "invalid_value",
            "language holds U+D800",
        ),
        (
            b'{"type": "transcribe", "data": {"transcript_names": ["\\ud800"]}}\n' + audio(),
            "invalid_value",
            "hotwords[0] holds U+D800",
        ),
        (b'{"type": "ping", "data": {"text": "\\ud800"}}\n', "bad_event", "surrogates not allowed"),
        (audio(width=9), "unsupported_audio", "1 to 4 bytes a sample"),
        (audio(channels="2"), "unsupported_audio", "1 to 4 bytes a sample"),
        (audio(rate=10**9), "unsupported_audio", "the rate is 1000000000"),
        (audio() + audio(rate=8000), "unsupported_audio", "the format changes"),
        (
            b'{"type": "transcribe", "data": {"language": "xx"}}\n' + audio(),
            "invalid_value",
            "language 'xx' is unknown",
        ),
    ],
)
def test_a_mistake_is_named_and_ends_that_connection_alone(port: int, sent: bytes, code: str, why: str) -> None:
    async def both(client: AsyncTcpClient) -> tuple[Error, str | None]:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=60.0) as other:
            assert other._writer is not None
            other._writer.write(sent)
            said = await said_until(other, Error)
            assert await other.read_event() is None
        await client.write_event(Ping(text="still there").event())
        return Error.from_event(said[-1]), Pong.from_event((await said_until(client, Pong))[-1]).text

    error, pong = with_client(port, both)
    assert error.code == code and why in error.text and pong == "still there"


def test_unknown_events_are_dropped_and_audio_has_a_limit(port: int) -> None:
    async def ask(client: AsyncTcpClient) -> Error:
        await client.write_event(Event("select-program", {"name": "any"}))
        await speak(client, bytes(2 * 16_000 * 21), piece=64_000)
        return Error.from_event((await said_until(client, Error))[-1])

    error = with_client(port, ask)
    assert (error.code, error.text) == ("too_large", "more than 20 s of audio")


def test_sessions_have_a_limit(tmp_path: Path) -> None:
    with wyoming_running(tmp_path, max_sessions=1) as (_, port):

        async def ask(client: AsyncTcpClient) -> Error:
            await client.write_event(Ping().event())
            await said_until(client, Pong)
            async with AsyncTcpClient("127.0.0.1", port, read_timeout=60.0) as other:
                return Error.from_event((await said_until(other, Error))[-1])

        assert with_client(port, ask).code == "server_busy"


def test_sessions_end_when_they_are_idle(tmp_path: Path) -> None:
    with wyoming_running(tmp_path, session_idle_s=0.3) as (server, port):

        async def wait(client: AsyncTcpClient) -> Error:
            return Error.from_event((await said_until(client, Error))[-1])

        assert with_client(port, wait).text == "no message for 0.3 s"
        wait_until(lambda: not server.recognizer.num_sessions, "the session is still counted")


def test_one_client_has_its_share_of_the_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wyoming, "client_of", lambda key, address: address)  # as if this machine were another
    with wyoming_running(tmp_path, max_sessions_per_client=1) as (server, port):

        async def ask(client: AsyncTcpClient) -> Error:
            await client.write_event(Ping().event())
            await said_until(client, Pong)
            async with AsyncTcpClient("127.0.0.1", port, read_timeout=60.0) as other:
                return Error.from_event((await said_until(other, Error))[-1])

        assert with_client(port, ask).text.startswith("you have 1 sessions under way")
        wait_until(lambda: not server.recognizer.num_sessions, "the session is still counted")

        async def ping(client: AsyncTcpClient) -> None:
            await client.write_event(Ping().event())
            await said_until(client, Pong)

        with_client(port, ping)


def test_what_has_come_of_an_event_counts_among_what_sessions_keep(tmp_path: Path) -> None:
    with wyoming_running(tmp_path, max_session_bytes=100_000) as (server, port):

        async def ask(client: AsyncTcpClient) -> Error:
            assert client._writer is not None
            client._writer.write(b'{"type": "x", "payload_length": 1000000}\n' + bytes(200_000))
            return Error.from_event((await said_until(client, Error))[-1])

        error = with_client(port, ask)
        assert error.code == "server_busy" and error.text.startswith("all sessions together keep too much")
        wait_until(lambda: not server.recognizer.session_bytes.num_bytes, "what has gone is still counted")


def test_the_drain_ends_what_is_said_with_its_text(tmp_path: Path) -> None:
    with wyoming_running(tmp_path, drain_s=60.0) as (server, port):

        async def ask(client: AsyncTcpClient) -> list[Event]:
            await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
            await client.write_event(AudioChunk(rate=16_000, width=2, channels=1, audio=pcm(1.0)).event())
            said = await said_until(client, TranscriptChunk)  # so that it has been heard
            server.server.handle_exit(signal.SIGTERM, None)
            return said + await said_until(client, Error)

        *_, whole, stop, error = with_client(port, ask)
        assert Transcript.from_event(whole).text == words_of(16_000) and TranscriptStop.is_type(stop.type)
        assert Error.from_event(error).code == "shutting_down"
        wait_until(lambda: not server.server.servers[0].sockets, "the server does not end")
        with pytest.raises(ConnectionError):
            with_client(port, lambda client: client.read_event())


@pytest.mark.parametrize("uri", ["10300", "tcp://host", "tcp://host:x", "udp://h:1", "stdio://", "unix://", ""])
def test_an_address_that_cannot_be_is_said_before_the_model_is_loaded(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="tcp://HOST:PORT or unix:///PATH"):
        WyomingAddress.of(uri)
    assert main(["serve", "nowhere/near", "--wyoming", uri]) == 1
    assert f"got {uri!r}" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["tcp://0.0.0.0:1", "tcp://192.0.2.1:1", "tcp://some.example:1", "tcp://[::]:1"])
def test_an_address_that_others_reach_needs_no_auth(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWOSTAGE_ASR_API_KEYS", "secret")
    assert main(["serve", "nowhere/near", "--wyoming", uri]) == 1
    assert "the Wyoming protocol has no keys" in capsys.readouterr().err
    for others, permission in (
        (uri, True),
        ("tcp://127.0.0.1:1", False),
        ("tcp://[::1]:1", False),
        ("unix:///a", False),
    ):
        assert _wyoming(others, no_auth=permission)


@pytest.mark.parametrize("in_file", [True, False])
def test_a_server_with_keys_says_that_wyoming_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_file: bool
) -> None:
    (tmp_path / "keys").write_text("secret")
    settings = ServerSettings(api_key_file=tmp_path / "keys") if in_file else ServerSettings(api_keys=("secret",))
    recognizer: Any = SimpleNamespace(settings=settings, ledger=Ledger())
    listener = WyomingServer(recognizer, WyomingAddress.of(f"unix://{tmp_path / 'socket'}"))
    asyncio.run(listener.start())
    listener.close()
    assert "has no keys" in caplog.text


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "wyoming.sock"
    recognizer: Any = SimpleNamespace(settings=ServerSettings(), ledger=Ledger())
    listener = WyomingServer(recognizer, WyomingAddress.of(f"unix://{path}"))

    async def one() -> bool:
        await listener.start()
        return path.is_socket()

    assert asyncio.run(one())
    listener.close()
    assert not path.exists()
