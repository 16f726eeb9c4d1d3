"""A map of bounded size, for entries that may be lost."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """Bounded map. Holds at most ``limit`` entries. Adding another entry evicts the oldest one.

    The oldest entry is the one that was added or set longest ago. With ``lru`` (least recently used), reading an entry
    also makes it the newest.
    """

    def __init__(self, limit: int, lru: bool = False) -> None:
        self._limit = limit
        self._lru = lru
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys, oldest first."""
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, or None if the map does not have it."""
        if self._lru and key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Set the value of ``key``, which becomes the newest entry."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Remove ``key``. Return its value, or None if the map does not have it."""
        return self._entries.pop(key, None)
