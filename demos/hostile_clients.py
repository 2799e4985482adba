"""Clients that break what they send: a share of the load of load_test.py, to see that nobody else notices.

Each does one thing at a time, takes whatever answer there is, and counts it by its status. What none of them may get is
an answer of 5xx other than 503, or none at all where one is due.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import websockets

ANSWER_S = 30.0  # that a hostile request waits; what drips is ended by the server before
FORM = "multipart/form-data; boundary=x"
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
HOTWORDS = b'--x\r\nContent-Disposition: form-data; name="hotwords"\r\n\r\n'
END = b"\r\n--x--\r\n"


def http_bodies(wav: bytes) -> dict[str, tuple[str, str, bytes]]:
    """Name -> path, content type, body."""
    transcriptions, chat = "/v1/audio/transcriptions", "/v1/chat/completions"
    whole = FILE + wav + END
    whole = FILE + wav + END
    surrogate = {"messages": [{"role": "user", "content": "\ud800"}]}
    return {
        "half a file": (transcriptions, FORM, FILE + wav[: len(wav) // 2] + END),
        "noise": (transcriptions, FORM, FILE + random.Random(0).randbytes(200_000) + END),
        "no end": (transcriptions, FORM, FILE + wav),
        "half a character": (transcriptions, f"{FORM}; charset=unicode_escape", HOTWORDS + b"\\ud800\r\n" + whole),
        "a megabyte of hotwords": (transcriptions, FORM, HOTWORDS + b"a," * 500_000 + b"\r\n" + whole),
        "many objects": (chat, "application/json", b'{"messages": [' + b"{}," * 1_000_000 + b"{}]}"),
        "deep lists": (chat, "application/json", b"[" * 100_000),
        "a lone surrogate": (chat, "application/json", json.dumps(surrogate).encode()),
        "no JSON": (chat, "application/json", b"\xff\xfe{"),
        "a long path": ("/" + "a" * 20_000, "", b""),
    }


SOCKET_MESSAGES: tuple[tuple[str | bytes, ...], ...] = (
    ("START", b"\0" * 3, "PING", b"\1" * 5, "STOP", "STOP"),
    ("{", "[]", "null", '{"type": "session.update"'),
    ("HOTWORDS:" + "a," * 200_000, "START"),
    ("START", *[bytes(320_000)] * 20),
    ("LANGUAGE:nowhere", "NONSENSE", "STOP"),
)


class HostileClient:
    """One after another, for one client."""

    def __init__(self, server: str, wav: bytes, number: int) -> None:
        where = urlsplit(server)
        self._server, self._netloc, self._host, self._port = server, where.netloc, where.hostname, where.port
        self._is_live = where.scheme.startswith("ws")
        kinds = SOCKET_MESSAGES if self._is_live else [*http_bodies(wav).items(), ("drips", None), ("leaves", None)]
        self._kinds: Iterator[Any] = itertools.islice(itertools.cycle(kinds), number, None)

    async def once(self) -> str:
        """What became of the next one. Raises RuntimeError for an answer that must not be."""
        kind = next(self._kinds)
        async with asyncio.timeout(ANSWER_S):
            return await (self._talk(kind) if self._is_live else self._ask(*kind))

    async def _talk(self, messages: tuple[str | bytes, ...]) -> str:
        try:
            async with websockets.connect(self._server, max_queue=None) as socket:
                for message in messages:
                    await socket.send(message)
                await (await socket.ping())
            return "hostile: session stays open"
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            if code in (1006, 1011):
                raise RuntimeError(f"a hostile session was closed with {code}") from closed
            return f"hostile: closed {code}"
        except websockets.InvalidStatus as refused:
            return f"hostile: HTTP {refused.response.status_code}"

    async def _ask(self, name: str, request: tuple[str, str, bytes] | None) -> str:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            if request is None:
                return await self._stop_short(name, reader, writer)
            path, content_type, body = request
            head = f"POST {path} HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: {content_type}\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            status = int((await reader.readline()).split()[1])
            if status >= 500 and status != 503:
                raise RuntimeError(f"{name}: HTTP {status}")
            return f"hostile: HTTP {status}"
        except (ConnectionError, IndexError):
            return "hostile: connection ended"
        finally:
            writer.close()

    async def _stop_short(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """A body of which little comes: a byte a second, or nothing any more."""
        head = f"POST /asr HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: {FORM}\r\nContent-Length: 1000000\r\n\r\n"
        writer.write(head.encode() + FILE)
        for _ in range(5 if name == "drips" else 0):
            await writer.drain()
            await asyncio.sleep(1)
            writer.write(b"a")
        return f"hostile: {name}"
