"""http, https and data URLs -> the content of an audio file, within the limits of an input."""

import base64
import functools
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Collection
from urllib.parse import unquote, unquote_to_bytes

from ..errors import AudioTooLongError, UnsupportedAudioError
from .waveform import AudioLimits

HTTP_TIMEOUT_S = 20.0  # to connect, and between two parts of a response
DOWNLOAD_TIMEOUT_S = 600.0  # for the whole response
MAX_REDIRECTS = 5
BASE64_AT_ONCE = 1 << 20  # characters decoded at a time, a multiple of 4


def url_content(url: str, limits: AudioLimits, allow_urls: bool | Collection[str]) -> tuple[bytes, str]:
    """Fetch or decode a URL.

    Args:
        allow_urls: False refuses http and https; a collection of host names allows only these.

    Returns:
        (content, name in error messages)

    Raises:
        AudioError: refused, not found, too large or too slow.
    """
    if is_data_url(url):
        return _data_url_content(url, limits), "data URL"
    if not allow_urls:
        raise UnsupportedAudioError(f"{shown_url(url)}: fetching URLs is off; send the audio itself")
    hosts = None if allow_urls is True else allow_urls
    return _download(url, limits, hosts), shown_url(url)


def is_url(text: str) -> bool:
    """Whether a source is a URL, as opposed to a path."""
    return re.match(r"https?://|data:|[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def _data_url_content(url: str, limits: AudioLimits) -> bytes:
    """The content of a data URL, "data:[media type][;base64],content"."""
    head, comma, text = url.partition(",")
    if not comma:
        raise UnsupportedAudioError(f"data URL without a comma before its content: {url[:40]!r}")
    if len(text) > 3 * limits.max_bytes:  # percent-encoding takes three characters per byte, base64 fewer
        raise AudioTooLongError(f"data URL: {len(text):,} characters, at most {limits.max_bytes:,} bytes allowed")
    if head.lower().endswith(";base64"):
        return decode_base64(text)
    return unquote_to_bytes(text.encode("utf-8", "replace"))


def decode_base64(text: str) -> bytes:
    """Decode base64 in the variants that clients send.

    Both alphabets are accepted (RFC 4648, sections 4 and 5), padded or unpadded, with or without line breaks,
    percent-encoding and a data URL's head.

    Raises:
        UnsupportedAudioError: a character outside both alphabets, or an impossible length.
    """
    content = text.partition(",")[2] if is_data_url(text) else text
    content = unquote(content) if "%" in content else content
    content = "".join(content.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _base64_content((content + "=" * (-len(content) % 4)).encode("ascii"))
    except ValueError as error:  # invalid base64, or characters outside ASCII
        raise UnsupportedAudioError(f"content of {len(text):,} characters is not base64: {error}") from error


def _base64_content(text: bytes) -> bytes:
    """Decode piece by piece: a piece holds the GIL for 2 ms, a long recording in one call would hold it for 70 ms."""
    if b"=" in text[:-2]:
        raise ValueError("padding before its end")
    pieces = (text[first : first + BASE64_AT_ONCE] for first in range(0, len(text), BASE64_AT_ONCE))
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)


def shown_url(url: str) -> str:
    """A URL without its user, password, query and fragment, which may be secret."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def _download(url: str, limits: AudioLimits, hosts: Collection[str] | None = None) -> bytes:
    """Download a file, following redirects to http and https only. Raises AudioError.

    With `hosts`, only these hosts are contacted. Without, the URL may name any host, but a redirect to another host
    must lead to the public Internet. Otherwise a remote server could direct requests to hosts that only this machine
    can reach.
    """
    import httpx  # half a second, which a run that fetches nothing does not need

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
    """Whether a host name resolves to an address outside the public Internet. False if it does not resolve."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False  # a proxy may resolve it
    return any(not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """The TLS context; cached because reading the certificates takes 30 ms."""
    import httpx

    return httpx.create_ssl_context()


def require_size(num_bytes: int, name: str, limits: AudioLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise AudioTooLongError(f"{name}: {num_bytes:,} bytes or more, at most {limits.max_bytes:,} allowed")
