"""Bounded maps: maps of limited size, for entries that may be lost."""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar, cast

EXPIRED_PER_PUT = 2  # at most this many expired entries are dropped when an entry is set

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """Bounded map. It holds at most ``limit`` entries. If the map is full, a new entry evicts the oldest one.

    The oldest entry is the one that was added or set longest ago. If ``lru`` (least recently used) is true, a read also
    makes an entry the newest one.
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


class ExpiringMap(Generic[K, V]):
    """Bounded map whose entries expire ``ttl`` seconds after they were set.

    It holds at most ``limit`` entries. Whenever an entry is set, up to EXPIRED_PER_PUT expired entries are dropped. So
    expired entries do not accumulate. ``now`` returns monotonic seconds.
    """

    def __init__(self, limit: int, ttl: float, now: Callable[[], float] = time.monotonic) -> None:
        self._entries: BoundedMap[K, tuple[float, V]] = BoundedMap(limit)
        self._ttl = ttl
        self._now = now

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return self.get(cast("K", key)) is not None

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, or None if the map does not have the key, or its entry has expired."""
        entry = self._entries.get(key)
        return entry[1] if entry and self._now() < entry[0] else None

    def put(self, key: K, value: V) -> None:
        """Set the value of ``key``, which becomes the newest entry."""
        now = self._now()
        self._entries.put(key, (now + self._ttl, value))
        for oldest in list(itertools.islice(self._entries, EXPIRED_PER_PUT)):
            entry = self._entries.get(oldest)
            if entry and entry[0] <= now:
                self._entries.pop(oldest)

    def update(self, key: K, value: V) -> None:
        """Set the value of ``key``, unless the map does not have the key or its entry has expired. The entry expires at
        the same time as before."""
        entry = self._entries.get(key)
        if entry and self._now() < entry[0]:
            self._entries.put(key, (entry[0], value))

    def pop(self, key: K) -> None:
        """Remove ``key``."""
        self._entries.pop(key)
