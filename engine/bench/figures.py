"""Timelines and lists of seconds -> figures."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ..timeline import Span


def percentile_s(seconds: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest; None where there are none."""
    return float(np.percentile(seconds, percent)) if seconds else None


def concurrency(spans: Iterable[Span]) -> list[tuple[float, int]]:
    """(time, spans that are open from then until the next time), in order of time. A span is open in [start, end)."""
    changes = Counter[float]()
    for span in spans:
        changes[span.start] += 1
        changes[span.end] -= 1
    times = sorted(changes)
    return list(zip(times, itertools.accumulate(changes[time] for time in times), strict=True))


def most_at_once(spans: Iterable[Span]) -> int:
    return max((count for _, count in concurrency(spans)), default=0)


def busy_s(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of them is open."""
    steps = concurrency(spans)
    return sum(following - time for (time, count), (following, _) in itertools.pairwise(steps) if count)
