"""Statistics of timelines and of lists of durations."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ..timeline import Span


def percentile_s(seconds: Sequence[float], percent: float) -> float | None:
    """A percentile, linear between the two nearest values; None for an empty list."""
    return float(np.percentile(seconds, percent)) if seconds else None


def concurrency(spans: Iterable[Span]) -> list[tuple[float, int]]:
    """(time, number of spans open from then until the next time), by time. A span is open in [start, end)."""
    changes = Counter[float]()
    for span in spans:
        changes[span.start] += 1
        changes[span.end] -= 1
    times = sorted(changes)
    return list(zip(times, itertools.accumulate(changes[time] for time in times), strict=True))


def most_at_once(spans: Iterable[Span]) -> int:
    return max((count for _, count in concurrency(spans)), default=0)


def busy_s(spans: Iterable[Span]) -> float:
    """Seconds in which at least one span is open."""
    steps = concurrency(spans)
    return sum(following - time for (time, count), (following, _) in itertools.pairwise(steps) if count)
