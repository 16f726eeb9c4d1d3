"""Restarter of a Secret's consumers. It usually writes a mark, which is an annotation on the pod template.

The write of a mark fails if the workload has changed since the restart was decided.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.mark import has_mark
from keyturn_receiver.core.restart_time import last_written
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation, baseline, is_behind, rollout
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.core.unsettled import with_own_suffix
from keyturn_receiver.errors import (
    ClusterRefused,
    Conflict,
    Contended,
    KeyturnError,
    NotFound,
    Unfinished,
    detached,
    first_retryable,
)
from keyturn_receiver.reconcile.pending_restarts import PendingRestarts, Write, write_of
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.record_client import RecordClient
from keyturn_receiver.reconcile.rollout_debouncer import RolloutDebouncer
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.resilience.bounded_gather import bounded_gather
from keyturn_receiver.telemetry.legs import Leg, LegTimer

MAX_ATTEMPTS = 8  # attempts to mark one workload, which changes several times a second during a rollout
MAX_MARKS = 16  # consumers of one Secret that are marked at the same time
# The seconds in which a reconcile may start writes of baselines (marks with the revisions from before a write). After
# that, it has the same time to start restarts. The next reconcile marks the consumers that are left. So a Secret with
# very many consumers does not hold a slot of the work queue for long, and does not delay the reply to a delivery.
MARK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """The result of the restarts for a Secret. ``restarted`` has the restarted consumers. ``error`` is the error that
    prevented the restart of others, or None. ``refused`` has each consumer for which the API server refused the mark
    (the annotation that causes the restart), with the error. ``faults`` describes the invalid Reloader annotations on
    the Secret. ``turn`` is the last decision of the pacer, with the reasons why other consumers wait."""

    restarted: Sequence[Consumer] = ()
    error: KeyturnError | None = None
    refused: Sequence[tuple[Consumer, ClusterRefused]] = ()
    faults: Sequence[str] = ()
    turn: Turn = field(default_factory=Turn)


@dataclass(frozen=True, slots=True)
class Restraints:
    """The parts that may delay or forbid a restart. ``debouncer`` delays a restart while other Secrets of the consumer
    change. It is None if restarts do not wait for other Secrets."""

    policy: RolloutPolicy
    fights: RolloutFights
    evictor: PodEvictor
    pacer: RolloutPacer
    debouncer: RolloutDebouncer | None = None


class _Due(Exception):
    """A consumer that did not seem to be due has a pod that is behind. So the schedule decides about it."""


class ConsumerRestarter:
    """Consumer restarter. Writes marks on those consumers of a Secret that may be restarted according to the rollout
    policy. If a consumer asks for evictions instead, the evictor restarts its pods.

    ``wall`` returns the time in seconds since 1970. It is used only for a Secret whose last write has no known time,
    and for the suffix of a mark.
    """

    def __init__(
        self,
        index: ConsumerIndex,
        workloads: WorkloadClient,
        secrets: RecordClient,
        legs: LegTimer,
        restraints: Restraints,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._policy = restraints.policy
        self._workloads = workloads
        self._secrets = secrets
        self._legs = legs
        self._fights = restraints.fights
        self._evictor = restraints.evictor
        self._pacer = restraints.pacer
        self._debouncer = restraints.debouncer
        self._owner_handlers: list[Callable[[Consumer, str, str], None]] = []
        self._pending = PendingRestarts()
        self._wall = wall

    def add_owner_handler(self, on_owner: Callable[[Consumer, str, str], None]) -> None:
        """Register ``on_owner``, which is called if a foreign field manager owns the mark of a consumer.

        The owner is looked up only if the ages of the consumer's pods decide whether to restart them. The arguments of
        ``on_owner`` are the consumer, the name of the mark, and the field manager.
        """
        self._owner_handlers.append(on_owner)

    def consumer(self, ref: WorkloadRef, target: Target) -> Consumer | None:
        """Return a workload from the cache, or None if the workload is not a consumer of the Secret. If the new pods of
        the workload crash, its rollout counts as failed."""
        consumer = self._index.get(ref, target)
        return self._pacer.judged(consumer) if consumer else None

    def consumers(self, target: Target) -> Sequence[Consumer]:
        """Return the cached consumers of a Secret."""
        return self._index.of(target)

    def count(self, target: Target) -> int:
        """Return the number of cached consumers of a Secret."""
        return self._index.count(target)

    def permitted(self, consumers: Sequence[Consumer], target: Target, spec: BindingSpec) -> Sequence[Consumer]:
        """Return those of ``consumers`` that may be restarted for the Secret."""
        return [consumer for consumer in consumers if self._policy.permits(consumer, target, spec)]

    def restartable(self, target: Target, spec: BindingSpec) -> Sequence[Consumer]:
        """Return the cached consumers of a Secret that may be restarted."""
        return self.permitted(self.consumers(target), target, spec)

    def is_up_to_date(self, target: Target, consumers: Sequence[Consumer], record: Record) -> bool:
        """Return whether none of ``consumers`` needs a new mark for ``record``."""
        return not any(rollout(consumer, target.name, record) for consumer in consumers)

    def in_turn(
        self, target: Target, spec: BindingSpec, consumers: Sequence[Consumer], record: Record
    ) -> tuple[Sequence[Consumer], str]:
        """Return the consumers that need a new mark and may get it now, and a text for the Secret's status.

        The text says that a failed rollout halts the others. It is empty if there is no such rollout. ``consumers`` are
        the consumers that may be restarted.
        """
        turn = self._pacer.turn(target, spec, consumers, record)
        return (*turn.start, *turn.unpaced), turn.halt

    def needs_leader(self, target: Target, spec: BindingSpec) -> bool:
        """Return whether only the leader restarts consumers of a Secret (``RolloutPacer.needs_leader``)."""
        return self._pacer.needs_leader(target, spec)

    def look_again_in(self, target: Target) -> float | None:
        """Return the seconds until other consumers may be marked without any change in the cluster, for example because
        a rollout window opens. Return None if no such time is known."""
        return self._pacer.look_again_in(target)

    def fight_delay(self, target: Target, consumers: Sequence[Consumer], record: Record) -> float:
        """Return the seconds until the first of the consumers that need a new mark may be restarted.

        The result is 0.0 unless all of them have to wait. A consumer has to wait during a fight, in which another
        writer keeps reverting its mark. It also has to wait if the evictions of its pods cannot begin now.
        """
        marks = ((consumer, rollout(consumer, target.name, record)) for consumer in consumers)
        delays = (
            max(self._fights.delay(consumer, mark), self._evictor.delay(consumer)) for consumer, mark in marks if mark
        )
        return min(delays, default=0.0)

    async def baseline(
        self, target: Target, consumers: Sequence[Consumer], before: Record, after: Record
    ) -> Sequence[Consumer]:
        """Write a baseline to each consumer that has no mark, if the coming write changes a key that the consumer
        reads. The write replaces the record ``before`` by ``after``.

        A baseline is a mark with the revisions that the Secret has before that write. Return the consumers in their new
        state, without consumers that no longer exist.

        If the API server refuses a mark, no error is raised, so that the Secret is still filled. ``restart`` then gets
        the same refusal and reports it. Other errors are raised after all consumers have been tried. If there are
        several errors, ``first_retryable`` selects the one to raise.
        """
        marked, error = await _gather(consumers, lambda consumer: self._baseline(target, consumer, before, after))
        if error:
            raise error
        return marked

    async def restart(
        self,
        target: Target,
        spec: BindingSpec,
        consumers: Sequence[Consumer],
        record: Record,
        before: Record | None,
    ) -> RolloutResult:
        """Restart the consumers whose pods read a key that has a new revision.

        ``spec`` is the binding of the Secret. If this reconcile has just written ``record``, ``before`` is the record
        that the write has replaced. Otherwise ``before`` is None, and the record is read again. If the restart of one
        consumer fails, the others are still restarted. If there are several errors, ``first_retryable`` selects the one
        in the result. That error may be a Conflict.
        """
        faults = self._policy.faults(spec)
        turn = self._pacer.turn(target, spec, consumers, record)
        if not turn.start and not turn.unpaced:
            if before is not None and turn.waits:
                written = write_of(record, before, consumers)
                self._pending.keep(target, written, written.left.keys())
            return RolloutResult(faults=faults, turn=turn)
        with self._legs.time(Leg.ROLLOUT):
            if before is None:
                # The record comes from the cache, which may be out of date. Marks with older revisions would restart
                # pods without need.
                try:
                    record = await self._secrets.read_record(target)
                except NotFound:
                    return RolloutResult()
                except KeyturnError as failure:
                    return RolloutResult(error=failure)
                write = self._pending.get(target)
            else:
                write = write_of(record, before, consumers)
            refused: list[tuple[Consumer, ClusterRefused]] = []
            left = {consumer.ref for consumer in consumers} if write else set()

            async def restart(consumer: Consumer, record: Record, unchanged: bool) -> Consumer | None:
                try:
                    restarted = await self._restart(target, spec, consumer, record, write, unchanged)
                    left.discard(consumer.ref)
                    return restarted
                except NotFound:
                    left.discard(consumer.ref)
                    raise
                except ClusterRefused as refusal:
                    refused.append((consumer, refusal))
                    raise

            restarted, error, turn = await self._in_turn(target, spec, consumers, record, restart)
            if write:
                self._pending.keep(target, write, left)
        return RolloutResult(restarted, error, refused, faults, turn)

    async def _in_turn(
        self,
        target: Target,
        spec: BindingSpec,
        consumers: Sequence[Consumer],
        record: Record,
        restart: Callable[[Consumer, Record, bool], Awaitable[Consumer | None]],
    ) -> tuple[Sequence[Consumer], KeyturnError | None, Turn]:
        """Restart consumers until no other consumer may be restarted now, or until MARK_SECONDS have passed. After
        that, two kinds of consumers are tried again: those with a conflict, and those that a look at their pods has
        found due. Return the restarted consumers, the error that ``first_retryable`` selects, and the last turn, which
        has the reasons why other consumers wait.

        ``restart`` restarts one consumer. Its arguments are the consumer, the record, and whether the consumer has not
        changed since the start of the reconcile. If it raises Conflict, the consumer is read again, and the next turn
        decides. The new state may need a slot, a window or a place in the order that the former state did not need.
        """
        restarted: list[Consumer] = []
        errors: list[KeyturnError | None] = []
        tried: set[WorkloadRef] = set()
        conflicts: Counter[WorkloadRef] = Counter()
        found_due: set[WorkloadRef] = set()
        end = time.monotonic() + MARK_SECONDS

        async def attempt(consumer: Consumer) -> Consumer | None:
            ref = consumer.ref
            try:
                return await restart(consumer, record, ref not in conflicts)
            except _Due:
                found_due.add(ref)
                tried.discard(ref)
                return None
            except Conflict:
                conflicts[ref] += 1
                current = _seen_as(consumer, await self._workloads.read(ref))
                if current is None:
                    return None
                self._pacer.observe(current)
                if conflicts[ref] == MAX_ATTEMPTS:
                    raise _conflict(consumer, current) from None
                tried.discard(ref)
                return None

        while True:
            turn = self._pacer.turn(target, spec, consumers, record, tried)
            is_over = time.monotonic() >= end
            again = found_due | conflicts.keys()
            # If the mark of a consumer was refused or is not needed, its slot is free for the next consumer.
            taken = [each for each in (*turn.start, *turn.unpaced) if not is_over or each.ref in again]
            if not taken:
                return restarted, first_retryable(*errors), turn
            tried |= {each.ref for each in taken}
            with self._pacer.starting(turn.start):
                marked, error = await _gather(taken, attempt)
            restarted += marked
            errors.append(error)
            if any(each.ref not in tried for each in taken):  # some are tried again
                # The workloads have to be read before the Secret. Reconciler._reconcile gives the reason.
                try:
                    record = await self._secrets.read_record(target)
                except KeyturnError as failure:
                    if not isinstance(failure, NotFound):
                        errors.append(failure)
                    return restarted, first_retryable(*errors), turn

    async def _baseline(self, target: Target, consumer: Consumer, before: Record, after: Record) -> Consumer | None:
        current: Consumer | None = consumer
        refused: Consumer | None = None
        for _ in range(MAX_ATTEMPTS):
            mark = baseline(current, target.name, before, after) if current else None
            if current is None or mark is None:
                return current
            if self._fights.delay(current, mark) or self._fights.keeps_off(current, mark):
                return current  # without a baseline, the ages of its pods decide whether it is restarted
            try:
                return _seen_as(consumer, await self._mark(target, current, mark))
            except Conflict:
                refused, current = current, _seen_as(consumer, await self._workloads.read(current.ref))
            except NotFound:
                return None
            except ClusterRefused:
                return current
        raise _conflict(refused, current)

    async def _restart(
        self,
        target: Target,
        spec: BindingSpec,
        consumer: Consumer,
        record: Record,
        write: Write | None,
        unchanged: bool,
    ) -> Consumer | None:
        if not self._policy.permits(consumer, target, spec):
            return None
        before = write.before_of(consumer, target.name, record, unchanged) if write else None
        mark = self._pacer.needed(consumer, rollout(consumer, target.name, record, before))
        if mark is None:
            return None
        if self._workloads.lends_template(consumer):  # its own status does not show the templates of the pods
            mark = replace(mark, may_be_former=True)
        if self._fights.delay(consumer, mark) or self._evictor.is_busy(consumer):
            return None  # the consumer still needs the mark, so drift detection requests the mark again later
        ends_evictions = consumer.evicts and mark.undecided and mark.marked
        if mark.undecided or mark.may_have_adopted:
            mark = await self._decided(target, consumer, record, mark)
            if mark.may_have_adopted and mark.restart:
                self._pacer.note_adopted(consumer, mark)
                # If the consumer has to wait, nothing is written. So only a check of the Secret sets the time for it.
                self._index.notify(target)
                raise _Due
        self._fights.note_pods(consumer, mark)
        if consumer.evicts and (mark.restart or ends_evictions):
            permits = partial(self._policy.permits, target=target, spec=spec)
            held_up_by = partial(self._held_up_by, target, spec, consumer)
            started = self._evictor.start(target, consumer, permits, held_up_by)
            if mark.restart:
                return self._workloads.as_lender(consumer) if started else None
            if started:
                return None  # the evictor writes the mark
        if not mark.restart and self._fights.keeps_off(consumer, mark):
            return None  # its pods have the value, and another writer would revert the mark again
        restarts_from = None
        if mark.restart and self._workloads.restarts_by_time(consumer):
            restarts_from, record = await self._written_at(target, consumer, record)
        elif mark.restart and mark.may_be_former:
            # Otherwise the template may stay as it is, or go back to a former one, whose pods Kubernetes would keep.
            mark = replace(mark, value=with_own_suffix(mark.value, int(self._wall())))
        elif mark.restart and has_mark(consumer.marks, mark.name, mark.value):
            # The rollout of the present template replaces the pods that are behind. Only the settled mark has to go.
            mark = replace(mark, value=consumer.marks[mark.name])
        marked = await self._mark(target, consumer, mark, restarts_from)
        return marked if mark.restart else None

    def _held_up_by(self, target: Target, spec: BindingSpec, consumer: Consumer, record: Record) -> WaitReason | None:
        """Return why the schedule does not let the evictions of a consumer's pods begin or go on now, or None."""
        return self._pacer.held_up_by(target, spec, self.restartable(target, spec), record, consumer.ref)

    async def _written_at(self, target: Target, consumer: Consumer, record: Record) -> tuple[int, Record]:
        """Return the time of the last write of the keys that a consumer reads, and the record. The time is in seconds
        since 1970 by the API server's clock.

        A record that this reconcile has just written does not have the time yet. The record is then read again. If the
        time is still not known, the result has the present time by this replica's clock.
        """
        reads = consumer.reads.get(target.name, Reads())
        written_at = last_written(reads, record)
        if written_at is None:
            record = await self._secrets.read_record(target)
            written_at = last_written(reads, record)
        return int(self._wall()) if written_at is None else written_at, record

    async def _mark(
        self, target: Target, consumer: Consumer, mark: RolloutAnnotation, written_at: int | None = None
    ) -> Consumer | None:
        beside: Sequence[RolloutAnnotation] = ()
        if mark.restart and self._debouncer:
            beside = self._debouncer.marks_beside(consumer, target)
        marked = await self._workloads.mark(consumer, mark, written_at, beside)
        if marked:  # the next write may come before the watch shows this one
            self._fights.observe(consumer, marked)
            self._pacer.observe(replace(marked, seen_late=consumer.seen_late))
            if not mark.restart:
                self._pending.note_annotated(consumer, marked)
        return marked

    async def _decided(
        self, target: Target, consumer: Consumer, record: Record, mark: RolloutAnnotation
    ) -> RolloutAnnotation:
        """Return an undecided mark with the decision of the pods: it restarts them if one of them is behind.
        ``may_be_former`` stays true only if a pod that is behind has this very mark."""
        workload = await self._workloads.inspect(consumer.ref, mark.name)
        if workload.owner and mark.marked:
            for on_owner in self._owner_handlers:
                on_owner(consumer, mark.name, workload.owner)
        is_any_behind = False
        async with aclosing(self._workloads.pods(workload)) as pods:
            async for pod in pods:
                if is_behind(pod, target.name, record, mark, consumer.seen_late):
                    is_any_behind = True
                    if not mark.may_be_former or has_mark(pod.marks, mark.name, mark.value):
                        return replace(mark, restart=True)
        return replace(mark, restart=is_any_behind, may_be_former=False)


