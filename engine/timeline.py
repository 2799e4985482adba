"""Record when each stage worked during a run, for benchmarks, their plots and the server's metrics."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Item = TypeVar("Item")
Stage = Literal["read", "encode", "decode", "align"]


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work. Times are those of time.perf_counter(), in seconds."""

    stage: Stage
    start: float
    end: float
    num_clips: int


@dataclass(slots=True)
class Timeline:
    """Spans in the order in which they ended.

    - "read": the loop waits for audio; one span for each input or piece of one.
    - "encode": the loop starts stage 1 on a batch, or waits for the batch's embeddings.
    - "decode": one clip is in stage 2, from submission to its answer. These spans overlap.
    - "align": a batch of texts gets its word times and is checked.
    """

    spans: list[Span] = field(default_factory=list)

    @contextmanager
    def span(self, stage: Stage, num_clips: int) -> Iterator[None]:
        """Record the time spent inside."""
        started = time.perf_counter()
        yield
        self.add(stage, started, num_clips)

    def waits(self, stage: Stage, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the same items, and record the wait for each."""
        started = time.perf_counter()
        for item in items:
            self.add(stage, started, int(item is not None))
            yield item
            started = time.perf_counter()

    def add(self, stage: Stage, started: float, num_clips: int) -> None:
        """Record work that ends now; `started` is by time.perf_counter()."""
        self.spans.append(Span(stage, started, time.perf_counter(), num_clips))


class NullTimeline(Timeline):
    """Records nothing. It is the default, because the spans of a million clips take 120 MB."""

    __slots__ = ()

    def add(self, stage: Stage, started: float, num_clips: int) -> None:
        pass
