"""What no client sends: requests, WebSocket messages and media files made by hypothesis, and what must hold for each.

    python -m tests.fuzz --minutes 30

The server has a model of rules behind it (fake_model.py), so that every layer but the networks is passed many times a
second. Every input is answered within ANSWER_S, with no 5xx and no internal error of a socket, and afterwards a
plain request is answered right. tests/engine/server/test_fuzz.py runs the same for some seconds.
"""

import argparse
import contextlib
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import websockets.exceptions
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection, connect

from tests.audio_clips import COMMON_CONTAINERS, encode, sweep
from tests.fake_model import fake_transcriber, samples, text_of
from twostage_asr.engine.audio.waveform import Waveform

ANSWER_S = 60.0  # in which everything is answered, however busy the machine is
FORM_PATHS = (
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/asr",
    "/asr/predict",
    "/asr/stream-predict",
    "/inference",
    "/detect-language",
    "/page/transcripts",
    "/page/exports/srt",
)
JSON_PATHS = ("/v1/chat/completions", "/asr/predict", "/asr/stream-predict")
SOCKETS = ("/", "/ws", "/v1/realtime")
FIELDS = (
    *("model", "language", "prompt", "hotwords", "keywords[]", "response_format", "temperature", "stream", "include[]"),
    *("timestamp_granularities[]", "chunking_strategy", "itn", "spk", "channels", "salvage", "url", "seed", "top_p"),
    *("max_line_width", "max_words_per_cue", "highlight_words", "output", "encode", "word_timestamps"),
)
VALUES = (
    *(
        "",
        "auto",
        "en",
        "zh-CN",
        "json",
        "verbose_json",
        "srt",
        "vtt",
        "text",
        "diarized_json",
        "true",
        "false",
        "word",
    ),
    *("0", "1", "-1", "0.5", "1e309", "nan", "9" * 400, "split", "left", "logprobs", "http://127.0.0.1:1/a.wav", "\0"),
    *("a" * 20_000, "张三,李四", "\ufeff", "\u202e", "{}", "[", '{"type": "server_vad"}', "fake-model"),
)
COMMANDS = (
    *(
        "START",
        "STOP",
        "PING",
        " stop ",
        "START\n",
        "HOTWORDS:",
        "HOTWORDS:a,b",
        "LANGUAGE:en",
        "LANGUAGE:xx",
        "ITN:on",
    ),
    *("RESET", "", "\0", "{", "[]", "null", '{"is_speaking": true}', '{"mode": "2pass", "is_speaking": true}'),
    *('{"is_speaking": false}', '{"mode": "offline", "wav_name": "a", "is_speaking": true, "audio_fs": 0}'),
)
EVENTS = (
    *("session.update", "transcription_session.update", "input_audio_buffer.append", "input_audio_buffer.commit"),
    *("input_audio_buffer.clear", "response.create", "conversation.item.create", "nonsense"),
)
KEYS = (
    *("type", "session", "audio", "input", "format", "rate", "transcription", "language", "model", "prompt", "delta"),
    *("turn_detection", "final", "event_id", "messages", "content", "role", "input_audio", "data", "audio_url", "url"),
)
CLASSIC_KEYS = (
    *("mode", "wav_name", "wav_format", "audio_fs", "hotwords", "itn", "svs_lang", "is_speaking", "is_end"),
    *("chunk_size", "chunk_interval"),
)
CONTENT_TYPES = (
    *("application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"),
    *("application/x-www-form-urlencoded", "text/plain; charset=utf-16", "application/json; charset=unicode_escape"),
    *("multipart/form-data; boundary=x; charset=unicode_escape", "audio/wav", ""),
)


def media_seeds() -> dict[str, bytes]:
    """A second of sound in each container."""
    sound = sweep(1.0, 16_000)
    made = COMMON_CONTAINERS | {
        "caf": ("CAF", "PCM_16"),
        "au": ("AU", "PCM_16"),
        "w64": ("W64", "PCM_16"),
        "mkv": ("matroska", "libopus"),
        "ts": ("mpegts", "aac"),
    }
    return {suffix: encode(sound, 16_000, *how) for suffix, how in made.items()}


SEEDS = media_seeds()


