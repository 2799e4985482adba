"""Some seconds of tests/fuzz.py, which goes on for as long as it is told to."""

from collections import Counter

from tests.engine.server.conftest import Running
from tests.fuzz import Prober, fuzz


def test_nothing_that_hypothesis_sends_is_too_much(faked: Running) -> None:
    kinds: Counter[str] = Counter()
    fuzz(Prober(faked.port), examples=150, start=0, kinds=kinds)
    # Which answers come depends on hypothesis, which draws from constants of the modules that happen to be imported.
    assert kinds.total() >= 150 and {kind.split()[0] for kind in kinds} == {"Request", "Talk"}, kinds
