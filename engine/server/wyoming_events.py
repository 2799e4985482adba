"""Events of the Wyoming protocol, read within limits: an event says by itself how large it is."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from wyoming.event import Event

from .bodies import require_few_values
from .failures import Refusal
from .sessions import CLIENT_GONE, MESSAGE_BYTES, SessionEnd
from .settings import ServerSettings

READ_BYTES = 64 << 10  # of an event's part at once, so that what has come of it is counted


class EventReader:
    """The events of one stream."""

    def __init__(self, reader: asyncio.StreamReader, settings: ServerSettings, count: Callable[[int], None]) -> None:
        """`count` is told of the bytes as they come."""
        self._reader = reader
        self._settings = settings
        self._count_bytes = count
        self.num_bytes = 0  # of the last event

    async def event(self) -> Event | SessionEnd:
        """The next event, or why there is none."""
        self.num_bytes = 0
        try:
            return await self._read()
        except (asyncio.IncompleteReadError, ConnectionError):
            return SessionEnd(CLIENT_GONE, "")
        except SessionEnd as end:
            return end

    async def _read(self) -> Event:
        """A line with an object; more of its data, and the payload, follow it in the lengths that it names."""
        try:
            line = await self._reader.readline()
        except ValueError as error:
            raise SessionEnd(1009, f"the line of an event is too long: {error}") from error
        if not line.endswith(b"\n"):
            raise SessionEnd(CLIENT_GONE if line else 1000, "")
        self._count(MESSAGE_BYTES + len(line))
        head = self._object(line)
        kind, data = head.get("type"), head.get("data") or {}
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise SessionEnd(1007, "not an event: `type` is a text and `data` an object")
        if more := await self._part(head, "data_length"):
            data |= self._object(more)
        return Event(kind, data, await self._part(head, "payload_length") or None)

    async def _part(self, head: dict[str, Any], length_name: str) -> bytes:
        most, length = self._settings.max_message_bytes, head.get(length_name) or 0
        if not isinstance(length, int) or length < 0:
            raise SessionEnd(1007, f"not an event: {length_name} is {length!r}")
        if length > most:
            raise SessionEnd(1009, f"a part of an event may have {most:,} bytes")
        content = bytearray()
        while len(content) < length:
            part = await self._reader.read(min(READ_BYTES, length - len(content)))
            if not part:
                raise asyncio.IncompleteReadError(b"", length)
            self._count(len(part))
            content += part
        return bytes(content)

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            require_few_values(content, self._settings.max_json_values)
            found = json.loads(content)
        except Refusal as refusal:
            raise SessionEnd(1009, str(refusal.detail)) from None
        except (ValueError, RecursionError) as error:
            raise SessionEnd(1007, f"not an event: no JSON: {error}") from error
        if not isinstance(found, dict):
            raise SessionEnd(1007, "not an event: no JSON object")
        return found

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._count_bytes(num_bytes)
