"""A bound on the memory that many requests or sessions hold together, in all processes of the server."""

from collections.abc import Callable

from .ledger import Ledger


class Budget:
    """The bound. A holder that takes more checks `is_over`, and then gives up its share or evicts the largest one."""

    def __init__(self, name: str, max_bytes: int, ledger: Ledger, *, largest: str | None = None) -> None:
        """`name`: the counter of the ledger; `largest`: the one of the largest share, if shares can be evicted."""
        self.max_bytes = max_bytes
        self._name = name
        self._largest = largest
        self._ledger = ledger
        self._shares: set[Share] = set()

    @property
    def num_bytes(self) -> int:
        """Of all shares in this process."""
        return self._ledger.own(self._name)

    @property
    def is_over(self) -> bool:
        return self._ledger.total(self._name) > self.max_bytes

    def share(self, evict: Callable[[], None] = lambda: None) -> "Share":
        """A new, empty share. `evict` is called if its holder has to give it up."""
        return Share(self, evict)

    def evict_largest(self) -> None:
        """Evict the largest shares until the rest is within the bound; small holders never pay for a large one.

        If another process has the largest, that one evicts it when it calls this, as each does several times a second.
        """
        while self.is_over and self._has_largest():
            largest = max(self._shares, key=lambda share: share.num_bytes)
            largest.hold(0)
            largest.evict()

    def tick(self) -> None:
        """Tell the other processes how large this one's largest share is, and evict it if that is due."""
        self._has_largest()
        self.evict_largest()

    def _has_largest(self) -> bool:
        assert self._largest is not None
        own = max((share.num_bytes for share in self._shares), default=0)
        self._ledger.set(self._largest, own)
        return own > 0 and own >= self._ledger.most(self._largest)


class Share:
    """The memory that one request or session holds."""

    def __init__(self, budget: Budget, evict: Callable[[], None]) -> None:
        self.budget = budget
        self.num_bytes = 0
        self.evict = evict

    def hold(self, num_bytes: int) -> None:
        """Set the number of bytes that this share holds."""
        self.budget._ledger.add(self.budget._name, num_bytes - self.num_bytes)
        self.num_bytes = num_bytes
        if num_bytes:
            self.budget._shares.add(self)
        else:
            self.budget._shares.discard(self)
