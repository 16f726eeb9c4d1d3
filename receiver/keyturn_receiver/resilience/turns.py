"""Turns: an order of items. An owner of many items does not delay the items of other owners."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def take_turns(items: Iterable[T], owner: Callable[[T], Hashable]) -> list[T]:
    """Return the items in an order in which the owners take turns: the first item of each owner, then the second item
    of each owner, and so on. The items of one owner keep their order."""
    counts: Counter[Hashable] = Counter()
    turns: list[tuple[int, T]] = []
    for item in items:
        counts[owner(item)] += 1
        turns.append((counts[owner(item)], item))
    return [item for _, item in sorted(turns, key=lambda turn: turn[0])]
