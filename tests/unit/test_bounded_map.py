"""A bounded map evicts its oldest entry when it is full."""

from keyturn_receiver.resilience.bounded_map import BoundedMap


def full(lru: bool = False) -> BoundedMap[str, int]:
    entries: BoundedMap[str, int] = BoundedMap(3, lru)
    for value, key in enumerate("abc"):
        entries.put(key, value)
    return entries


def test_new_entry_evicts_the_oldest() -> None:
    entries = full()
    assert entries.get("a") == 0  # a read does not change the order
    entries.put("d", 3)
    assert list(entries) == ["b", "c", "d"]
    assert entries.get("a") is None


def test_entry_that_is_put_again_becomes_the_newest_and_evicts_nothing() -> None:
    entries = full()
    entries.put("a", 9)
    assert len(entries) == 3
    entries.put("d", 3)
    assert list(entries) == ["c", "a", "d"]
    assert entries.get("a") == 9


def test_entry_that_is_read_stays_when_reads_count() -> None:
    entries = full(lru=True)
    assert entries.get("a") == 0
    assert entries.get("missing") is None
    entries.put("d", 3)
    assert list(entries) == ["c", "a", "d"]


def test_removed_entry_makes_room() -> None:
    entries = full()
    assert entries.pop("b") == 1
    assert entries.pop("b") is None
    entries.put("d", 3)
    assert "a" in entries
    assert "b" not in entries
