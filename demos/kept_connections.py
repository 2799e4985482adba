"""HTTP for load_test.py: requests over connections that are kept, at little cost of their own."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWER_S = 120.0  # the longest wait for an answer


@dataclass(slots=True)
class Answer:
    """Of the server, to one request."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connections:
    """HTTP over connections that are kept. A client library would cost more than the server's own part of a request."""

    def __init__(self, server: str, api_key: str | None) -> None:
        where = urlsplit(server)
        self._host, self._port, self._tls = where.hostname, where.port, where.scheme in ("https", "wss")
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = f"Host: {where.netloc}\r\n{key}"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, what: str, headers: str = "", body: bytes = b"") -> Answer:
        """`what`: method and path. Raises OSError, EOFError, TimeoutError."""
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await self._connection()
            try:
                writer.write(f"{what} HTTP/1.1\r\n{self._head}{headers}\r\n".encode() + body)
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = (line.partition(":") for line in lines)
                found = {name.lower(): value.strip() for name, _, value in pairs}
                answer = Answer(int(first.split()[1]), found, await reader.readexactly(int(found["content-length"])))
            except BaseException:
                writer.close()
                raise
        if answer.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server has had enough of waiting
        return await asyncio.open_connection(self._host, self._port or (443 if self._tls else 80), ssl=self._tls)
