"""How many cores this process may keep busy: those it may run on, or its share of them beside other replicas."""

import os

_share: list[int] = []  # at most one number, from limit_cores()


def num_cores() -> int:
    return _share[0] if _share else usable_cores()


def usable_cores() -> int:
    """Those that the system lets this process run on: a container or a batch system may keep others from it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_cores(count: int) -> None:
    """Leave the other cores to other processes. It comes before a model is loaded."""
    _share[:] = [count]
