"""When each stage worked: what a run records of itself, for benchmarks and their pictures."""

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

    "read" is the wait for audio, an input or a piece of one a span, and "encode" that for stage 1, a batch a span;
    "decode" is a clip's time in stage 2, from its prompt's submission to its text, so that these spans overlap; "align"
    finds word times.
    """

    spans: list[Span] = field(default_factory=list)

    @contextmanager
    def span(self, stage: Stage, num_clips: int) -> Iterator[None]:
        """Record the time spent inside."""
        started = time.perf_counter()
        yield
        self.add(stage, started, num_clips)

    def waits(self, stage: Stage, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; each wait for one is recorded."""
        started = time.perf_counter()
        for item in items:
            self.add(stage, started, int(item is not None))
            yield item
            started = time.perf_counter()

    def add(self, stage: Stage, started: float, num_clips: int) -> None:
        """Record work that ends now."""
        self.spans.append(Span(stage, started, time.perf_counter(), num_clips))


class NullTimeline(Timeline):
    """Records nothing, for runs that nobody looks at: a million clips would take 120 MB."""

    __slots__ = ()

    def add(self, stage: Stage, started: float, num_clips: int) -> None:
        pass
