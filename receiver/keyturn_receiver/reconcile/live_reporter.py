"""Reporter of rollouts. It follows each rollout that Keyturn has started until the rollout ends.

It reports the time at which the last pod runs the new value, and rollouts that make no progress. The reports about
changed templates are derived from the watches, so they survive a crash and a change of leader. The evictor tells this
reporter when evictions have ended. Every replica follows the rollouts, but only the leader writes the Events. The name
of an Event is derived from the rollout, so a new leader does not report a rollout twice.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.cluster.watched_cache import WatchedSecret
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, mark_name
from keyturn_receiver.core.mark import has_mark_of, present_mark
from keyturn_receiver.core.rollout import written_at
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.time_slice import TimeSlice
from keyturn_receiver.telemetry.metrics import Metrics

LIVE, PARTLY_LIVE, STUCK = "Live", "PartlyLive", "RolloutStuck"
MAX_ROLLOUTS = 10_000  # followed rollouts; beyond that, the namespace with the most rollouts loses its oldest one
# Seconds. A replica begins to follow a rollout only if the rollout's mark was written within this time, because later
# nothing tells whether somebody else has begun another rollout of the workload since. It reports the end of a rollout
# only within this time after the end. The API server keeps Events for an hour. So if another replica has already
# reported the rollout, the Event still exists.
RECENT = 2700
GRACE = 60  # a rollout is stuck this many seconds after its deadline, or as soon as Kubernetes reports its failure
_NOBODY = ""  # stands for the name of a Secret if a write of Keyturn restarts nobody
TICK = 5.0  # seconds between two checks of the deadlines, while there is a rollout

_log = logging.getLogger(__name__)
_Key = tuple[WorkloadRef, str]  # a workload, and the name of the Secret for which it is restarted


@dataclass(slots=True)
class _Rollout:
    """A rollout for one mark. ``furthest`` is the largest sum of updated and ready pods so far. ``moved_at`` is the
    time of the last progress, in seconds since 1970."""

    mark: str
    moved_at: float
    furthest: int = 0
    was_complete: bool = False
    told_live: bool = False
    told_partly: bool = False
    told_stuck: bool = False


class LiveReporter:
    """Live reporter. A consumer is live when its last pod runs the new value. ``is_leader`` returns whether this
    replica leads. ``wall`` returns the time in seconds since 1970."""

    def __init__(
        self,
        secrets: SecretLookup,
        restarter: ConsumerRestarter,
        workloads: WorkloadClient,
        events: EventRecorder,
        metrics: Metrics,
        is_leader: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets
        self._restarter = restarter
        self._workloads = workloads
        self._events = events
        self._metrics = metrics
        self._is_leader = is_leader
        self._wall = wall
        self._rollouts: FairMap[str, _Key, _Rollout] = FairMap(MAX_ROLLOUTS)  # by namespace
        self._stuck: set[_Key] = set()
        # By workload and name of a Secret: the time of the write that brought the mark, in seconds since 1970. _NOBODY
        # is the name for a write that has brought no mark that restarts pods.
        self._marked_at: FairMap[str, WorkloadRef, Mapping[str, int]] = FairMap(MAX_ROLLOUTS)
        # The changes since the last look. They are bounded, because they only name objects in the caches.
        self._consumers: dict[WorkloadRef, Consumer] = {}
        self._targets: dict[Target, None] = {}
        self._to_explain: dict[_Key, None] = {}  # stuck rollouts whose pods have to be read
        self._changed, self._unexplained = asyncio.Event(), asyncio.Event()

    def on_progress(self, before: Consumer | None, after: Consumer) -> None:
        """Look at a consumer whose progress, marks or hold have changed."""
        self._note_marks(before, after)
        if after.marks or after.by_time or (before and before.marks):
            self._consumers[after.ref] = after
            self._changed.set()

    def _note_marks(self, before: Consumer | None, after: Consumer) -> None:
        """Remember for which Secrets the workload has just got a mark that restarts its pods, or that Keyturn has just
        written a mark that restarts nobody."""
        if before is None or after.progress is None or after.progress.marked_at is None:
            return
        old, new = _restarting_marks(before), _restarting_marks(after)
        if old == new and before.progress and before.progress.marked_at == after.progress.marked_at:
            return
        names = {name: mark_name(name) for name in after.reads}
        changed = [name for name, mark in names.items() if mark in new and new[mark] != old.get(mark)] or [_NOBODY]
        known = self._marked_at.get(after.ref.namespace, after.ref) or {}
        noted = {**known, **dict.fromkeys(changed, after.progress.marked_at)}
        self._marked_at.put(after.ref.namespace, after.ref, noted)

    def _is_for(self, bound: BoundSecret | WatchedSecret, consumer: Consumer, marked_at: int) -> bool:
        """Return whether Keyturn's last write of a consumer, at ``marked_at``, may have restarted it for a Secret.

        The template keeps the marks of all its Secrets. Without this check, a restart for one Secret would be reported
        for each Secret that was ever rotated. A replica that has not seen the write looks at the times at which the
        Secrets were written. The restart counts for this Secret if this Secret was written shortly before
        ``marked_at``. It also counts if no other Secret with a mark was. But if the rollout is complete, the last write
        may have been a settled mark, which restarts nobody.
        """
        noted = self._marked_at.get(consumer.ref.namespace, consumer.ref) or {}
        if bound.target.name in noted:
            return marked_at - noted[bound.target.name] < RECENT
        if marked_at in noted.values():
            return False
        if self._was_written_before(bound, consumer, marked_at):
            return True
        is_complete = consumer.progress is not None and consumer.progress.is_complete
        if consumer.baseline and not consumer.by_time and is_complete:
            return False
        return not any(
            self._was_written_before(other, consumer, marked_at)
            for name in consumer.reads
            if name != bound.target.name and (other := self._secrets.get(Target(bound.target.namespace, name)))
        )

    def _was_written_before(self, bound: BoundSecret | WatchedSecret, consumer: Consumer, marked_at: int) -> bool:
        """Return whether a Secret that the consumer has a mark of was written shortly before ``marked_at``."""
        at = written_at(consumer, bound.target.name, bound.record)
        has_mark = present_mark(consumer, bound.target.name, bound.record) is not None
        return has_mark and at is not None and marked_at - at < RECENT

    def on_secret(self, target: Target) -> None:
        """Look at the consumers of a changed Secret. The watches may have shown the mark of a consumer before the
        change of the Secret."""
        if self._restarter.count(target):
            self._targets[target] = None
            self._changed.set()

    def on_unread(self, ref: WorkloadRef, target: Target) -> None:
        """Forget a consumer that is gone or no longer reads a Secret."""
        self._forget((ref, target.name))

    def on_evicted(self, target: Target, consumer: Consumer, pods: int, ready_at: int | None) -> None:
        """Report that all pods of a consumer run the new value after evictions, which change no template.

        The arguments are those of the handlers of ``PodEvictor``. If the Secret has changed in the meantime, nothing is
        reported, because its new value causes further evictions.
        """
        bound = self._secrets.get(target)
        if bound and has_mark_of(consumer, target.name, bound.record):
            change = f"evicted/{_change_of_all(bound)}"
            words = self._tell_live(consumer, bound, change, pods, self._wall() if ready_at is None else ready_at)
            message = f"{event_messages.workloads([consumer])}: {event_messages.pods(pods)} {words}"
            self._events.event(target, bound.uid, False, LIVE, message, once_for=f"{consumer.ref}/{change}")

    def on_started_leading(self) -> None:
        """Look at all rollouts, because the previous leader may not have reported them."""
        for namespace in self._rollouts:
            self._targets.update(dict.fromkeys(Target(namespace, name) for _, name in self._rollouts.of(namespace)))
        self._changed.set()

    def stuck(self) -> int:
        """Return the number of stuck rollouts, or 0 if this replica does not lead."""
        return len(self._stuck) if self._is_leader() else 0

    def is_stuck(self, ref: WorkloadRef, secret_name: str) -> bool:
        """Return whether the rollout of a workload for a Secret is stuck."""
        return (ref, secret_name) in self._stuck

    def stuck_rollouts(self) -> Collection[tuple[WorkloadRef, str]]:
        """Return the stuck rollouts. Each has the workload, and the name of the Secret for which the workload
        restarts."""
        return tuple(self._stuck)

    async def run(self) -> None:
        """Follow the rollouts until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._explain())
            now = asyncio.get_running_loop().time
            next_look = now() + TICK
            while True:
                self._changed.clear()
                await self._look_at_changed()
                if now() >= next_look:
                    await self._look_at_all()
                    next_look = now() + TICK
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK if len(self._rollouts) else None):
                        await self._changed.wait()

    async def _look_at_changed(self) -> None:
        time_slice = TimeSlice()
        while self._consumers:
            ref, consumer = self._consumers.popitem()
            for name in consumer.reads:
                self._look(ref, name)
                await time_slice.pause_if_over()
        while self._targets:
            target, _ = self._targets.popitem()
            for consumer in self._restarter.consumers(target):
                if consumer.marks or consumer.by_time:
                    self._look(consumer.ref, target.name)
                await time_slice.pause_if_over()

    async def _look_at_all(self) -> None:
        time_slice = TimeSlice()
        for namespace in list(self._rollouts):
            for key in self._rollouts.of(namespace):
                self._look(*key)
                await time_slice.pause_if_over()

    def _look(self, ref: WorkloadRef, name: str) -> None:
        try:
            self._follow(ref, name)
        except Exception:
            # A bug must not stop the reports of other rollouts.
            _log.exception("report of a rollout failed", extra={"fields": {"consumer": str(ref)}})

    def _follow(self, ref: WorkloadRef, name: str) -> None:
        key, target = (ref, name), Target(ref.namespace, name)
        consumer, bound = self._restarter.consumer(ref, target), self._secrets.get(target)
        mark = present_mark(consumer, name, bound.record) if consumer and bound else None
        if not (consumer and bound and mark and consumer.progress):
            self._forget(key)
            return
        progress, now = consumer.progress, self._wall()
        is_recent = progress.marked_at is not None and now - progress.marked_at < RECENT
        rollout = self._rollouts.get(ref.namespace, key)
        if rollout is None or rollout.mark != mark:
            self._forget(key)
            if not is_recent or not self._is_for(bound, consumer, progress.marked_at or 0):
                return
            # This replica has not seen earlier progress. So the last change of the status counts as the last progress.
            rollout = _Rollout(mark, max(progress.marked_at or 0, progress.changed_at or 0))
            if evicted := self._rollouts.put(ref.namespace, key, rollout):
                self._stuck.discard(evicted)
        if not progress.is_complete:
            self._on_unfinished(key, consumer, rollout, progress)
            return
        self._stuck.discard(key)
        rollout.moved_at = now
        if consumer.hold and consumer.hold.keeps_old_pods and progress.updated < progress.wanted:
            self._tell_partly(consumer, bound, rollout, progress)
            return
        rollout.was_complete = True
        if self._is_leader() and not rollout.told_live:
            rollout.told_live = True
            if progress.wanted:
                self._tell_complete(consumer, bound, rollout, progress)
        if not is_recent and (rollout.told_live or now - (progress.finished_at or 0) > RECENT):
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        self._rollouts.pop(key[0].namespace, key)
        self._stuck.discard(key)

    def _on_unfinished(self, key: _Key, consumer: Consumer, rollout: _Rollout, progress: RolloutProgress) -> None:
        now = self._wall()
        reached = progress.updated + progress.ready if progress.observed else 0
        if reached > rollout.furthest:
            if rollout.furthest:
                rollout.moved_at = now
            rollout.furthest = reached
        if rollout.was_complete or progress.has_ended or (consumer.hold and consumer.hold.every_pod):
            self._stuck.discard(key)  # its pods fail for a reason other than this rollout, or wait for a person
            return
        failed = progress.state is RolloutState.FAILED
        if not failed and now - rollout.moved_at < progress.deadline + GRACE:
            self._stuck.discard(key)
            return
        self._stuck.add(key)
        if self._is_leader() and not rollout.told_stuck:
            rollout.told_stuck = True
            self._to_explain[key] = None
            self._unexplained.set()

    def _tell_complete(
        self, consumer: Consumer, bound: BoundSecret | WatchedSecret, rollout: _Rollout, progress: RolloutProgress
    ) -> None:
        now = self._wall()
        ended_at = now if progress.finished_at is None else progress.finished_at
        if now - ended_at > RECENT:
            return
        change = _change(consumer, bound, rollout.mark)
        words = self._tell_live(consumer, bound, change, progress.wanted, ended_at)
        if others := self._all_live(bound):
            names = event_messages.workloads(others)
            pods = event_messages.pods(progress.wanted)
            message = f"all pods of {names} run {words}" if len(others) > 1 else f"{names}: {pods} {words}"
            self._events.event(bound.target, bound.uid, False, LIVE, message, once_for=_change_of_all(bound))

    def _tell_live(
        self, consumer: Consumer, bound: BoundSecret | WatchedSecret, change: str, pods: int, ended_at: float
    ) -> str:
        """Write an Event on a workload. The Event says that all pods have run the new value since ``ended_at``.
        ``pods`` is the number of pods, and ``change`` is the result of ``_change``. Return the text about the version
        and the time."""
        record, target = bound.record, bound.target
        started_at, moved = _start(consumer, bound)
        seconds = None if started_at is None else max(0, int(ended_at) - started_at)
        words = event_messages.live(record, seconds, moved)
        observe = partial(self._observe, consumer, target, seconds, tuple(sorted(record.version_ids.values())))
        self._tell(consumer, target, False, LIVE, f"{event_messages.pods(pods)} {words}", change, observe)
        return words

    def _all_live(self, bound: BoundSecret | WatchedSecret) -> list[Consumer]:
        """Return the consumers that were restarted for a Secret. The list is empty if one of them is not live yet, or
        if a consumer still needs a new mark."""
        target, record = bound.target, bound.record
        consumers = [each for each in self._restarter.consumers(target) if present_mark(each, target.name, record)]
        for each in consumers:
            keeps_some = each.hold is not None and each.hold.keeps_old_pods
            progress = each.progress
            if progress is None or not progress.is_complete or (keeps_some and progress.updated < progress.wanted):
                return []
        permitted = self._restarter.restartable(target, bound.spec)
        return consumers if self._restarter.is_up_to_date(target, permitted, record) else []

    def _tell_partly(
        self, consumer: Consumer, bound: BoundSecret | WatchedSecret, rollout: _Rollout, progress: RolloutProgress
    ) -> None:
        if not self._is_leader() or rollout.told_partly or not progress.updated:
            return
        rollout.told_partly = True
        held = consumer.hold.text if consumer.hold else ""
        message = (
            f"{event_messages.versions(bound.record)}: {progress.updated} of {progress.wanted} pods run it; {held}"
        )
        change = _change(consumer, bound, rollout.mark)
        self._tell(consumer, bound.target, False, PARTLY_LIVE, message, change)

    async def _explain(self) -> None:
        """Report stuck rollouts, one at a time. Each report needs one read of the pods."""
        while True:
            await self._unexplained.wait()
            self._unexplained.clear()
            while self._to_explain:
                key = next(iter(self._to_explain))
                del self._to_explain[key]
                await self._tell_stuck(key)

    async def _tell_stuck(self, key: _Key) -> None:
        ref, name = key
        try:
            trouble = await self._workloads.trouble(ref)
        except KeyturnError as error:
            _log.info("the pods of %s could not be read: %s", ref, error)
            trouble = ""
        except Exception:
            _log.exception("the pods of %s could not be read", ref)
            trouble = ""
        target = Target(ref.namespace, name)
        consumer, bound = self._restarter.consumer(ref, target), self._secrets.get(target)
        rollout = self._rollouts.get(ref.namespace, key)
        if not (consumer and bound and rollout and consumer.progress and key in self._stuck):
            return
        progress = consumer.progress
        message = event_messages.stuck(bound.record, progress, trouble)
        change = _change(consumer, bound, rollout.mark)
        self._tell(consumer, target, True, STUCK, message, change)
        about_secret = f"{event_messages.workloads([consumer])}: {message}"
        self._events.event(target, bound.uid, True, STUCK, about_secret, once_for=f"{ref}/{change}")
        fields = {"consumer": str(ref), "secret": str(target), "updated": progress.updated, "wanted": progress.wanted}
        _log.warning("rollout stuck", extra={"fields": {**fields, "trouble": trouble}})

    def _tell(
        self,
        consumer: Consumer,
        secret: Target,
        warning: bool,
        reason: str,
        message: str,
        change: str,
        on_created: Callable[[], None] | None = None,
    ) -> None:
        ref = consumer.ref
        self._events.event(
            Target(ref.namespace, ref.name),
            consumer.uid,
            warning,
            reason,
            f"Secret {secret.name}: {message}",
            kind=ref.kind,
            once_for=f"{secret.name}/{change}",
            on_created=on_created,
        )

    def _observe(self, consumer: Consumer, secret: Target, seconds: int | None, version_ids: tuple[str, ...]) -> None:
        """Count and log a rollout. Only the first replica that reports the rollout calls this."""
        if seconds is not None:
            self._metrics.live_seconds.labels(consumer.ref.kind).observe(seconds)
        fields = {"secret": str(secret), "consumer": str(consumer.ref), "seconds": seconds, "version_ids": version_ids}
        _log.info("live", extra={"fields": fields})


