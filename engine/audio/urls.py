"""What http, https and data URLs lead to, within the limits of an input."""

import base64
import functools
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Collection
from urllib.parse import unquote, unquote_to_bytes

import httpx

from ..errors import AudioTooLongError, UnsupportedAudioError
from .waveform import AudioLimits

HTTP_TIMEOUT_S = 20.0  # to connect, and between two pieces of an answer
DOWNLOAD_TIMEOUT_S = 600.0  # for the whole of it
MAX_REDIRECTS = 5
BASE64_AT_ONCE = 1 << 20  # characters, a multiple of 4


def url_content(url: str, limits: AudioLimits, allow_urls: bool | Collection[str]) -> tuple[bytes, str]:
    """What a URL leads to, and what errors call it. Raises AudioError."""
    if is_data_url(url):
        return _data_url_content(url, limits), "data URL"
    if not allow_urls:
        raise UnsupportedAudioError(f"{shown_url(url)}: fetching URLs is off; send the audio itself")
    hosts = None if allow_urls is True else allow_urls
    return _download(url, limits, hosts), shown_url(url)


def is_url(text: str) -> bool:
    """Whether a source is fetched or decoded, not opened."""
    return re.match(r"https?://|data:|[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def _data_url_content(url: str, limits: AudioLimits) -> bytes:
    """data:[media type][;base64],content"""
    head, comma, text = url.partition(",")
    if not comma:
        raise UnsupportedAudioError(f"data URL without a comma before its content: {url[:40]!r}")
    if len(text) > 3 * limits.max_bytes:  # percent-encoding takes three characters for a byte, base64 fewer
        raise AudioTooLongError(f"data URL: {len(text):,} characters, at most {limits.max_bytes:,} bytes allowed")
    if head.lower().endswith(";base64"):
        return decode_base64(text)
    return unquote_to_bytes(text.encode("utf-8", "replace"))


def decode_base64(text: str) -> bytes:
    """All that clients send: either alphabet (RFC 4648, 4 and 5), padded or not, with line breaks, with percent signs
    for characters, with or without a data URL's head.

    Raises:
        UnsupportedAudioError: a character of neither alphabet, or a length that no bytes give.
    """
    content = text.partition(",")[2] if is_data_url(text) else text
    content = unquote(content) if "%" in content else content
    content = "".join(content.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _base64_content((content + "=" * (-len(content) % 4)).encode("ascii"))
    except ValueError as error:  # wrong base64, or no ASCII
        raise UnsupportedAudioError(f"content of {len(text):,} characters is not base64: {error}") from error


def _base64_content(text: bytes) -> bytes:
    """In pieces: each keeps Python's lock for 2 ms, the whole of a long recording would keep it for 70."""
    if b"=" in text[:-2]:
        raise ValueError("padding before its end")
    pieces = (text[first : first + BASE64_AT_ONCE] for first in range(0, len(text), BASE64_AT_ONCE))
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)


def shown_url(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def _download(url: str, limits: AudioLimits, hosts: Collection[str] | None = None) -> bytes:
    """Follows redirects to http and https only. Raises AudioError.

    With `hosts`, nothing is fetched from others. Without, the caller may name any host, but a redirect to another one
    must lead to the public Internet: a server there must not choose among those that only this machine reaches.
    """
    name, deadline = shown_url(url), time.monotonic() + DOWNLOAD_TIMEOUT_S

    def require_host(request: httpx.Request) -> None:
        host = request.url.host
        if host not in hosts if hosts is not None else host != httpx.URL(url).host and _is_inside(host):
            raise UnsupportedAudioError(f"{shown_url(str(request.url))}: audio is not fetched from this host")

    client = httpx.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=HTTP_TIMEOUT_S,
        verify=_ssl_context(),
        event_hooks={"request": [require_host]},
    )
    content = bytearray()
    try:
        with client, client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if not response.is_success:
                raise UnsupportedAudioError(f"{name}: HTTP status {response.status_code} {response.reason_phrase}")
            require_size(int(response.headers.get("Content-Length", 0)), name, limits)
            for piece in response.iter_bytes():
                content += piece
                require_size(len(content), name, limits)
                if time.monotonic() > deadline:
                    raise UnsupportedAudioError(f"{name}: not fetched within {DOWNLOAD_TIMEOUT_S:.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a host name that IDNA refuses
        raise UnsupportedAudioError(f"{name}: cannot be fetched: {str(error) or type(error).__name__}") from error
    return bytes(content)


def _is_inside(host: str) -> bool:
    """Whether a name leads to an address that is not on the public Internet; one that leads nowhere does not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False  # a proxy may know it
    return any(not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """Reading the certificates takes 30 ms: once is enough."""
    return httpx.create_ssl_context()


def require_size(num_bytes: int, name: str, limits: AudioLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise AudioTooLongError(f"{name}: {num_bytes:,} bytes or more, at most {limits.max_bytes:,} allowed")
