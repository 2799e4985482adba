"""How many cores this process may keep busy: all of the machine's, or its share beside other replicas."""

import os

_share: list[int] = []  # at most one number, from limit_cores()


def num_cores() -> int:
    return _share[0] if _share else os.cpu_count() or 1


def limit_cores(count: int) -> None:
    """Leave the other cores to other processes. It comes before a model is loaded."""
    _share[:] = [count]
