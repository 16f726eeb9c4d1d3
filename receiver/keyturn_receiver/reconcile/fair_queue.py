"""The lines that bindings wait in: one for each priority, and in each line AWS secrets take turns."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.request import PRIORITIES, Cause


class FairQueue:
    """Targets that wait, by group: groups take turns, so that a large one keeps nobody else waiting."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, OrderedDict[Target, None]] = OrderedDict()
        self._group_of: dict[Target, Hashable] = {}

    def __len__(self) -> int:
        return len(self._group_of)

    def add(self, target: Target, group: Hashable) -> None:
        """Let ``target`` wait at the end of its group."""
        self._group_of[target] = group
        self._groups.setdefault(group, OrderedDict())[target] = None

    def discard(self, target: Target) -> None:
        """Take ``target`` out of the line, wherever it stands."""
        if target not in self._group_of:
            return
        group = self._group_of.pop(target)
        del self._groups[group][target]
        if not self._groups[group]:
            del self._groups[group]

    def next(self, is_full: Callable[[Hashable], bool]) -> Target | None:
        """Take the next target out of the line, passing over groups that are full."""
        group = next((group for group in self._groups if not is_full(group)), None)
        if group is None:
            return None
        self._groups.move_to_end(group)
        target = next(iter(self._groups[group]))
        self.discard(target)
        return target


class PriorityQueues:
    """Who waits and who is at work.

    Of ``places``, work in the background takes at most half, so that a notification always finds one; and one group at
    most a quarter, so that an AWS secret that hangs holds up those who wait for it, and nobody else.
    """

    def __init__(self, places: int, group: Callable[[Target], Hashable]) -> None:
        self._places = places
        self._background_places = max(1, places // 2)
        self._group_places = max(1, places // 4)
        self._group = group
        self._lines = {cause: FairQueue() for cause in PRIORITIES}
        self._at_work: dict[Target, tuple[Cause, Hashable]] = {}
        self._by_group: Counter[Hashable] = Counter()
        self._background = 0

    def depth(self, priority: Cause) -> int:
        """How many wait with this priority."""
        return len(self._lines[priority])

    def wait(self, target: Target, priority: Cause) -> None:
        """Put ``target`` in line."""
        self._lines[priority].add(target, self._group(target))

    def promote(self, target: Target, before: Cause, after: Cause) -> None:
        """Let ``target``, if it waits, change to a better line."""
        line = self._lines[before]
        waited = len(line)
        line.discard(target)
        if len(line) < waited:
            self.wait(target, after)

    def begin(self) -> Target | None:
        """Take the next one to work on, if there is a place for it; ``end`` must follow."""
        if len(self._at_work) >= self._places:
            return None
        for priority, line in self._lines.items():
            if priority is not Cause.NOTIFICATION and self._background >= self._background_places:
                return None
            if target := line.next(self._is_full):
                group = self._group(target)
                self._at_work[target] = (priority, group)
                self._by_group[group] += 1
                self._background += priority is not Cause.NOTIFICATION
                return target
        return None

    def end(self, target: Target) -> None:
        """Give the place of ``target`` back."""
        priority, group = self._at_work.pop(target)
        self._by_group[group] -= 1
        if not self._by_group[group]:
            del self._by_group[group]
        self._background -= priority is not Cause.NOTIFICATION

    def is_at_work(self, target: Target) -> bool:
        """Whether ``target`` is being worked on."""
        return target in self._at_work

    def _is_full(self, group: Hashable) -> bool:
        return self._by_group[group] >= self._group_places
