"""Turns: the first item of each owner, then the second of each."""

from keyturn_receiver.resilience.turns import take_turns


def test_owners_take_turns_and_items_of_one_owner_stay_in_order() -> None:
    items = ["a1", "a2", "a3", "b1", "c1", "b2"]
    assert take_turns(items, lambda item: item[0]) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_nothing_gives_nothing() -> None:
    assert take_turns([], lambda item: item) == []
