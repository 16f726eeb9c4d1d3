"""A map that counts how many of its keys are looked at. It shows that work does not grow with what a tenant writes."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

V = TypeVar("V")


class CountedMap(Mapping[str, V]):
    """A map. ``looks`` is the number of keys that were looked at, in look-ups and in iterations."""

    def __init__(self, content: Mapping[str, V]) -> None:
        self._content = content
        self.looks = 0

    def __getitem__(self, key: str) -> V:
        self.looks += 1
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        for key in self._content:
            self.looks += 1
            yield key

    def __len__(self) -> int:
        return len(self._content)
