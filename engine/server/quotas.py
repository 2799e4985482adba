"""Who a client is, and how much of the server one of them may have at a time."""

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator

from .failures import Refusal

DEFAULT_SHARE = 4  # one client may have a quarter of what there is
IPV6_CLIENT_BITS = 64  # of an address: one subscriber is given so many networks' worth of the rest


def client_of(key_name: str | None, address: str | None) -> str | None:
    """What tells clients apart: the name of the key, or the address where there are no keys.

    None, who has no quota: without a key, this machine itself. That is its user, or a proxy, whose clients have
    addresses of their own once it is trusted.
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
    """How many of one thing each client has."""

    def __init__(self, what: str, most: int | None, *, total: int) -> None:
        """`most` for each client; None is its share of the `total` for all."""
        self._what = what
        self._most = max(1, total // DEFAULT_SHARE) if most is None else most
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def held(self, client: str | None) -> Iterator[None]:
        """One more of this client's, meanwhile. Raises Refusal if it has its share."""
        if client is None:
            yield
            return
        if self._held[client] >= self._most:
            message = f"you have {self._most} {self._what} under way, one client may have no more; end one first"
            raise Refusal(429, message, code="client_busy")
        self._held[client] += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]  # clients come and go without a bound
