"""Pending restarts: consumers that a reconcile has not restarted after it wrote their Secret, because its time was
over, or because the consumers wait for their turn.

All pods of these consumers are older than that write, so the next reconcile need not list the pods. This memory only
saves calls. If it is lost, such as in a crash, the next reconcile looks at the ages of the pods.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.mark import has_mark_of
from keyturn_receiver.core.revision import Record
from keyturn_receiver.resilience.bounded_map import ExpiringMap

MAX_TARGETS = 1000  # Secrets whose pending restarts are remembered
# Seconds for which a write is remembered. In a longer time, somebody may revert a pod template. So after this time, the
# ages of the pods decide.
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Write:
    """A write of the record ``after`` in place of ``before``.

    ``left`` has the consumers that are left to restart. All their pods are older than the write. None stands for all
    consumers that the writing reconcile knew.
    """

    after: Record
    before: Record
    left: frozenset[WorkloadRef] | None = None

    def before_of(self, consumer: Consumer, secret_name: str, record: Record, unchanged: bool) -> Record | None:
        """Return the record before the write if all pods of a consumer are older than the write, and otherwise None.

        ``record`` is the present record of the Secret. ``unchanged`` is true if the consumer has not changed since the
        start of the reconcile.
        """
        if record.revisions != self.after.revisions:
            return None
        if self.left is None and unchanged:
            return self.before
        if self.left is not None and consumer.ref not in self.left:
            return None
        return self.before if has_mark_of(consumer, secret_name, self.before) else None


class PendingRestarts:
    """Remembers the pending restarts of a bounded number of Secrets. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._writes: ExpiringMap[Target, Write] = ExpiringMap(MAX_TARGETS, SECONDS, now)

    def get(self, target: Target) -> Write | None:
        """Return the last write of a Secret if consumers are left to restart for it, and otherwise None."""
        return self._writes.get(target)

    def keep(self, target: Target, write: Write, left: frozenset[WorkloadRef]) -> None:
        """Remember the consumers that are left to restart after a write. If none are left, forget the write. A write
        that was remembered before is remembered for SECONDS in all."""
        if not left:
            self._writes.pop(target)
            return
        is_new = write.left is None
        (self._writes.put if is_new else self._writes.update)(target, replace(write, left=left))
