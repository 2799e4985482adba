"""Some seconds of tests/fuzz.py, which goes on for as long as it is told to."""

from collections import Counter

from tests.engine.server.conftest import Running
from tests.fuzz import Prober, fuzz


def test_nothing_that_hypothesis_sends_is_too_much(faked: Running) -> None:
    kinds: Counter[str] = Counter()
    fuzz(Prober(faked.port), examples=150, start=0, kinds=kinds)
    assert kinds.total() >= 150 and len(kinds) > 3, kinds