def _conflict(refused: Consumer | None, current: Consumer | None) -> Conflict:
    """Return the error for a consumer that could not be marked. ``refused`` is the state at the last attempt.
    ``current`` is the state that was read after the last attempt."""
    if refused and current and refused.resource_version != current.resource_version:
        return Contended(f"{current.ref} keeps changing: trying again")
    # The workload does not change, so the conflict is a fault of the API server.
    return Conflict("a write of a consumer is refused with a conflict again and again: trying again")


def _seen_as(cached: Consumer, current: Consumer | None) -> Consumer | None:
    """Return ``current`` with ``seen_late`` of ``cached``, because only the cache knows this attribute."""
    return replace(current, seen_late=cached.seen_late) if current else None


async def _gather(
    consumers: Sequence[Consumer], mark: Callable[[Consumer], Awaitable[Consumer | None]]
) -> tuple[Sequence[Consumer], KeyturnError | None]:
    """Call ``mark`` for each consumer, at most MAX_MARKS at the same time. After MARK_SECONDS, no further call is
    begun. Return the consumers that ``mark`` has returned, and the error that ``first_retryable`` selects."""
    results = await bounded_gather(
        consumers, lambda consumer: _ignore_not_found(mark, consumer), MAX_MARKS, MARK_SECONDS
    )
    marked = [result for result in results if isinstance(result, Consumer)]
    left = len(consumers) - len(results)
    unfinished = Unfinished(f"{left} of {len(consumers)} consumers are left to mark: going on") if left else None
    return marked, first_retryable(*(result for result in results if isinstance(result, KeyturnError)), unfinished)


async def _ignore_not_found(
    mark: Callable[[Consumer], Awaitable[Consumer | None]], consumer: Consumer
) -> Consumer | KeyturnError | None:
    try:
        return await mark(consumer)
    except NotFound:
        return None
    except KeyturnError as error:
        return detached(error)