def _change(consumer: Consumer, bound: BoundSecret | WatchedSecret, mark: str) -> str:
    """Return a text that stands for the change of a Secret which a rollout serves.

    The mark is not enough, because a value may return within the hour for which an Event exists. Its mark is then that
    of the former time.
    """
    return f"{mark}/{written_at(consumer, bound.target.name, bound.record)}"


def _change_of_all(bound: BoundSecret | WatchedSecret) -> str:
    """Return a text that stands for the last change of any key of a Secret (``_change``)."""
    return f"{bound.record.digest}/{bound.record.changed_at}"


def _start(consumer: Consumer, bound: BoundSecret | WatchedSecret) -> tuple[int | None, bool]:
    """Return the start of a rollout, from which its duration counts, and whether the start is the move of the staging
    label.

    The start is in seconds since 1970. If the time of the move is not known, or if the keys that the pods read were
    written before the move, the start is the time of the write. It is None if the time of the write is not known
    either.
    """
    written = written_at(consumer, bound.target.name, bound.record)
    moved = bound.record.moved_at
    if moved is not None and (written is None or moved <= written):
        return moved, True
    return written, False


def _restarting_marks(consumer: Consumer) -> Mapping[str, str]:
    """Return the marks that restart the pods of a consumer."""
    return consumer.baseline if consumer.by_time else consumer.marks
