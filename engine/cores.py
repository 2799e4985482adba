"""Which cores this process may run on, and those that it starts."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager


def usable_cores() -> int:
    """Those that the system lets this process run on: a container or a batch system may keep others from it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares_of_cores(count: int) -> list[list[int]]:
    """The numbers of these cores, dealt out to `count` processes. Of fewer cores, several processes get the same."""
    cores = sorted(os.sched_getaffinity(0))
    bounds = [len(cores) * i // count for i in range(count + 1)]
    return [cores[bounds[i] : bounds[i + 1]] or [cores[i % len(cores)]] for i in range(count)]


@contextmanager
def starting_on(cores: Collection[int]) -> Iterator[None]:
    """Let the processes that this thread starts meanwhile run on these cores alone.

    Every library there takes them for all that there are, as torch, OpenMP and the compilers do in a program of its
    own on so many cores.
    """
    before = os.sched_getaffinity(0)  # of this thread
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
