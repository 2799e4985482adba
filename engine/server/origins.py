"""Which host names this server answers to, and which web pages may use it.

A browser sends requests on behalf of any page, and so reaches servers that the page's author cannot reach. Two checks
protect this server:

- The Host header. With DNS rebinding, a page makes its own name resolve to this server's address, and the browser takes
  it for a page of this server. So names must be allowed. IP addresses and localhost always are, because nobody can make
  them resolve elsewhere. A server with API keys answers to any name unless names are given: such a page has no key, and
  a server behind a proxy does not know its own names.
- The Origin and Sec-Fetch-Site headers, for every method but GET, HEAD and OPTIONS, and for WebSockets, which the
  same-origin policy of browsers does not cover.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import Scope

from ..errors import ConfigError
from .failures import Refusal

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\s\[\]:/?#@]+)(?::(?P<port>[0-9]{0,5}))?")
_PORTS = {"http": 80, "https": 443}
_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN_SITE = (None, "same-origin", "none")  # of Sec-Fetch-Site; "none": the user typed the address

Origin: TypeAlias = tuple[str, str, int]  # scheme, host, port


class Origins:
    """The host names and page origins that one server allows."""

    def __init__(self, pages: Collection[str], names: Collection[str], *, needs_key: bool) -> None:
        self._pages = frozenset(pages)
        self._names = frozenset(name.lower() for name in names)
        self._is_any_name = "*" in self._names or (needs_key and not self._names)

    def require(self, scope: Scope, headers: Headers) -> None:
        """Raises Refusal for a host name or a page that is not allowed."""
        hosts = headers.getlist("host")
        if not self._is_any_name and not all(map(self._answers_to, hosts)):
            shown = ", ".join(hosts)[:100]
            message = f"this server does not answer to the name {shown!r}; if it is right, allow it with --allow-host"
            raise Refusal(421, message, code="host_not_allowed")
        is_safe = scope["type"] == "http" and scope["method"] in _SAFE
        if not is_safe and not self._allows_page(scope, headers):
            message = (
                f"pages from {headers.get('origin', 'another site')[:100]!r} may not use this server; allow them with "
                "--cors-origin, or name the proxy in front with --trusted-proxy if the page is this server's own"
            )
            raise Refusal(403, message, code="origin_not_allowed")

    def _answers_to(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        name = found["name"].strip("[]").removesuffix(".") if found else ""
        return name == "localhost" or name.endswith(".localhost") or name in self._names or _is_address(name)

    def _allows_page(self, scope: Scope, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if "*" in self._pages or origin in self._pages:
            return True
        if origin is None:
            return site in _OWN_SITE
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        own = parse_origin(f"{scheme}://{headers.get('host')}")
        return site == "same-origin" or (own is not None and parse_origin(origin) == own)


def parse_origin(text: str) -> Origin | None:
    """Scheme, host and port of an http or https origin; None for any other."""
    scheme, _, host = text.lower().partition("://")
    found = _HOST.fullmatch(host)
    if scheme not in _PORTS or found is None:
        return None
    return scheme, found["name"], int(found["port"] or _PORTS[scheme])


def require_origin(text: str) -> None:
    """Raises ConfigError for an origin that no browser would send."""
    if text not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]*", text):
        raise ConfigError(f"a web page's origin is scheme://host or scheme://host:port, or null, or *; got {text!r}")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
