"""Clips -> batches for stage 1: similar lengths together, each batch bounded by its padded frames."""

import bisect
import itertools
from typing import Generic, TypeVar

POOL_BATCHES = 4  # full batches that a pool gathers before one is taken

Item = TypeVar("Item")


class BatchPool(Generic[Item]):
    """Clips that wait for their batch.

    Each batch takes the longest clips that are no longer than those of the batch before it. After the shortest clips,
    it begins again with the longest. Clips that are added meanwhile take their place by length. This is replacement
    selection (Knuth, The Art of Computer Programming 3, 5.4.1): lengths within a batch are as close as if twice as many
    clips were sorted at once.

    Batches depend only on the order of the clips, not on when they are added.
    """

    def __init__(self, *, max_frames: int, max_size: int) -> None:
        """A batch has at most `max_size` clips and `max_frames` encoder frames, padding included.

        A clip longer than that is a batch of its own.
        """
        self._max_frames = max_frames
        self._max_size = max_size
        self._clips: list[tuple[int, int, Item]] = []  # (-frames, number, clip), sorted: longest first, then earliest
        self._numbers = itertools.count()
        self._num_frames = 0
        self._num_taken = 0  # batches
        self._after: tuple[int, int] | None = None  # (-frames, number) of the last clip that was taken

    def __len__(self) -> int:
        return len(self._clips)

    def add(self, num_frames: int, clip: Item) -> None:
        """Add a clip of `num_frames` encoder frames."""
        bisect.insort(self._clips, (-num_frames, next(self._numbers), clip))
        self._num_frames += num_frames

    @property
    def is_ready(self) -> bool:
        """Whether a batch should be taken now.

        The first is ready soon, so that stage 2 can start. Later ones wait until the pool is fuller, and pad less.
        """
        num_batches = min(1 + self._num_taken, POOL_BATCHES)
        return self._num_frames >= num_batches * self._max_frames or len(self) >= num_batches * self._max_size

    def take(self, *, last: bool = False) -> list[Item]:
        """The next batch. `last` says that no more clips will come: batches are then taken from the longest clip on."""
        first = 0 if last or self._after is None else bisect.bisect(self._clips, self._after, key=lambda clip: clip[:2])
        if first + self._most(first) > len(self):  # the shorter clips do not fill a batch: they wait for more
            first = 0
        batch = self._clips[first : first + self._most(first)]
        del self._clips[first : first + len(batch)]
        self._num_frames += sum(minus_frames for minus_frames, _, _ in batch)
        self._num_taken += 1
        self._after = batch[-1][:2]
        return [clip for _, _, clip in batch]

    def _most(self, first: int) -> int:
        """Number of clips in a full batch whose longest clip is at index `first`."""
        if first == len(self):
            return 1
        minus_frames, _, _ = self._clips[first]
        return max(min(self._max_size, self._max_frames // -minus_frames), 1)
