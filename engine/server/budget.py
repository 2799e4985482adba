"""A bound on the memory that many requests or sessions hold together."""

from collections.abc import Callable


class Budget:
    """The bound. A holder that takes more checks `is_over`, and then gives up its share or evicts the largest one."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0  # of all shares
        self._shares: set[Share] = set()

    @property
    def is_over(self) -> bool:
        return self.num_bytes > self.max_bytes

    def share(self, evict: Callable[[], None] = lambda: None) -> "Share":
        """A new, empty share. `evict` is called if its holder has to give it up."""
        return Share(self, evict)

    def evict_largest(self) -> None:
        """Evict the largest shares until the rest is within the bound; small holders never pay for a large one."""
        while self.is_over:
            largest = max(self._shares, key=lambda share: share.num_bytes)
            largest.hold(0)
            largest.evict()


class Share:
    """The memory that one request or session holds."""

    def __init__(self, budget: Budget, evict: Callable[[], None]) -> None:
        self.budget = budget
        self.num_bytes = 0
        self.evict = evict

    def hold(self, num_bytes: int) -> None:
        """Set the number of bytes that this share holds."""
        self.budget.num_bytes += num_bytes - self.num_bytes
        self.num_bytes = num_bytes
        if num_bytes:
            self.budget._shares.add(self)
        else:
            self.budget._shares.discard(self)
