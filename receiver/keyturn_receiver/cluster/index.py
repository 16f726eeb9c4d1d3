"""An index from names to targets, frugal where most names have one."""

from keyturn_receiver.core.binding import Target


class Index:
    """Targets by name; a set is made only where there are several."""

    def __init__(self) -> None:
        self._by_name: dict[str, Target | set[Target]] = {}

    def of(self, name: str) -> set[Target]:
        """The targets of one name; a set of the caller's own."""
        found = self._by_name.get(name)
        return set() if found is None else {found} if isinstance(found, Target) else set(found)

    def add(self, name: str, target: Target) -> None:
        found = self._by_name.setdefault(name, target)
        if isinstance(found, set):
            found.add(target)
        elif found != target:
            self._by_name[name] = {found, target}

    def discard(self, name: str, target: Target) -> None:
        found = self._by_name.get(name)
        if isinstance(found, set):
            found.discard(target)
        if not found or found == target:
            self._by_name.pop(name, None)
