"""Lists of names in error messages: the first few, and the number of the others."""

from collections.abc import Collection

SHOWN = 5


def enumerate_names(names: Collection[str]) -> str:
    """The names in their order, as "a, b, c, d, e and 7 more"."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
