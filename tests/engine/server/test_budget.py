"""Memory that many hold together: who gives way when it is too much, and who does not."""

from twostage_asr.engine.server.budget import Budget
from twostage_asr.engine.server.ledger import Ledger


def test_who_holds_most_gives_way_until_the_rest_fits() -> None:
    budget = Budget("session_bytes", 100, Ledger(), largest="largest_session")
    ended: list[str] = []
    shares = {name: budget.share(lambda name=name: ended.append(name)) for name in ("small", "large", "larger")}
    for name, num_bytes in (("small", 10), ("large", 60), ("larger", 70)):
        shares[name].hold(num_bytes)
    assert budget.is_over and budget.num_bytes == 140
    budget.evict_largest()
    assert ended == ["larger"] and budget.num_bytes == 70
    assert {name: share.num_bytes for name, share in shares.items()} == {"small": 10, "large": 60, "larger": 0}


def test_a_budget_may_be_used_to_the_last_byte() -> None:
    budget = Budget("session_bytes", 100, Ledger(), largest="largest_session")
    ended: list[str] = []
    share = budget.share(lambda: ended.append("one"))
    share.hold(100)
    budget.evict_largest()
    assert not budget.is_over and not ended
    share.hold(101)
    assert budget.is_over
    share.hold(40)
    assert not budget.is_over and budget.num_bytes == 40


def test_who_has_given_all_back_is_not_asked_again() -> None:
    budget = Budget("session_bytes", 10, Ledger(), largest="largest_session")
    ended: list[str] = []
    first = budget.share(lambda: ended.append("first"))
    first.hold(10)
    first.hold(0)
    budget.share(lambda: ended.append("second")).hold(11)
    budget.evict_largest()
    assert ended == ["second"] and budget.num_bytes == 0
