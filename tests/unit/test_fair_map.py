"""A fair map evicts from its largest group when it is full."""

import pytest

from keyturn_receiver.resilience.fair_map import FairMap


def test_full_map_loses_the_oldest_entry_of_its_largest_group() -> None:
    entries: FairMap[str, int, str] = FairMap(4)
    assert [entries.put("quiet", 0, "x"), *(entries.put("busy", number, "x") for number in range(3))] == [None] * 4
    assert entries.put("busy", 3, "x") == 0
    assert entries.put("new", 0, "x") == 1
    assert (entries.get("quiet", 0), entries.get("busy", 0), entries.get("busy", 3)) == ("x", None, "x")
    assert (len(entries), entries.size("busy"), entries.size("quiet"), entries.size("none")) == (4, 2, 1, 0)


def test_entry_that_is_put_again_becomes_the_newest_and_evicts_nothing() -> None:
    entries: FairMap[str, int, str] = FairMap(2)
    entries.put("a", 1, "x")
    entries.put("a", 2, "x")
    assert entries.put("a", 1, "y") is None
    assert entries.pop_oldest("a") == (2, "x")
    assert entries.pop_oldest("a") == (1, "y")
    with pytest.raises(KeyError):
        entries.pop_oldest("a")
    assert list(entries) == []


def test_groups_take_turns_by_being_moved_to_the_end() -> None:
    entries: FairMap[str, int, str] = FairMap(10)
    for group in "abc":
        entries.put(group, 1, "x")
    entries.move_to_end("a")
    entries.move_to_end("gone")
    assert list(entries) == ["b", "c", "a"]


def test_entries_of_a_group_are_found_and_removed() -> None:
    entries: FairMap[str, int, str] = FairMap(9)
    for number in range(3):
        entries.put("a", number, f"a{number}")
    entries.put("a", 0, "again")
    assert entries.of("a") == [1, 2, 0]
    assert entries.oldest("a") == (1, "a1")
    assert [entries.pop("a", 1), entries.pop("a", 1), entries.pop("none", 1)] == ["a1", None, None]
    assert (len(entries), entries.of("a"), entries.of("none")) == (2, [2, 0], [])
    entries.pop("a", 2)
    entries.pop("a", 0)
    assert (len(entries), list(entries)) == (0, [])
