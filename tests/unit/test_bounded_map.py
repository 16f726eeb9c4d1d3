"""A bounded map evicts its oldest entry when it is full, and an expiring one forgets what is too old."""

from keyturn_receiver.resilience.bounded_map import BoundedMap, ExpiringMap
from support.clock import FakeClock


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


def test_expired_entries_are_not_returned_and_make_room() -> None:
    clock = FakeClock()
    entries: ExpiringMap[int, str] = ExpiringMap(1000, 60.0, clock)
    for number in range(10_000):  # one entry each second
        entries.put(number, "x")
        clock.advance(1)
    assert len(entries) <= 61
    assert entries.get(9_941) == "x"
    assert 9_941 in entries
    assert entries.get(9_939) is None
    assert 9_939 not in entries
    entries.pop(9_941)
    assert 9_941 not in entries
    clock.advance(60)
    assert entries.get(9_999) is None
    entries.put(0, "y")
    entries.put(0, "z")
    assert entries.get(0) == "z"


def test_expiring_map_is_bounded_within_its_time() -> None:
    entries: ExpiringMap[int, str] = ExpiringMap(3, 60.0, FakeClock())
    for number in range(10):
        entries.put(number, "x")
    assert [number for number in range(10) if number in entries] == [7, 8, 9]
    assert len(entries) == 3


def test_update_keeps_the_time_at_which_an_entry_expires() -> None:
    clock = FakeClock()
    entries: ExpiringMap[str, int] = ExpiringMap(2, 10, clock)
    entries.put("a", 1)
    clock.advance(6)
    entries.update("a", 2)
    assert entries.get("a") == 2
    clock.advance(5)
    entries.update("a", 3)
    entries.update("missing", 4)
    assert (entries.get("a"), entries.get("missing")) == (None, None)
