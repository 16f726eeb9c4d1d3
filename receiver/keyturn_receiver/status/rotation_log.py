"""Log of the last rotations, with the time of each leg (step).

The decorators in ``rotation_recorder`` and the handlers of the caches write the log. Its content is lost when the
process ends.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice

from keyturn_contract.message import Notification, Outcome, Result
from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.arn import full_name
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.mark import present_mark
from keyturn_receiver.core.printable import printable
from keyturn_receiver.errors import Temporary
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.status.foreign_writes import ForeignWrites
from keyturn_receiver.status.rotation import (
    MAX_CONSUMERS,
    MAX_TEXT,
    ConsumerRollout,
    RolloutLeg,
    Rotation,
    SecretFill,
)
from keyturn_receiver.status.rotation_ring import RotationRing
from keyturn_receiver.telemetry.legs import Leg

MAX_LOOKED_AT = 20  # at most this many rotations are searched for the one to which another replica's write belongs
CLOCK_SECONDS = 2  # seconds by which the API server's clock may be behind this replica's clock


class Change:
    """Kinds of changes. A handler gets the kind of the change as its second argument."""

    DELIVERY, APPLIED, ROLLOUT = "delivery", "applied", "rollout"


class RotationLog:
    """Log of rotations. ``wall`` returns the time in seconds since 1970.

    ``ring`` has the rotations. ``writes`` finds the writes of other replicas.
    """

    def __init__(self, secrets: SecretCache, consumers: ConsumerIndex, wall: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._consumers = consumers
        self.wall = wall
        self.ring = RotationRing()
        self.writes = ForeignWrites()
        self._arriving: dict[str, Rotation] = {}  # by event id: rotations that no reconcile has served
        self._handlers: list[Callable[[Rotation, str], None]] = []
        self._made = 0  # the number of rotation ids that were generated here

    def add_handler(self, on_change: Callable[[Rotation, str], None]) -> None:
        """Register ``on_change``, which is called with a rotation and the kind of its change (``Change``)."""
        self._handlers.append(on_change)

    # --- Notifications

    def arrived(self, notification: Notification) -> None:
        """Record a notification. The first reconcile that serves the notification puts it into the ring."""
        known = self.ring.get(notification.id)
        if known:
            known.attempts += 1
            return
        data = notification.data
        name = data.name or (full_name(notification.subject) if notification.subject.startswith("arn:") else "")
        self._arriving[notification.id] = Rotation(
            notification.id,
            "event",
            printable(name or notification.subject),
            printable(data.version_id or ""),
            printable(data.label or ""),
            self.wall(),
            _seconds(notification.time),
        )

    def answered(self, notification: Notification, result: Result | None) -> None:
        """Record the answer to a notification. ``result`` is None if there was no answer."""
        self._arriving.pop(notification.id, None)
        rotation = self.ring.get(notification.id)
        if rotation is None or result is None:
            return
        rotation.answered_at, rotation.outcome = self.wall(), result.outcome.value
        rotation.reason = printable(result.reason or "")[:MAX_TEXT] if result.outcome is not Outcome.APPLIED else ""
        self._report(rotation, Change.DELIVERY)

    # --- Reconciles

    def begun(self, target: Target, request: Request) -> None:
        """Record the start of a reconcile."""
        begun = []
        for event_id in request.event_ids:
            if arriving := self._arriving.pop(event_id, None):
                self.ring.add(arriving)
            if (rotation := self.ring.get(event_id)) and self.ring.fill(rotation, target, self.wall()):
                begun.append(rotation)
        for rotation in begun:
            self._report(rotation, Change.DELIVERY)

    def finished(self, target: Target, request: Request, result: ReconcileResult, legs: Mapping[str, float]) -> None:
        """Record the result of a reconcile. ``legs`` are the times at which the legs ended."""
        rotations = [known for each in request.event_ids if (known := self.ring.get(each))]
        latest = self.ring.latest(target)
        if not rotations and result.changed and Cause.POLL in request.causes:
            rotations = [self._polled(target, request, result)]
        elif not rotations and latest and (result.restarted or not result.changed):
            rotations = [latest]  # this is a retry, or a restart that had to wait
        for rotation in rotations:
            is_kept = self.ring.get(rotation.id) is not None  # an earlier rotation in this loop may have evicted it
            if is_kept and (fill := self.ring.fill(rotation, target, self.wall())):
                self._keep(rotation, fill, result, legs)
                self._report(rotation, Change.APPLIED)

    def _keep(self, rotation: Rotation, fill: SecretFill, result: ReconcileResult, legs: Mapping[str, float]) -> None:
        now, error = self.wall(), result.error
        fill.done_at = fill.done_at or now
        fill.fetched_at = legs.get(Leg.FETCH, fill.fetched_at)
        if result.changed:
            fill.changed, fill.applied_at = True, legs.get(Leg.APPLY, now)
        fill.reason, fill.error = (error.reason, printable(str(error))[:MAX_TEXT]) if error else ("", "")
        fill.is_temporary = isinstance(error, Temporary)
        for ref in result.restarted:
            rollout = fill.consumers.get(ref) or self.ring.add_consumer(rotation, fill, ref, self.wall())
            consumer = self._consumers.get(ref, fill.target)
            if rollout and consumer:
                self._follow(fill, rollout, consumer)
        if self._secrets.get(fill.target) is None:
            fill.end(now)  # the Secret went while it was reconciled, so there is no retry

    def _polled(self, target: Target, request: Request, result: ReconcileResult) -> Rotation:
        version = next(iter(sorted(request.expected & result.version_ids or result.version_ids)), "")
        return self._made_here("poll", target, version, request.moved_at.get(version))

    def _made_here(self, cause: str, target: Target, version: str, told_at: float | None) -> Rotation:
        self._made += 1
        bound = self._secrets.get(target)
        sources = bound.spec.sources if bound else ()
        rotation = Rotation(
            f"{cause}-{self._made}",
            cause,
            printable(", ".join(source.secret_id for source in sources)),
            printable(version),
            sources[0].stage if sources else "",
            self.wall(),
            told_at,
        )
        self.ring.add(rotation)
        return rotation

    def _keep_foreign(self, bound: BoundSecret) -> None:
        """Record another replica's write of a Secret in the rotation that has caused the write."""
        versions, now = set(bound.record.version_ids.values()), self.wall()
        recent = islice(self.ring.newest_first(), MAX_LOOKED_AT)
        rotation = next((each for each in recent if each.version in versions), None)
        if rotation is None:
            version = next(iter(sorted(versions)), "")
            rotation = self._made_here("replica", bound.target, version, bound.record.moved_at)
        if fill := self.ring.fill(rotation, bound.target, self.wall()):
            fill.changed, fill.applied_at, fill.done_at = True, fill.applied_at or now, fill.done_at or now
            self._report(rotation, Change.APPLIED)

    # --- Rollouts

    def on_progress(self, before: Consumer | None, after: Consumer) -> None:
        """Update the rollout of a consumer after a change of the consumer's progress."""
        if not self.ring.has_fills:
            return
        for name in after.reads:
            target = Target(after.ref.namespace, name)
            if rotation := self.ring.latest(target):
                self._look(rotation, rotation.fills[target], after)

    def on_secret(self, target: Target) -> None:
        """Update the rollouts of the consumers of a changed Secret. The watch may have shown a consumer's mark before
        the change of the Secret.

        If the Secret is deleted or no longer bound, end its fills and rollouts, because nothing continues them.
        """
        bound = self._secrets.get(target)
        # Only a record with a valid keyed hash counts, because a tenant can write any version ids into the annotation.
        is_proven = bound is None or bound.integrity is Integrity.INTACT
        if is_proven and self.writes.is_foreign(target, bound.versions_text if bound else None) and bound:
            self._keep_foreign(bound)
        if bound is None:
            self._end(target)
        elif rotation := self.ring.latest(target):
            for consumer in islice(self._consumers.of(target), MAX_CONSUMERS):
                self._look(rotation, rotation.fills[target], consumer)

    def _end(self, target: Target) -> None:
        if self.ring.latest(target) is None:
            return
        for rotation in self.ring.of(target):
            if rotation.fills[target].end(self.wall()):
                self._report(rotation, Change.APPLIED)

    def on_unread(self, ref: WorkloadRef, target: Target) -> None:
        """End the rollout of a consumer that is gone or no longer reads a Secret."""
        rotation = self.ring.latest(target)
        rollout = rotation.fills[target].consumers.get(ref) if rotation else None
        if rotation and rollout and rollout.end(RolloutLeg.GONE):
            self._report(rotation, Change.ROLLOUT)

    def _look(self, rotation: Rotation, fill: SecretFill, consumer: Consumer) -> None:
        progress, known = consumer.progress, fill.consumers.get(consumer.ref)
        if progress is None or not (consumer.marks or consumer.by_time):
            return
        if known is None and (progress.marked_at or 0) < int(fill.started_at) - CLOCK_SECONDS:
            return  # the mark is from an earlier change of the Secret
        rollout = known or self._new(rotation, fill, consumer)
        if rollout and (self._follow(fill, rollout, consumer) or not known):
            self._report(rotation, Change.ROLLOUT)

    def _new(self, rotation: Rotation, fill: SecretFill, consumer: Consumer) -> ConsumerRollout | None:
        if not self._has_mark(fill, consumer):
            return None
        return self.ring.add_consumer(rotation, fill, consumer.ref, self.wall())

    def _follow(self, fill: SecretFill, rollout: ConsumerRollout, consumer: Consumer) -> bool:
        return self._has_mark(fill, consumer) and rollout.follow(consumer, self.wall())

    def _has_mark(self, fill: SecretFill, consumer: Consumer) -> bool:
        bound = self._secrets.get(fill.target)
        return bound is not None and present_mark(consumer, fill.target.name, bound.record) is not None

    def _report(self, rotation: Rotation, kind: str) -> None:
        for on_change in self._handlers:
            on_change(rotation, kind)


def _seconds(time_of_event: str) -> float | None:
    try:
        told = datetime.fromisoformat(time_of_event)
    except ValueError:
        return None
    return told.timestamp() if told.tzinfo else None
