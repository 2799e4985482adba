"""GroupsAhead: the windows of a long recording are grouped while the rest of it is being transcribed.

Clustering first groups blocks of MAX_POINTS windows, each by itself (clustering.py). A block can be grouped as soon as
it is known which of its clips say something, since only their windows count. At the end, groups are looked up by the
embeddings of their block, so what was grouped in vain costs time alone.
"""

import hashlib
from collections.abc import Hashable
from concurrent.futures import Executor

import numpy as np

from .clustering import MAX_POINTS, Labels, block_groups, import_scipy
from .model import Embeddings


class GroupsAhead:
    """Of one recording. It is called with a block, and gives its groups as clustering.block_groups() does.

    Blocks are grouped by `thread`, and it is to be called there.
    """

    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._found: dict[bytes, Labels] = {}  # by the digest of the block
        self._num_added = 0
        self._open: dict[Hashable, tuple[Embeddings | None, bool | None]] = {}  # of each clip, what is known by now
        self._spoken: list[Embeddings] = []  # of the clips before these, fewer than a block
        self._num_windows = 0  # of these

    def __call__(self, block: Embeddings) -> Labels:
        found = self._found.pop(_digest(block), None)
        return block_groups(block) if found is None else found

    def add(self, clip: Hashable) -> None:
        """The next clip in order of time. From the second on, scipy will be needed."""
        self._open[clip] = (None, None)
        self._num_added += 1
        if self._num_added == 2:
            self._thread.submit(import_scipy)

    def heard(self, clip: Hashable, rows: Embeddings) -> None:
        """The embeddings (T, D) of a clip that was added; none if it failed."""
        if clip in self._open:
            self._open[clip] = (rows, self._open[clip][1])
            self._advance()

    def told(self, clip: Hashable, *, is_spoken: bool) -> None:
        """Whether anything is said in a clip that was added."""
        if clip in self._open:
            self._open[clip] = (self._open[clip][0], is_spoken)
            self._advance()

    def _advance(self) -> None:
        while self._open:
            clip, (rows, is_spoken) = next(iter(self._open.items()))
            if rows is None or is_spoken is None:
                return
            del self._open[clip]
            if is_spoken and len(rows):
                self._spoken.append(rows)
                self._num_windows += len(rows)
            if self._num_windows >= MAX_POINTS:
                windows = np.concatenate(self._spoken)
                self._spoken = [windows[MAX_POINTS:]]
                self._num_windows -= MAX_POINTS
                self._thread.submit(self._group, windows[:MAX_POINTS])

    def _group(self, block: Embeddings) -> None:
        self._found[_digest(block)] = block_groups(block)


def _digest(block: Embeddings) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(block).data).digest()
