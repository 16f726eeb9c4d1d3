"""Fair queues, one for each priority. In each queue, the namespaces take turns.

Within a namespace, the groups take turns. A group consists of the bindings that wait for the same AWS secret. The
design is that of https://pkg.go.dev/sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue, with groups added.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeVar

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.request import PRIORITIES, Cause

T = TypeVar("T", bound=Hashable)

Groups = OrderedDict[Hashable, OrderedDict[Target, None]]


class FairQueue:
    """Fair queue of targets. Namespaces take turns, and so do the groups of a namespace.

    A namespace with many groups does not keep other namespaces waiting. A large group does not keep other groups
    waiting.
    """

    def __init__(self) -> None:
        self._namespaces: OrderedDict[str, Groups] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, target: Target, group: Hashable) -> None:
        """Put ``target`` at the end of its group."""
        groups = self._namespaces.setdefault(target.namespace, OrderedDict())
        groups.setdefault(group, OrderedDict())[target] = None
        self._length += 1

    def discard(self, target: Target, group: Hashable) -> None:
        """Remove ``target`` from the queue, from any position in its group."""
        groups = self._namespaces[target.namespace]
        del groups[group][target]
        self._length -= 1
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._namespaces[target.namespace]

    def pop(
        self, is_full: Callable[[str, Hashable], bool], namespace_is_full: Callable[[str], bool]
    ) -> tuple[Target, Hashable] | None:
        """Remove the next target from the queue. Return the target and its group, or None if there is no target to
        take. Full namespaces and full groups are skipped. ``is_full`` is called with a namespace and a group."""
        for namespace, groups in self._namespaces.items():
            if namespace_is_full(namespace):
                continue
            for group, targets in groups.items():
                if not is_full(namespace, group):
                    target = next(iter(targets))
                    groups.move_to_end(group)
                    self._namespaces.move_to_end(namespace)
                    self.discard(target, group)
                    return target, group
        return None


class PriorityQueues:
    """Fair queues, one for each priority. At most ``slots`` targets can be taken at the same time.

    Background work takes at most half of the slots, so that the other slots stay free for notifications. A group takes
    at most a quarter of the slots, so that slow reads of one AWS secret delay only the bindings of this secret. The
    notifications of one namespace take at most half of all slots. The background work of one namespace takes at most
    half of the slots for background work, or two slots if that is more. Of the slots for a group, one namespace leaves
    a quarter, rounded down, to other namespaces.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._background_slots = max(1, slots // 2)
        self._group_slots = max(1, slots // 4)
        self._part_slots = self._group_slots - self._group_slots // 4  # slots that one namespace may take in one group
        # Slots that one namespace may take. The key is true for background work.
        self._namespace_slots = {False: max(1, slots // 2), True: max(2, slots // 4)}
        self._queues = {cause: FairQueue() for cause in PRIORITIES}
        self._in_flight: Counter[Hashable] = Counter()
        self._in_namespace: Counter[tuple[str, bool]] = Counter()
        self._in_part: Counter[tuple[str, Hashable]] = Counter()
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
        """Take a slot for the next target. Return the target and its priority, or None if no target can be taken now.
        The caller has to ``release`` the slot."""
        if self._taken >= self._slots:
            return None
        for priority, queue in self._queues.items():
            background = priority is not Cause.NOTIFICATION
            if background and self._background >= self._background_slots:
                return None
            if taken := queue.pop(self._is_full, partial(self._namespace_is_full, background=background)):
                target, group = taken
                self._taken += 1
                self._in_flight[group] += 1
                self._in_part[target.namespace, group] += 1
                self._in_namespace[target.namespace, background] += 1
                self._background += background
                return target, priority
        return None

    def release(self, target: Target, group: Hashable, priority: Cause) -> None:
        """Free the slot of a target that was taken from ``group`` with ``priority``."""
        background = priority is not Cause.NOTIFICATION
        self._taken -= 1
        self._background -= background
        _decrease(self._in_flight, group)
        _decrease(self._in_part, (target.namespace, group))
        _decrease(self._in_namespace, (target.namespace, background))

    def share_is_full(self, namespace: str, group: Hashable) -> bool:
        """Return whether a namespace has taken its full share of the slots for notifications, or its full share of the
        slots for ``group``."""
        return self._namespace_is_full(namespace, background=False) or self._part_is_full(namespace, group)

    def _is_full(self, namespace: str, group: Hashable) -> bool:
        return self._in_flight[group] >= self._group_slots or self._part_is_full(namespace, group)

    def _part_is_full(self, namespace: str, group: Hashable) -> bool:
        return self._in_part[namespace, group] >= self._part_slots

    def _namespace_is_full(self, namespace: str, background: bool) -> bool:
        return self._in_namespace[namespace, background] >= self._namespace_slots[background]


def _decrease(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
