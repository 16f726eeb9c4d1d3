"""Fair map: a map of bounded size whose entries belong to groups. No group crowds out the other groups."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

G = TypeVar("G", bound=Hashable)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FairMap(Generic[G, K, V]):
    """Bounded map with groups. It holds at most ``limit`` entries. If the map is full, a new entry evicts the oldest
    entry of the largest group.

    The oldest entry is the one that was added or set longest ago. The groups have an order. A new group is last in this
    order, and ``move_to_end`` makes a group the last one again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._groups: OrderedDict[G, OrderedDict[K, V]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[G]:
        """Iterate over the groups that have entries, in order."""
        return iter(self._groups)

    def size(self, group: G) -> int:
        """Return the number of entries of a group."""
        return len(self._groups.get(group, ()))

    def get(self, group: G, key: K) -> V | None:
        """Return the value of ``key``, or None if the group does not have it."""
        entries = self._groups.get(group)
        return entries.get(key) if entries else None

    def put(self, group: G, key: K, value: V) -> K | None:
        """Set the value of ``key``, which becomes the newest entry of its group. Return the key of the evicted entry,
        or None if no entry was evicted."""
        entries = self._groups.setdefault(group, OrderedDict())
        self._length += key not in entries
        entries[key] = value
        entries.move_to_end(key)
        if self._length <= self._limit:
            return None
        return self.pop_oldest(max(self._groups, key=self.size))[0]

    def of(self, group: G) -> Sequence[K]:
        """Return the keys of a group, oldest first."""
        return list(self._groups.get(group, ()))

    def oldest(self, group: G) -> tuple[K, V]:
        """Return the key and the value of the oldest entry of a group. Raises KeyError if the group has no entries."""
        return next(iter(self._groups[group].items()))

    def pop(self, group: G, key: K) -> V | None:
        """Remove ``key`` from a group. Return its value, or None if the group does not have it."""
        entries = self._groups.get(group)
        if entries is None or key not in entries:
            return None
        value = entries.pop(key)
        self._length -= 1
        if not entries:
            del self._groups[group]
        return value

    def pop_oldest(self, group: G) -> tuple[K, V]:
        """Remove the oldest entry of a group. Return its key and value. Raises KeyError if the group has no entries."""
        entries = self._groups[group]
        oldest = entries.popitem(last=False)
        self._length -= 1
        if not entries:
            del self._groups[group]
        return oldest

    def move_to_end(self, group: G) -> None:
        """Make a group the last one, if it has entries."""
        if group in self._groups:
            self._groups.move_to_end(group)
