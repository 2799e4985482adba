"""What the clients of a server hold at the moment: requests, sessions, connections and bytes.

Limits hold for a server as a whole, so its front ends (front_ends.py) share one SharedLedger. Each process writes its
own row only, so a row can be cleared when its process dies. A process that takes something adds it first and then reads
the total of all rows: of two that take the last place at the same time, both may be refused, but never both admitted.
"""

import fcntl
import hashlib
import mmap
import os
from collections import Counter
from collections.abc import Hashable

import numpy as np

COUNTERS = (
    "requests",
    "sessions",
    "connections",
    "upload_bytes",
    "session_bytes",
    "largest_session",  # bytes of the session that holds most
    "waiting",  # clips not yet encoded
)


class Ledger:
    """The ledger of a server that is one process."""

    def __init__(self) -> None:
        self._held: Counter[Hashable] = Counter()

    def take(self, name: Hashable, most: int) -> bool:
        """Count one more unless that would be more than `most`; returns whether it was counted."""
        if self._held[name] >= most:
            return False
        self._held[name] += 1
        return True

    def add(self, name: Hashable, amount: int) -> None:
        """Count so many more, or fewer; `name` is one of COUNTERS, or any name that take() has counted."""
        self._held[name] += amount
        if not self._held[name]:
            del self._held[name]  # or the counter would grow with every new client

    def set(self, name: str, amount: int) -> None:
        self._held[name] = amount

    def own(self, name: Hashable) -> int:
        """What this process holds."""
        return self._held[name]

    def total(self, name: str) -> int:
        """What all processes hold together."""
        return self._held[name]

    def most(self, name: str) -> int:
        """The largest amount that one process holds."""
        return self._held[name]


class SharedLedger(Ledger):
    """The same in memory that several processes map: a row for each, with COUNTERS and a table of other names.

    The table finds a name by a digest of 64 bits. Only its entries need a lock, a record lock of the file, which the
    system releases when its holder dies.
    """

    def __init__(self, file: int, num_rows: int, row: int) -> None:
        """`file`: a descriptor of create(); `row`: the one that this process writes."""
        self._file = file
        self._row = row
        self._map = mmap.mmap(file, 0)
        num_counters = num_rows * len(COUNTERS)
        num_names = (os.fstat(file).st_size // 8 - num_counters) // (1 + num_rows)
        cells = np.frombuffer(self._map, np.int64)
        self._counters = cells[:num_counters].reshape(num_rows, -1)
        self._names = cells[num_counters : num_counters + num_names]  # 0: free
        self._amounts = cells[num_counters + num_names :].reshape(num_rows, num_names)

    @staticmethod
    def create(num_rows: int, num_names: int) -> int:
        """A file in memory, all zeros, with room for so many names at a time; returns its descriptor."""
        file = os.memfd_create("twostage-ledger")
        os.ftruncate(file, 8 * (num_rows * len(COUNTERS) + num_names * (1 + num_rows)))
        return file

    def take(self, name: Hashable, most: int) -> bool:
        if name in COUNTERS:
            self.add(name, 1)
            if self.total(str(name)) <= most:
                return True
            self.add(name, -1)
            return False
        digest = _digest(name)
        with _Locked(self._file):
            column = self._column(digest)
            if column is None or self._amounts[:, column].sum() >= most:
                return False
            self._names[column] = digest
            self._amounts[self._row, column] += 1
        return True

    def add(self, name: Hashable, amount: int) -> None:
        if name in COUNTERS:
            self._counters[self._row, COUNTERS.index(str(name))] += amount
            return
        with _Locked(self._file):
            column = self._column(_digest(name))
            assert column is not None, f"{name} was never taken"
            self._amounts[self._row, column] += amount
            if not self._amounts[:, column].any():
                self._names[column] = 0

    def set(self, name: str, amount: int) -> None:
        self._counters[self._row, COUNTERS.index(name)] = amount

    def own(self, name: Hashable) -> int:
        return int(self._counters[self._row, COUNTERS.index(str(name))])

    def total(self, name: str) -> int:
        return int(self._counters[:, COUNTERS.index(name)].sum())

    def most(self, name: str) -> int:
        return int(self._counters[:, COUNTERS.index(name)].max())

    def clear_row(self, row: int) -> None:
        """Forget what a process held that has died."""
        self._counters[row] = 0
        with _Locked(self._file):
            self._amounts[row] = 0
            self._names[~self._amounts.any(axis=0)] = 0

    def _column(self, digest: int) -> int | None:
        """The column of a name, or else a free one; None if there is none."""
        for sought in (digest, 0):
            found = np.flatnonzero(self._names == sought)
            if len(found):
                return int(found[0])
        return None


class _Locked:
    """Holds the record lock of a file; the other threads of this process are not kept out."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)


def _digest(name: Hashable) -> int:
    """Never 0; the same in every process."""
    found = int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=8).digest(), "little", signed=True)
    return found or 1
