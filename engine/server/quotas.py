"""Tell clients apart, and limit how much of the server one client may use at a time."""

import contextlib
import ipaddress
from collections.abc import Iterator

from .failures import Refusal
from .ledger import Ledger

DEFAULT_SHARE = 4  # one client may have a quarter of the total
IPV6_CLIENT_BITS = 64  # the part of an address that tells clients apart: one subscriber owns all addresses below it


def client_of(key_name: str | None, address: str | None) -> str | None:
    """The identity of a client: the name of its key, or its address if it has no key.

    The result is None, for which no quota applies, for this machine itself without a key. That is a local user, or a
    proxy. Once a proxy is trusted, its clients have addresses of their own.
    """
    if key_name is not None:
        return f"key {key_name}"
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:  # a Unix socket has none
        return None
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, IPV6_CLIENT_BITS), strict=False))
    return str(found)


class Quota:
    """Limits how many requests, or sessions, each client has at a time."""

    def __init__(self, what: str, most: int | None, ledger: Ledger, *, total: int) -> None:
        """`most`: the limit for each client; None is total / DEFAULT_SHARE."""
        self._what = what
        self._most = max(1, total // DEFAULT_SHARE) if most is None else most
        self._ledger = ledger

    @contextlib.contextmanager
    def held(self, client: str | None) -> Iterator[None]:
        """Count one more for this client while the block runs. Raises Refusal if it is at its limit."""
        if client is None:
            yield
            return
        if not self._ledger.take((self._what, client), self._most):
            message = f"you have {self._most} {self._what} under way, one client may have no more; end one first"
            raise Refusal(429, message, code="client_busy")
        try:
            yield
        finally:
            self._ledger.add((self._what, client), -1)
