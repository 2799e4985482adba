"""Bytes of memory that many hold together, within one bound."""

from collections.abc import Callable


class Budget:
    """What all shares may hold; whoever takes more looks at `is_over` and gives way, or makes another do so."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0  # of all shares
        self._shares: set[Share] = set()

    @property
    def is_over(self) -> bool:
        return self.num_bytes > self.max_bytes

    def share(self, evict: Callable[[], None] = lambda: None) -> "Share":
        """`evict` is called when its holder has to give way."""
        return Share(self, evict)

    def evict_largest(self) -> None:
        """Until the rest is within the bound: whoever holds little is not ended for one who holds much."""
        while self.is_over:
            largest = max(self._shares, key=lambda share: share.num_bytes)
            largest.hold(0)
            largest.evict()


class Share:
    """What one request or session holds."""

    def __init__(self, budget: Budget, evict: Callable[[], None]) -> None:
        self.budget = budget
        self.num_bytes = 0
        self.evict = evict

    def hold(self, num_bytes: int) -> None:
        """So many bytes in all from now on."""
        self.budget.num_bytes += num_bytes - self.num_bytes
        self.num_bytes = num_bytes
        if num_bytes:
            self.budget._shares.add(self)
        else:
            self.budget._shares.discard(self)
