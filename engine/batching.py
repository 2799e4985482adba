"""Clips -> batches for stage 1: similar lengths together, each batch bounded by its padded frames."""

import bisect
import itertools
from typing import Generic, TypeVar

POOL_BATCHES = 4  # full batches that a pool gathers before it gives one away

Clip = TypeVar("Clip")


class BatchPool(Generic[Clip]):
    """Clips that wait for their batch.

    A batch has the longest clips that are no longer than those of the batch before it; after the shortest comes the
    longest again. What is added meanwhile joins the clips that are still to come. This is replacement selection (Knuth,
    The Art of Computer Programming 3, 5.4.1): lengths in a batch are as close as if twice as many clips were sorted.

    What is in which batch depends on the order of the clips alone, not on when they are added.
    """

    def __init__(self, *, max_frames: int, max_size: int) -> None:
        """`max_frames`: most frames of a batch, padding included; a longer clip is a batch of its own."""
        self._max_frames = max_frames
        self._max_size = max_size
        self._clips: list[tuple[int, int, Clip]] = []  # minus frames, number, clip: the longest and earliest first
        self._numbers = itertools.count()
        self._num_frames = 0
        self._num_taken = 0  # batches
        self._after: tuple[int, int] | None = None  # the last clip that was taken

    def __len__(self) -> int:
        return len(self._clips)

    def add(self, num_frames: int, clip: Clip) -> None:
        """`num_frames`: what encoding the clip costs."""
        bisect.insort(self._clips, (-num_frames, next(self._numbers), clip))
        self._num_frames += num_frames

    @property
    def is_ready(self) -> bool:
        """Whether a batch should be taken now: the first one soon, so that stage 2 starts, the others later."""
        num_batches = min(1 + self._num_taken, POOL_BATCHES)
        return self._num_frames >= num_batches * self._max_frames or len(self) >= num_batches * self._max_size

    def take(self, *, last: bool = False) -> list[Clip]:
        """The next batch. With `last` no more clips will be added: the longest come first, and all batches are full."""
        first = 0 if last or self._after is None else bisect.bisect(self._clips, self._after, key=lambda clip: clip[:2])
        if first + self._most(first) > len(self):  # what is left is no full batch, and waits for more of its length
            first = 0
        batch = self._clips[first : first + self._most(first)]
        del self._clips[first : first + len(batch)]
        self._num_frames += sum(minus_frames for minus_frames, _, _ in batch)
        self._num_taken += 1
        self._after = batch[-1][:2]
        return [clip for _, _, clip in batch]

    def _most(self, first: int) -> int:
        """Clips of a full batch whose first one is this."""
        if first == len(self):
            return 1
        minus_frames, _, _ = self._clips[first]
        return max(min(self._max_size, self._max_frames // -minus_frames), 1)
