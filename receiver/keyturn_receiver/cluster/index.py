"""Reverse index from names to targets. It saves memory in the usual case, in which a name has only one target."""

from keyturn_receiver.core.binding import Target


class Index:
    """Reverse index from names to targets. A set is made only when a name gets a second target."""

    def __init__(self) -> None:
        self._by_name: dict[str, Target | set[Target]] = {}

    def of(self, name: str) -> set[Target]:
        """Return the targets of one name as a new set, which the caller may modify."""
        entry = self._by_name.get(name)
        return set() if entry is None else {entry} if isinstance(entry, Target) else set(entry)

    def add(self, name: str, target: Target) -> None:
        entry = self._by_name.setdefault(name, target)
        if isinstance(entry, set):
            entry.add(target)
        elif entry != target:
            self._by_name[name] = {entry, target}

    def discard(self, name: str, target: Target) -> None:
        entry = self._by_name.get(name)
        if isinstance(entry, set):
            entry.discard(target)
        if not entry or entry == target:
            self._by_name.pop(name, None)