@st.composite
def media(draw: st.DrawFn) -> bytes:
    """A file, cut, joined, patched and repeated at random."""
    content = bytearray(draw(st.sampled_from(sorted(SEEDS.values()))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(("patch", "cut", "drop", "repeat", "insert", "extreme", "splice"))):
            case "patch":
                patch = draw(st.binary(min_size=1, max_size=8))
                content[at : at + len(patch)] = patch
            case "cut":
                del content[at:]
            case "drop":
                del content[at : at + draw(st.integers(1, 4096))]
            case "repeat":
                content[at:at] = content[at : at + draw(st.integers(1, 4096))] * draw(st.integers(1, 4))
            case "insert":
                content[at:at] = draw(st.binary(max_size=64))
            case "extreme":
                content[at : at + 4] = draw(
                    st.sampled_from((bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
                )
            case "splice":
                content += draw(st.sampled_from(sorted(SEEDS.values())))[at:]
    return bytes(content)


texts = st.one_of(st.sampled_from(VALUES), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.sampled_from(("\ud800", "UklGRg=="))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), texts), inner, max_size=5),
    ),
    max_leaves=12,
)


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    path: str
    content_type: str
    body: bytes

    def __repr__(self) -> str:
        return f"Request({self.path!r}, {self.content_type!r}, {_short(self.body)})"


@dataclass(frozen=True)
class Talk:
    """Messages of one WebSocket."""

    path: str
    messages: tuple[str | bytes, ...]

    def __repr__(self) -> str:
        return f"Talk({self.path!r}, [{', '.join(map(_short, self.messages))}])"


def _short(content: str | bytes) -> str:
    return f"{content[:400]!r} of {len(content)}"


@st.composite
def forms(draw: st.DrawFn) -> Request:
    """A multipart body with known and unknown fields, and files that may be none."""
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        name = draw(st.one_of(st.sampled_from(FIELDS), texts)).replace('"', "%22").replace("\r", "").replace("\n", "")
        value = draw(st.one_of(texts.map(str.encode), st.binary(max_size=40)))
        parts.append(f'Content-Disposition: form-data; name="{name[:100]}"\r\n\r\n'.encode() + value)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(("file", "audio_file", "audio", "url", "")))
        file = draw(st.one_of(st.just(plain_wav(1)), media(), st.binary(max_size=200)))
        head = f'Content-Disposition: form-data; name="{name}"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        parts.append(head.encode() + file)
    parts = draw(st.permutations(parts))
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + draw(st.sampled_from((b"--x--\r\n", b"--x", b"")))
    return Request(draw(st.sampled_from(FORM_PATHS)), "multipart/form-data; boundary=x", body)


@st.composite
def chats(draw: st.DrawFn) -> Request:
    """A chat body that is right but for one value, or any JSON."""
    part: Any = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    body: Any = {"model": "x", "messages": [{"role": "user", "content": [part]}]}
    target = draw(st.sampled_from((body, body["messages"][0], part, part["input_audio"])))
    target[draw(st.one_of(st.sampled_from(sorted(target)), st.sampled_from(KEYS)))] = draw(json_values)
    return Request(draw(st.sampled_from(JSON_PATHS)), "application/json", json.dumps(body).encode())


raw = st.builds(
    Request,
    st.sampled_from((*FORM_PATHS, *JSON_PATHS)).flatmap(
        lambda path: st.one_of(st.just(path), texts.map(lambda text: f"{path}?language={quote(text[:200])}"))
    ),
    st.sampled_from(CONTENT_TYPES),
    st.one_of(st.binary(max_size=400), json_values.map(lambda value: json.dumps(value).encode()), media()),
)
events = st.builds(
    lambda kind, more: json.dumps({"type": kind, **more}),
    st.sampled_from(EVENTS),
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4),
)
talks = st.builds(
    Talk,
    st.sampled_from(SOCKETS),
    st.lists(st.one_of(st.sampled_from(COMMANDS), events, texts, st.binary(max_size=4000), media()), max_size=8).map(
        tuple
    ),
)


