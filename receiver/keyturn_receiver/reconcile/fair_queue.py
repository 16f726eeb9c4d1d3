"""Fair queues. There is one for each priority, and in each queue the groups (AWS secrets) take turns.

The design is that of https://pkg.go.dev/sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue, with groups.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.request import PRIORITIES, Cause


class FairQueue:
    """Fair queue of targets. Groups take turns, so a large group does not keep the others waiting."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, OrderedDict[Target, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, target: Target, group: Hashable) -> None:
        """Put ``target`` at the end of its group."""
        self._groups.setdefault(group, OrderedDict())[target] = None
        self._length += 1

    def discard(self, target: Target, group: Hashable) -> None:
        """Remove ``target`` from the queue, wherever in its group it is."""
        del self._groups[group][target]
        self._length -= 1
        if not self._groups[group]:
            del self._groups[group]

    def pop(self, is_full: Callable[[Hashable], bool]) -> tuple[Target, Hashable] | None:
        """Remove the next target from the queue, and return it with its group. Full groups are skipped."""
        for group, targets in self._groups.items():
            if not is_full(group):
                target = next(iter(targets))
                self._groups.move_to_end(group)
                self.discard(target, group)
                return target, group
        return None


class PriorityQueues:
    """Fair queues, one for each priority. At most ``slots`` targets can be taken at the same time.

    Background work takes at most half of the slots, so that the others stay free for notifications. One group takes at
    most a quarter, so that an AWS secret that hangs holds up only its own bindings.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._background_slots = max(1, slots // 2)
        self._group_slots = max(1, slots // 4)
        self._queues = {cause: FairQueue() for cause in PRIORITIES}
        self._in_flight: Counter[Hashable] = Counter()
        self._taken = 0
        self._background = 0

    def depth(self, priority: Cause) -> int:
        """Return how many targets wait with this priority."""
        return len(self._queues[priority])

    def enqueue(self, target: Target, group: Hashable, priority: Cause) -> None:
        """Add ``target`` to the targets that wait for a slot."""
        self._queues[priority].add(target, group)

    def raise_priority(self, target: Target, group: Hashable, before: Cause, after: Cause) -> None:
        """Move ``target``, which waits for a slot, to the queue of a higher priority."""
        self._queues[before].discard(target, group)
        self.enqueue(target, group, after)

    def take(self) -> tuple[Target, Cause] | None:
        """Return the next target with its priority; None if no target or no slot is left. ``release`` must follow."""
        if self._taken >= self._slots:
            return None
        for priority, queue in self._queues.items():
            background = priority is not Cause.NOTIFICATION
            if background and self._background >= self._background_slots:
                return None
            if taken := queue.pop(self._is_full):
                target, group = taken
                self._taken += 1
                self._in_flight[group] += 1
                self._background += background
                return target, priority
        return None

    def release(self, group: Hashable, priority: Cause) -> None:
        """Free the slot of a target that was taken from ``group`` with ``priority``."""
        self._taken -= 1
        self._in_flight[group] -= 1
        if not self._in_flight[group]:
            del self._in_flight[group]
        self._background -= priority is not Cause.NOTIFICATION

    def _is_full(self, group: Hashable) -> bool:
        return self._in_flight[group] >= self._group_slots
