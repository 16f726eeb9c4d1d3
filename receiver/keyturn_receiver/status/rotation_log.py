"""Ring buffer of the last rotations, with the time of each leg.

The log decorates the handler of notifications, the function that reconciles, and the spans of the legs. No part depends
on the log, and its content is lost when the process ends.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from keyturn_contract.message import EventType, Notification, Outcome, Result
from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.arn import full_name
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.rollout import present_mark
from keyturn_receiver.errors import Temporary
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.status.fault_barrier import FaultBarrier
from keyturn_receiver.status.foreign_writes import ForeignWrites
from keyturn_receiver.status.rotation import (
    MAX_CONSUMERS,
    MAX_SECRETS,
    MAX_TEXT,
    ConsumerRollout,
    RolloutLeg,
    Rotation,
    SecretFill,
)
from keyturn_receiver.telemetry.legs import Leg
from keyturn_receiver.telemetry.tracing import Span

MAX_ROTATIONS = 200
MAX_ALL_ROLLOUTS = 5000  # rollouts of all rotations in the ring
MAX_LOOKED_AT = 20  # rotations among which that of another replica's write is looked for
CLOCK_SECONDS = 2  # by which the API server's clock may be behind this replica's

Reconcile = Callable[[Target, Request], Awaitable[ReconcileResult]]


class Change:
    """The kinds of changes with which the handlers are called."""

    DELIVERY, APPLIED, ROLLOUT = "delivery", "applied", "rollout"


class Handler(Protocol):
    """A handler of notifications (``web/notification_handler.py``)."""

    async def handle(
        self, notification: Notification, deadline: Callable[[], float], keeps_running: Callable[[], bool] = ...
    ) -> Result: ...


@dataclass(slots=True)
class _Run:
    """A running reconcile, with the time at which each leg last ended."""

    legs: dict[str, float] = field(default_factory=dict)


_run: ContextVar[_Run | None] = ContextVar("run", default=None)


class RotationLog:
    """Ring buffer. ``wall`` returns the time in seconds since 1970."""

    def __init__(self, secrets: SecretCache, consumers: ConsumerIndex, wall: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._consumers = consumers
        self._wall = wall
        self._rotations: OrderedDict[str, Rotation] = OrderedDict()  # oldest first
        self._arriving: dict[str, Rotation] = {}  # notifications that may concern no binding
        self._latest: dict[Target, Rotation] = {}  # the newest rotation of each Secret in the ring
        self._handlers: list[Callable[[Rotation, str], None]] = []
        self._writes = ForeignWrites()
        self._barrier = FaultBarrier()
        self._rollouts = 0  # of all rotations in the ring
        self._made = 0  # ids that were made here
        self.total = 0  # rotations since the start

    def add_handler(self, on_change: Callable[[Rotation, str], None]) -> None:
        """Register ``on_change``, which is called with a rotation and the kind of its change (``Change``)."""
        self._handlers.append(on_change)

    def newest_first(self) -> Iterator[Rotation]:
        """Yield the rotations, newest first."""
        return reversed(self._rotations.values())

    def of(self, target: Target) -> list[Rotation]:
        """Return the rotations of one Secret, newest first."""
        return [rotation for rotation in self.newest_first() if target in rotation.fills]

    def handling(self, handler: Handler) -> Handler:
        """Return a handler that also keeps what is delivered."""
        return _RecordingHandler(self, handler, self._barrier)

    def recorded(self, reconcile: Reconcile) -> Reconcile:
        """Decorate a reconcile function, so that its results are also kept here."""

        async def run(target: Target, request: Request) -> ReconcileResult:
            call = self._barrier.call
            call(self._begin, target, request)
            legs, changed = _Run(), False
            token = _run.set(legs)
            call(self._writes.begin, target)
            try:
                result = await reconcile(target, request)
                changed = result.changed
            finally:
                call(self._writes.finish, target, changed)
                _run.reset(token)
            call(self._finish, target, request, result, legs)
            return result

        return run

    def traced(self, span: Span) -> Span:
        """Decorate a function that opens spans, so that the end of each leg of a reconcile is also kept here."""

        def open_span(name: str, event_ids: Sequence[str] = (), **attributes: str) -> AbstractContextManager[Any]:
            opened, run = span(name, event_ids, **attributes), _run.get()
            return opened if run is None else self._timed(opened, run, name)

        return open_span

    @contextmanager
    def _timed(self, opened: AbstractContextManager[Any], run: _Run, name: str) -> Iterator[Any]:
        with opened as span:
            yield span
        self._barrier.call(self._end_leg, run, name)

    def _end_leg(self, run: _Run, name: str) -> None:
        run.legs[name] = self._wall()

    # --- Notifications

    def arrived(self, notification: Notification) -> None:
        """Keep a notification. The first reconcile that serves the notification puts it into the ring."""
        known = self._rotations.get(notification.id)
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
            self._wall(),
            _seconds(notification.time),
        )

    def answered(self, notification: Notification, result: Result | None) -> None:
        """Keep the answer to a notification. ``result`` is None if there was no answer."""
        self._arriving.pop(notification.id, None)
        rotation = self._rotations.get(notification.id)
        if rotation is None or result is None:
            return
        rotation.answered_at, rotation.outcome = self._wall(), result.outcome.value
        rotation.reason = printable(result.reason or "")[:MAX_TEXT] if result.outcome is not Outcome.APPLIED else ""
        self._report(rotation, Change.DELIVERY)

    # --- Reconciles

    def _begin(self, target: Target, request: Request) -> None:
        begun = []
        for event_id in request.event_ids:
            if arriving := self._arriving.pop(event_id, None):
                self._add(arriving)
            if (rotation := self._rotations.get(event_id)) and self._fill(rotation, target):
                begun.append(rotation)
        for rotation in begun:
            self._report(rotation, Change.DELIVERY)

    def _finish(self, target: Target, request: Request, result: ReconcileResult, run: _Run) -> None:
        rotations = [self._rotations[each] for each in request.event_ids if each in self._rotations]
        latest = self._latest.get(target)
        if not rotations and result.changed and Cause.POLL in request.causes:
            rotations = [self._polled(target, request, result)]
        elif not rotations and latest and (result.restarted or not result.changed):
            rotations = [latest]  # a retry, or a restart whose turn came later
        for rotation in rotations:
            is_kept = rotation.id in self._rotations  # the one before it may have taken its room
            if is_kept and (fill := self._fill(rotation, target)):
                self._keep(rotation, fill, result, run)
                self._report(rotation, Change.APPLIED)

    def _keep(self, rotation: Rotation, fill: SecretFill, result: ReconcileResult, run: _Run) -> None:
        now, error = self._wall(), result.error
        fill.done_at = fill.done_at or now
        fill.fetched_at = run.legs.get(Leg.FETCH, fill.fetched_at)
        if result.changed:
            fill.changed, fill.applied_at = True, run.legs.get(Leg.APPLY, now)
        fill.reason, fill.error = (error.reason, printable(str(error))[:MAX_TEXT]) if error else ("", "")
        fill.is_temporary = isinstance(error, Temporary)
        for ref in result.restarted:
            rollout = fill.consumers.get(ref) or self._add_consumer(rotation, fill, ref)
            consumer = self._consumers.get(ref, fill.target)
            if rollout and consumer:
                self._follow(fill, rollout, consumer)

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
            self._wall(),
            told_at,
        )
        self._add(rotation)
        return rotation

    def _keep_foreign(self, bound: BoundSecret) -> None:
        """Keep another replica's write of a Secret in the rotation to which it belongs."""
        versions, now = set(bound.record.version_ids.values()), self._wall()
        recent = islice(self.newest_first(), MAX_LOOKED_AT)
        rotation = next((each for each in recent if each.version in versions), None)
        if rotation is None:
            version = next(iter(sorted(versions)), "")
            rotation = self._made_here("replica", bound.target, version, bound.record.moved_at)
        if fill := self._fill(rotation, bound.target):
            fill.changed, fill.applied_at, fill.done_at = True, fill.applied_at or now, fill.done_at or now
            self._report(rotation, Change.APPLIED)

    def _add(self, rotation: Rotation) -> None:
        self.total += 1
        self._rotations[rotation.id] = rotation
        if len(self._rotations) > MAX_ROTATIONS:
            self._forget_oldest(rotation)

    def _forget_oldest(self, kept: Rotation) -> None:
        oldest = next(each for each in self._rotations.values() if each is not kept)
        del self._rotations[oldest.id]
        self._rollouts -= oldest.size
        for target in oldest.fills:
            if self._latest.get(target) is oldest:
                del self._latest[target]

    def _add_consumer(self, rotation: Rotation, fill: SecretFill, ref: WorkloadRef) -> ConsumerRollout | None:
        rollout = rotation.add_consumer(fill, ref, self._wall())
        self._rollouts += rollout is not None
        while self._rollouts > MAX_ALL_ROLLOUTS:
            self._forget_oldest(rotation)
        return rollout

    def _fill(self, rotation: Rotation, target: Target) -> SecretFill | None:
        fill = rotation.fills.get(target)
        if fill is None and len(rotation.fills) < MAX_SECRETS:
            fill = rotation.fills[target] = SecretFill(target, self._wall())
            if (before := self._latest.get(target)) and before is not rotation:
                for each in before.fills[target].consumers.values():
                    each.end(RolloutLeg.SUPERSEDED)
            self._latest[target] = rotation
        elif fill is None:
            rotation.has_more = True
        return fill

    # --- Rollouts

    def on_progress(self, before: Consumer | None, after: Consumer) -> None:
        """Look at a consumer whose rollout has made progress or has fallen back."""
        if not self._latest:
            return
        for name in after.reads:
            target = Target(after.ref.namespace, name)
            if rotation := self._latest.get(target):
                self._look(rotation, rotation.fills[target], after)

    def on_secret(self, target: Target) -> None:
        """Look at the consumers of a changed Secret. The watch may have shown a mark before the Secret."""
        bound = self._secrets.get(target)
        # Only a record with a valid keyed hash counts, because a tenant can write any version ids into the annotation.
        is_proven = bound is None or bound.integrity is Integrity.INTACT
        if is_proven and self._writes.is_foreign(target, bound.versions_text if bound else None) and bound:
            self._keep_foreign(bound)
        if rotation := self._latest.get(target):
            for consumer in islice(self._consumers.of(target), MAX_CONSUMERS):
                self._look(rotation, rotation.fills[target], consumer)

    def on_unread(self, ref: WorkloadRef, target: Target) -> None:
        """Stop following a consumer that is gone or no longer reads a Secret."""
        rotation = self._latest.get(target)
        rollout = rotation.fills[target].consumers.get(ref) if rotation else None
        if rotation and rollout and rollout.end(RolloutLeg.GONE):
            self._report(rotation, Change.ROLLOUT)

    def _look(self, rotation: Rotation, fill: SecretFill, consumer: Consumer) -> None:
        progress, known = consumer.progress, fill.consumers.get(consumer.ref)
        if progress is None or not (consumer.marks or consumer.by_time):
            return
        if known is None and (progress.marked_at or 0) < int(fill.started_at) - CLOCK_SECONDS:
            return  # its mark is of an earlier change
        rollout = known or self._new(rotation, fill, consumer)
        if rollout and (self._follow(fill, rollout, consumer) or not known):
            self._report(rotation, Change.ROLLOUT)

    def _new(self, rotation: Rotation, fill: SecretFill, consumer: Consumer) -> ConsumerRollout | None:
        return self._add_consumer(rotation, fill, consumer.ref) if self._has_mark(fill, consumer) else None

    def _follow(self, fill: SecretFill, rollout: ConsumerRollout, consumer: Consumer) -> bool:
        return self._has_mark(fill, consumer) and rollout.follow(consumer, self._wall())

    def _has_mark(self, fill: SecretFill, consumer: Consumer) -> bool:
        bound = self._secrets.get(fill.target)
        return bound is not None and present_mark(consumer, fill.target.name, bound.record) is not None

    def _report(self, rotation: Rotation, kind: str) -> None:
        for on_change in self._handlers:
            on_change(rotation, kind)


class _RecordingHandler:
    """Decorator of a handler of notifications."""

    def __init__(self, log: RotationLog, handler: Handler, barrier: FaultBarrier) -> None:
        self._log = log
        self._handler = handler
        self._barrier = barrier

    async def handle(
        self,
        notification: Notification,
        deadline: Callable[[], float],
        keeps_running: Callable[[], bool] = lambda: True,
    ) -> Result:
        if notification.type is EventType.HEARTBEAT:
            return await self._handler.handle(notification, deadline, keeps_running)
        self._barrier.call(self._log.arrived, notification)
        result: Result | None = None
        try:
            result = await self._handler.handle(notification, deadline, keeps_running)
        finally:
            self._barrier.call(self._log.answered, notification, result)
        return result


def _seconds(time_of_event: str) -> float | None:
    try:
        told = datetime.fromisoformat(time_of_event)
    except ValueError:
        return None
    return told.timestamp() if told.tzinfo else None