@st.composite
def classic_talks(draw: st.DrawFn) -> Talk:
    """FunASR's JSON WebSocket: settings that are right but for some values, audio or anything else, and the end."""
    messages: list[str | bytes] = []
    for _ in range(draw(st.integers(1, 2))):
        first: dict[str, Any] = {
            "mode": draw(st.sampled_from(("offline", "online", "2pass"))),
            "wav_format": draw(st.sampled_from(("pcm", "others"))),
            "is_speaking": True,
        }
        wrong = st.dictionaries(st.one_of(st.sampled_from(CLASSIC_KEYS), texts), json_values, max_size=2)
        messages.append(json.dumps(first | draw(wrong)))
        content = st.one_of(st.just(samples(3, 0.5)).map(pcm), st.binary(max_size=4000), media())
        messages += draw(st.lists(st.one_of(content, st.sampled_from(COMMANDS)), max_size=4))
        messages.append(json.dumps({"is_speaking": False} | draw(wrong)))
    return Talk("/", tuple(messages))


inputs = st.one_of(forms(), chats(), raw, talks, classic_talks())


def pcm(wave: Waveform) -> bytes:
    return (wave * 32_767).astype("<i2").tobytes()


def plain_wav(number: int) -> bytes:
    return encode(samples(number, 0.5), 16_000, "WAV", "PCM_16")


@dataclass(frozen=True)
class Prober:
    """Sends inputs to the server at this port, and asks it afterwards whether it is well."""

    port: int

    def send(self, shot: Request | Talk) -> str:
        """Raises AssertionError for an answer that must not be. Returns what kind of answer there was."""
        started = time.monotonic()
        kind = self._ask(shot) if isinstance(shot, Request) else self._talk(shot)
        took_s = time.monotonic() - started
        assert took_s < ANSWER_S, f"answered after {took_s:.1f} s"
        return kind

    def require_well(self) -> None:
        """A plain request gets its text, and /health its answer."""
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        body = part + plain_wav(7) + b"\r\n--x--\r\n"
        status, answer = self._exchange("/v1/audio/transcriptions", "multipart/form-data; boundary=x", body)
        assert status == 200 and json.loads(answer)["text"] == text_of(7), (status, answer[:200])
        assert self._exchange("/health", "", None)[0] == 200

    def _ask(self, shot: Request) -> str:
        status, answer = self._exchange(shot.path, shot.content_type, shot.body)
        assert status < 500, (status, answer[:300])
        if status >= 400:
            assert len(answer) < 64_000 and "error" in json.loads(answer), answer[:300]
        return str(status)

    def _exchange(self, path: str, content_type: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            connection.request("GET" if body is None else "POST", path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _talk(self, shot: Talk) -> str:
        with connect(f"ws://127.0.0.1:{self.port}{shot.path}", open_timeout=ANSWER_S, close_timeout=ANSWER_S) as socket:
            try:
                for message in shot.messages:
                    socket.send(message)
                self._read_until(socket, socket.ping())
            except websockets.exceptions.ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                assert code not in (1006, 1011), (code, closed)
                return f"closed {code}"
        return "open"

    @staticmethod
    def _read_until(socket: ClientConnection, answered: threading.Event) -> None:
        """Take what the server says, so that its pong behind it can come."""
        deadline = time.monotonic() + ANSWER_S
        while not answered.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                socket.recv(timeout=0.02)


def fuzz(prober: Prober, *, examples: int, start: int, kinds: Counter[str], until: float = float("inf")) -> None:
    """Try so many inputs, or fewer when the time is over. Raises AssertionError with the smallest that fails."""

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(shot=inputs)
    def check(shot: Request | Talk) -> None:
        if time.monotonic() < until:
            kinds[f"{type(shot).__name__} {prober.send(shot)}"] += 1

    check()
    prober.require_well()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from tests.engine.server.conftest import running

    kinds: Counter[str] = Counter()
    until = time.monotonic() + args.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        model = SimpleNamespace(transcriber=fake_transcriber(Path(folder)))
        with running(model) as server:
            number = args.seed
            while time.monotonic() < until:
                fuzz(Prober(server.port), examples=100, start=number, kinds=kinds, until=until)
                number += 1
        model.transcriber.close()
    sys.stdout.write(
        json.dumps({"inputs": kinds.total(), "last_seed": number - 1, **dict(sorted(kinds.items()))}) + "\n"
    )


if __name__ == "__main__":
    main()
