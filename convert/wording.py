"""Names in error messages: the first few, and how many there are."""

from collections.abc import Collection

SHOWN = 5


def enumerate_names(names: Collection[str]) -> str:
    """ "a, b, c, d, e and 7 more"; names in the order given."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
