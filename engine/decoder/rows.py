"""Which rows of a memory are taken: of the LLM's cache, or of memory that two processes share."""

import bisect


class Rows:
    """First fit: consecutive rows are taken at the lowest gap that is large enough, so that few pages are touched."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._taken: list[tuple[int, int]] = []  # first row, and the one behind the last; in order

    def take(self, size: int) -> int | None:
        """The first of `size` rows; None if no gap is so large."""
        first = 0
        for begin, end in self._taken:
            if begin - first >= size:
                break
            first = end
        if first + size > self._num_rows:
            return None
        bisect.insort(self._taken, (first, first + size))
        return first

    def copy(self) -> "Rows":
        """Rows of which the same are taken, to try out what fits."""
        rows = Rows(self._num_rows)
        rows._taken = self._taken.copy()
        return rows

    def give_back(self, first: int) -> None:
        """Free the rows that begin with this one."""
        del self._taken[bisect.bisect_left(self._taken, (first, 0))]
