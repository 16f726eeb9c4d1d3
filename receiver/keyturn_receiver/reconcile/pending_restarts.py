"""Pending restarts: consumers that a reconcile had no time left to restart after it had written their Secret.

All their pods are older than that write, so the next reconcile need not list the pods of each. This only saves calls:
whatever is forgotten here, such as in a crash, the pods decide.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import has_mark_of
from keyturn_receiver.resilience.bounded_map import ExpiringMap

MAX_TARGETS = 1000  # Secrets whose pending restarts are remembered
SECONDS = 60.0  # how long; a template that somebody has reverted meanwhile is decided by its pods


@dataclass(frozen=True, slots=True)
class Write:
    """A write of ``after`` in place of ``before``. Of ``left``, all pods are older than it; None stands for everybody
    whom the reconcile that wrote it knew."""

    after: Record
    before: Record
    left: frozenset[WorkloadRef] | None = None

    def before_of(self, consumer: Consumer, secret_name: str, record: Record, unchanged: bool) -> Record | None:
        """Return the record before the write if all pods of a consumer are older than it, and otherwise None.

        ``record`` is what the Secret has now, and ``unchanged`` tells whether the consumer is as it was before.
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
        """Return the write after which consumers of a Secret are left to restart, if there are any."""
        return self._writes.get(target)

    def keep(self, target: Target, write: Write, left: frozenset[WorkloadRef]) -> None:
        """Remember the consumers that are left to restart after a write, or forget the write if there are none."""
        if left:
            self._writes.put(target, Write(write.after, write.before, left))
        else:
            self._writes.pop(target)
