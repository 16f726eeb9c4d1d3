"""A bounded map evicts its oldest entry when it is full. A shared one evicts an entry of the largest owner, and an
expiring one forgets what is too old."""

from keyturn_receiver.resilience.bounded_map import BoundedMap, ExpiringMap, SharedMap
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


def shared() -> SharedMap[str, int]:
    """Return a map of six entries, at most four of one owner. A key begins with its owner."""
    return SharedMap(6, 4, lambda key: key[0])


def test_owner_with_too_many_entries_loses_its_own_oldest_one() -> None:
    entries = shared()
    for value, key in enumerate(["b1", "a1", "a2", "a3", "a4", "a5"]):
        entries.put(key, value)
    assert list(entries) == ["b1", "a2", "a3", "a4", "a5"]
    assert len(entries) == 5


def test_full_map_takes_from_the_largest_owner() -> None:
    entries = shared()
    for value, key in enumerate(["b1", "a1", "a2", "a3", "a4", "c1"]):
        entries.put(key, value)
    assert entries.get("a1") == 1  # so that a2 becomes the oldest
    entries.put("d1", 6)
    assert "a2" not in entries
    assert [entries.get(key) for key in ("a1", "b1", "c1", "d1")] == [1, 0, 5, 6]
    assert len(entries) == 6


def test_entry_of_a_shared_map_is_replaced_and_removed() -> None:
    entries = shared()
    entries.put("a1", 1)
    entries.put("a1", 2)
    assert (len(entries), entries.get("a1"), entries.of("a")) == (1, 2, ["a1"])
    assert entries.pop("a1") == 2
    assert entries.pop("a1") is None
    assert (len(entries), entries.get("a1"), entries.of("a"), list(entries)) == (0, None, [], [])


def test_expired_entries_are_not_returned_and_make_room() -> None:
    clock = FakeClock()
    entries: ExpiringMap[int, str] = ExpiringMap(1000, 60.0, clock)
    for number in range(10_000):  # one a second
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
