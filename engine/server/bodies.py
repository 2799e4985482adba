"""Limits on request bodies, enforced while they are read: size, pace, cost of parsing, and memory of all together.

A body counts against the shared memory until its request has been answered, because the parser, the handler and the
readers keep it until then. A body that exceeds the shared limit is refused at once, since a client that waited would
keep the memory that it already has. An uploaded file of up to one MiB stays in memory (Starlette's spool_max_size); a
longer one is spooled to the disk, from which the readers take it.
"""

import asyncio
import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser
from starlette.types import Message, Receive

from .budget import Budget
from .failures import FORM_ADVICE, Refusal
from .settings import ServerSettings

# Each value of JSON or of a URL-encoded form has one of these before or after it; base64 contains none of them.
_SEPARATORS = (b",", b"[", b"{", b"&")
_ESCAPES_PER_VALUE = 64  # PHP escapes each slash of base64 as "\\/": every 64th character of the largest body


def require_few_values(content: bytes, max_values: int) -> None:
    """Raises Refusal for JSON with more values, or with escapes that take as long to parse as so many values."""
    Complexity(max_values).add(content)


class Complexity:
    """Estimates what JSON or a URL-encoded form costs to parse, while it arrives."""

    def __init__(self, max_values: float, advice: str = "") -> None:
        """`advice` ends the message of a refusal."""
        self._max_values = max_values
        self._advice = advice
        self._num_values = 0
        self._num_escapes = 0

    def add(self, part: bytes) -> None:
        """Count the next part. Raises Refusal once it is too much. Separators inside strings count as well."""
        if self._max_values == math.inf:
            return
        self._num_values += sum(map(part.count, _SEPARATORS))
        self._num_escapes += part.count(b"\\")
        if self._num_values > self._max_values or self._num_escapes > self._max_values * _ESCAPES_PER_VALUE:
            found = f"{self._num_values:,} values and {self._num_escapes:,} escapes, or more"
            allowed = f"at most {self._max_values:,} and {self._max_values * _ESCAPES_PER_VALUE:,} are taken"
            raise Refusal(413, f"JSON of {found}; {allowed}{self._advice}", code="body_too_complex")


def is_form(headers: Headers) -> bool:
    """Whether a body is a form with files. The names of media types may have capital letters (RFC 9110, 8.3.1)."""
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


class Body:
    """One request's body: counts and checks what has arrived."""

    def __init__(self, settings: ServerSettings, uploads: Budget, *, is_form: bool) -> None:
        """`is_form`: multipart, whose parser limits the number of parts. Anything else has the limits of JSON."""
        self.num_bytes = 0
        self._settings = settings
        self._max_bytes = settings.max_body_bytes if is_form else settings.max_json_bytes
        # It may be audio, as of curl --data-binary, whose author has to learn what is taken.
        self._advice = "" if is_form else f"; {FORM_ADVICE}, of up to {settings.max_body_bytes:,} bytes"
        self._complexity = Complexity(math.inf if is_form else settings.max_json_values, self._advice)
        self._waited_s = 0.0  # time spent waiting for the client
        self._share = uploads.share()

    async def receive(self, receive: Receive) -> Message:
        """The next part of the body, or the client's disconnect. Raises Refusal."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._allowed_s):
                message = await receive()
        except TimeoutError:
            waited_s = self._waited_s + loop.time() - started
            problem = f"the body comes too slowly: {self.num_bytes:,} bytes in {waited_s:.0f} s"
            raise Refusal(408, problem, code="body_too_slow") from None
        self._waited_s += loop.time() - started
        self._take(message.get("body", b""))
        return message

    def require_size(self, num_bytes: int) -> None:
        """Raises Refusal if the body has more bytes than are allowed."""
        if num_bytes > self._max_bytes:
            message = f"the body has {num_bytes:,} bytes or more, at most {self._max_bytes:,} are allowed{self._advice}"
            raise Refusal(413, message, code="body_too_large")

    def end(self) -> None:
        """Give its share of the memory back, once the request has been answered."""
        self._share.hold(0)

    @property
    def _allowed_s(self) -> float | None:
        """Seconds within which the next part must arrive; None without a least rate."""
        rate = self._settings.min_body_rate
        return self._settings.body_grace_s + self.num_bytes / rate - self._waited_s if rate else None

    def _take(self, part: bytes) -> None:
        self.num_bytes += len(part)
        self.require_size(self.num_bytes)
        self._complexity.add(part)
        self._share.hold(self.num_bytes)
        if self._share.budget.is_over:
            message = (
                f"uploads under way have {self._share.budget.max_bytes:,} bytes, no more are taken; try again later"
            )
            headers = {"Retry-After": str(self._settings.retry_after_s)}
            raise Refusal(429, message, code="server_busy", headers=headers)


async def content_of(upload: UploadFile) -> bytes | Path:
    """The content of a short upload, or the path of a spooled one, which any process of this user can open.

    The parser's temporary file has no name, and is gone after the request, so the path is the one under /proc. Where
    the system has no /proc, the content is read.
    """
    if (upload.size or 0) > MultiPartParser.spool_max_size:
        path = Path(f"/proc/{os.getpid()}/fd/{upload.file.fileno()}")
        if path.exists():
            upload.file.flush()
            return path
    return await upload.read()


async def samples_of(upload: UploadFile) -> npt.NDArray[np.int16]:
    """An uploaded file without a head: (N,) 16-bit, little-endian; what is on the disk stays there until it is used.

    Half a sample at the end is left out.
    """
    content = await content_of(upload)
    if isinstance(content, Path):
        return np.memmap(content, "<i2", "r", shape=((upload.size or 0) // 2,))
    return np.frombuffer(content, "<i2", len(content) // 2)
