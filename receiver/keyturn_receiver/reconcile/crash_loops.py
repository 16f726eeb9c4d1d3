"""Detector of crash loops. It looks at the pods of a rollout that makes no progress.

A rollout whose new pods crash again and again counts as failed, long before its deadline is over. Every replica follows
the rollouts through the watches of workloads. Only the leader reads pods: once after QUIET_SECONDS without progress,
and then more and more rarely until the rollout ends. Nothing is stored. A leader that has not looked yet is unsure
about such a rollout, and the pacer starts no other rollout of the Secret until the leader has looked
(docs/adr/028-pace-and-order-of-rollouts.md).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.crash_loop import CRASH_REASONS, as_failed, is_followed
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_halt import halt_of
from keyturn_receiver.errors import KeyturnError, NotFound, Permanent
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.resilience.bounded_gather import bounded_gather
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.time_slice import TimeSlice

QUIET_SECONDS = 20.0  # seconds without a further updated or ready pod, after which the pods are read
LOOK_BACKOFF = Backoff(base=15.0, cap=240.0, jitter=0)  # seconds between two reads of the pods of one workload
CHECK_SECONDS = 5.0  # seconds between two checks for pods that are due to be read, while a rollout is unfinished
MAX_LOOKS = 20  # workloads whose pods are read in one check; the others follow in the next check
CONCURRENT_LOOKS = 4
LOOK_SECONDS = 10.0  # this many seconds after its start, a check starts no further read
MAX_ROLLOUTS = 10_000  # followed rollouts; beyond that, the namespace with the most rollouts loses its oldest one

_log = logging.getLogger(__name__)
_Key = tuple[str, Mapping[str, str], Mapping[str, str]]  # a rollout: the uid of the workload, and its marks


@dataclass(slots=True)
class _Rollout:
    """An unfinished rollout. ``furthest`` is the largest sum of updated and ready pods so far. ``moved_at`` is the time
    of the last progress, and ``look_at`` the time of the next read of the pods, in seconds since 1970. ``was_quiet``
    tells whether there was no progress for QUIET_SECONDS at some time. ``looks`` counts the reads since this replica
    leads. ``is_sure`` tells whether one of these reads was answered. ``reason`` says why the new pods fail, and is
    otherwise empty. ``is_known`` tells whether a crash loop was found, or may have been found by an earlier leader."""

    key: _Key
    consumer: Consumer
    moved_at: float
    look_at: float
    furthest: int = 0
    was_quiet: bool = False
    looks: int = 0
    is_sure: bool = False
    reason: str = ""
    is_known: bool = False


class CrashLoops:
    """Detector of crash loops. ``is_leader`` returns whether this replica leads. ``wall`` returns the time in seconds
    since 1970."""

    def __init__(
        self,
        index: ConsumerIndex,
        workloads: WorkloadClient,
        is_leader: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._workloads = workloads
        self._is_leader = is_leader
        self._wall = wall
        self._rollouts: FairMap[str, WorkloadRef, _Rollout] = FairMap(MAX_ROLLOUTS)  # by namespace
        self._changed = asyncio.Event()

    def judged(self, consumer: Consumer) -> Consumer:
        """Return a consumer, with a failed rollout if this replica leads and has found that its new pods crash."""
        rollout = self._get(consumer)
        if rollout is None or not rollout.reason or not self._is_leader():
            return consumer
        return as_failed(consumer, rollout.reason, self._wall())

    def told(self, consumer: Consumer, target: Target, record: Record) -> Consumer:
        """Return a consumer, with a failed rollout if the status of the Secret says that its new pods crash. The status
        may show what an earlier leader has found. So it no longer counts once this replica leads and has read the pods
        itself."""
        if not record.halt or not is_followed(consumer) or self._is_sure(consumer):
            return consumer
        now = self._wall()
        failed = (as_failed(consumer, reason, now) for reason in CRASH_REASONS)
        return next((each for each in failed if halt_of(each, target, record) == record.halt), consumer)

    def is_unsure(self, consumer: Consumer) -> bool:
        """Return whether the new pods of a consumer may crash, as far as this replica knows. It is so if the rollout
        has made no progress for QUIET_SECONDS at some time, unless this replica leads and has read the pods."""
        rollout = self._get(consumer)
        return rollout is not None and self._was_quiet(rollout) and not self._is_sure(consumer)

    def failed(self, namespace: str) -> set[WorkloadRef]:
        """Return the workloads of a namespace whose new pods crash. The result is empty unless this replica leads, and
        it has only those workloads whose crash loop this replica has found."""
        if not self._is_leader():
            return set()
        crashing = (each for each in self._of(namespace) if each.reason)
        return {each.consumer.ref for each in crashing if self.judged(each.consumer) is not each.consumer}

    def on_progress(self, before: Consumer | None, after: Consumer) -> None:
        """Follow the rollout of a consumer. A rollout that has ended is forgotten."""
        ref, progress = after.ref, after.progress
        if progress is None or progress.marked_at is None or not is_followed(after):
            self._rollouts.pop(ref.namespace, ref)
            return
        reached = progress.updated + progress.ready if progress.observed else 0
        rollout = self._rollouts.get(ref.namespace, ref)
        if rollout is None or rollout.key != _key(after):
            if not self._rollouts:
                self._changed.set()
            # This replica may not have seen earlier progress, so the time of the mark counts as the last progress.
            began = float(progress.marked_at)
            rollout = _Rollout(_key(after), after, began, began + QUIET_SECONDS, reached)
            rollout.is_known = self._was_quiet(rollout)
            self._rollouts.put(ref.namespace, ref, rollout)
            return
        rollout.consumer = after
        if reached > rollout.furthest:
            rollout.furthest, rollout.moved_at = reached, float(progress.changed_at or self._wall())
            rollout.look_at = rollout.moved_at + (0 if rollout.reason else QUIET_SECONDS)

    def on_started_leading(self) -> None:
        """Look again at the pods of all rollouts that make no progress, because earlier looks of this replica may be
        out of date."""
        for rollout in self._all():
            if not rollout.is_sure:  # otherwise this replica has led before, and knows whether there was a crash loop
                rollout.is_known = self._was_quiet(rollout)
            rollout.looks, rollout.is_sure, rollout.reason = 0, False, ""
            rollout.look_at = rollout.moved_at + QUIET_SECONDS
        self._changed.set()

    async def run(self) -> None:
        """Look at the pods of rollouts until cancelled."""
        while True:
            self._changed.clear()
            await self.check()
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS if len(self._rollouts) else None):
                    await self._changed.wait()

    async def check(self) -> None:
        """Look at the pods of those rollouts that are due for a look."""
        time_slice, now = TimeSlice(), self._wall()
        due: list[_Rollout] = []
        for rollout in list(self._all()):
            ref = rollout.consumer.ref
            if self._index.latest(rollout.consumer) is None:
                self._rollouts.pop(ref.namespace, ref)
            elif self._was_quiet(rollout) and now >= rollout.look_at:
                due.append(rollout)
            await time_slice.pause_if_over()
        if due and self._is_leader():
            due.sort(key=lambda rollout: rollout.look_at)
            await bounded_gather(due[:MAX_LOOKS], self._look, CONCURRENT_LOOKS, LOOK_SECONDS)

    async def _look(self, rollout: _Rollout) -> None:
        """Read the pods of a workload. The Secrets of the workload are checked if this replica now knows more."""
        consumer = rollout.consumer
        reason: str | None = rollout.reason
        is_answered = True
        try:
            reason = await self._workloads.crash_reason(consumer, self._wall(), rollout.is_known)
        except NotFound:
            reason = None
        except KeyturnError as error:
            # If Kubernetes forbids the read, the rollout's deadline decides, as it would without this detector.
            is_answered = isinstance(error, Permanent)
            _log.info("the pods of %s could not be read: %s", consumer.ref, error)
        except Exception:
            # A bug must not stop the looks at other workloads.
            _log.exception("the pods of %s could not be read", consumer.ref)
        rollout.looks += 1
        rollout.look_at = self._wall() + LOOK_BACKOFF.delay(rollout.looks)
        if reason is None:  # the watch is about to show another state of the workload
            rollout.look_at = self._wall() + CHECK_SECONDS
        elif is_answered and self._is_leader() and self._get(consumer) is rollout:
            self._note(rollout, reason)

    def _note(self, rollout: _Rollout, reason: str) -> None:
        before, was_sure = rollout.reason, rollout.is_sure
        rollout.reason, rollout.is_known, rollout.is_sure = reason, bool(reason), True
        ref = rollout.consumer.ref
        if reason and not before:
            _log.warning("new pods crash", extra={"fields": {"consumer": str(ref), "reason": reason}})
        if reason != before or not was_sure:
            for name in rollout.consumer.reads:
                self._index.notify(Target(ref.namespace, name))

    def _get(self, consumer: Consumer) -> _Rollout | None:
        """Return the present rollout of a consumer, or None if it is not followed."""
        rollout = self._rollouts.get(consumer.ref.namespace, consumer.ref)
        return rollout if rollout and rollout.key == _key(consumer) else None

    def _all(self) -> Iterator[_Rollout]:
        for namespace in list(self._rollouts):
            yield from self._of(namespace)

    def _of(self, namespace: str) -> Iterator[_Rollout]:
        for ref in self._rollouts.of(namespace):
            if rollout := self._rollouts.get(namespace, ref):
                yield rollout

    def _is_sure(self, consumer: Consumer) -> bool:
        rollout = self._get(consumer)
        return rollout is not None and rollout.is_sure and self._is_leader()

    def _was_quiet(self, rollout: _Rollout) -> bool:
        rollout.was_quiet = rollout.was_quiet or self._wall() - rollout.moved_at >= QUIET_SECONDS
        return rollout.was_quiet


def _key(consumer: Consumer) -> _Key:
    return consumer.uid, consumer.marks, consumer.baseline if consumer.by_time else {}
