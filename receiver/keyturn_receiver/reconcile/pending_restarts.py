"""Pending restarts: consumers that a reconcile has not restarted after it wrote their Secret, because its time was
over, or because the consumers wait for their turn.

While such a consumer has the same pod template, all its pods count as older than that write, so the next reconcile need
not list the pods. This memory only saves calls. If it is lost, such as in a crash, the next reconcile looks at the ages
of the pods.
"""

import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field, replace

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

    ``left`` has the consumers that are left to restart, each with its ``Consumer.specified`` at the write. In the
    reconcile that writes, these are all consumers that it knows. ``is_kept`` is true in the later reconciles.
    """

    after: Record
    before: Record
    left: dict[WorkloadRef, int | None] = field(default_factory=dict)
    is_kept: bool = False

    def before_of(self, consumer: Consumer, secret_name: str, record: Record, unchanged: bool) -> Record | None:
        """Return the record before the write if all pods of a consumer are older than the write, and otherwise None.

        ``record`` is the present record of the Secret. ``unchanged`` is true if the consumer has not changed since the
        start of the reconcile. The generation of a consumer shows whether somebody else has replaced its pods since the
        write, for example with ``kubectl rollout restart``. It may also change for other reasons, such as another
        number of replicas.
        """
        if record.revisions != self.after.revisions:
            return None
        if not self.is_kept and unchanged:
            return self.before
        if consumer.ref not in self.left or self.left[consumer.ref] != consumer.specified:
            return None
        return self.before if has_mark_of(consumer, secret_name, self.before) else None


def write_of(after: Record, before: Record, consumers: Iterable[Consumer]) -> Write:
    """Return a write that this reconcile has made. ``consumers`` are all consumers that it knows."""
    return Write(after, before, {each.ref: each.specified for each in consumers})


class PendingRestarts:
    """Remembers the pending restarts of a bounded number of Secrets. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._writes: ExpiringMap[Target, Write] = ExpiringMap(MAX_TARGETS, SECONDS, now)

    def get(self, target: Target) -> Write | None:
        """Return the last write of a Secret if consumers are left to restart for it, and otherwise None."""
        return self._writes.get(target)

    def keep(self, target: Target, write: Write, left: Set[WorkloadRef]) -> None:
        """Remember those consumers of ``write.left`` that are still left to restart. If none are left, forget the
        write. A write that was remembered before is remembered for SECONDS in all."""
        still_left = {ref: specified for ref, specified in write.left.items() if ref in left}
        if not still_left:
            self._writes.pop(target)
            return
        kept = replace(write, left=still_left, is_kept=True)
        (self._writes.update if write.is_kept else self._writes.put)(target, kept)

    def note_annotated(self, before: Consumer, after: Consumer) -> None:
        """Note a write of Keyturn that has changed nothing but annotations of a consumer itself. ``after`` is the
        result of the write. The pods stay as they are, but a Deployment has a new generation after such a write."""
        for name in before.reads:
            write = self._writes.get(Target(before.ref.namespace, name))
            if write and before.ref in write.left and write.left[before.ref] == before.specified:
                write.left[before.ref] = after.specified
