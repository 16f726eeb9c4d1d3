"""Rollout pacer: decides which consumers of a Secret may be restarted now, and why the others wait.

The pacer applies ``core/rollout_schedule.py`` to the caches, and decides again at each call. A limit for unfinished
rollouts is a number of slots. Each unfinished rollout takes one slot. The pacer remembers this replica's writes until a
watch shows them, the restarts that are being written, and the Secrets that wait or are halted, with the times of their
next checks.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.open_rollouts import open_until, takes_slot
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation, rollout
from keyturn_receiver.core.rollout_candidate import due_candidate, may_restart, other_candidate
from keyturn_receiver.core.rollout_halt import halt_of, is_halt_of, is_resumed
from keyturn_receiver.core.rollout_pace import read_pace
from keyturn_receiver.core.rollout_schedule import INFINITY, Candidate, ConsumerState, Schedule, WaitReason, schedule
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.core.rollout_window import WINDOW
from keyturn_receiver.reconcile.crash_loops import CrashLoops
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.resilience.fair_map import FairMap

# A Secret that waits for the rollouts of other Secrets is checked again after this number of seconds, even if the
# watches show no change.
MAX_WAIT = 30.0
MAX_LOOK_AGAIN = 600.0  # the longest wait in seconds; a window opens by the wall clock, which may be adjusted meanwhile
MAX_WOKEN = 4  # at most this many Secrets that wait for a slot are woken at once, each in a different namespace
MAX_WAITING = 50_000  # Secrets that are woken when a slot is free; other Secrets are checked after MAX_WAIT
MAX_WRITTEN = 10_000  # consumers whose last write is remembered until the watch shows it
MAX_ADOPTED = 10_000  # consumers of which it is remembered that they have adopted pods that are behind


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Limits for the number of unfinished rollouts at a time. None means no limit."""

    per_secret: int = 10
    per_namespace: int | None = None
    per_cluster: int | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    reasons: Counter[WaitReason]
    look_again_at: float


class RolloutPacer:
    """Rollout pacer. ``is_leader`` returns whether this replica leads. ``wall`` returns the seconds since 1970.

    Only the leader starts rollouts of a Secret that has more consumers than its pace allows at a time, because two
    replicas could both take the last slot. If the rollouts of a namespace or of the cluster are limited, only the
    leader starts rollouts there. Only the leader knows whose pods are being evicted, so it alone also starts the
    rollouts of a Secret with a consumer that asks for evictions.
    """

    def __init__(
        self,
        index: ConsumerIndex,
        namespaces: NamespaceCache,
        fights: RolloutFights,
        evictor: PodEvictor,
        limits: PaceLimits,
        is_leader: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._namespaces = namespaces
        self._fights = fights
        self._evictor = evictor
        self._limits = limits
        self._is_leader = is_leader
        self._wall = wall
        self._written: FairMap[str, WorkloadRef, Consumer] = FairMap(MAX_WRITTEN)
        # By workload, its uid, and the name of the mark: the value of the mark.
        self._adopted: FairMap[str, tuple[WorkloadRef, str, str], str] = FairMap(MAX_ADOPTED)
        self._starting: Counter[WorkloadRef] = Counter()
        self._waiting: dict[Target, _Waiting] = {}
        self._halted: dict[Target, str] = {}  # the text about the failed rollout that halts the others
        self._for_slots: FairMap[str, Target, None] = FairMap(MAX_WAITING)
        self._quiet_at: Callable[[Consumer, Target, Record], float] = lambda consumer, target, record: 0.0
        self._crashes: CrashLoops | None = None
        evictor.add_release_handler(self._on_release)

    def set_debounce(self, quiet_at: Callable[[Consumer, Target, Record], float]) -> None:
        """Register ``quiet_at``, which returns the time from which a consumer may be restarted for a Secret, in seconds
        since 1970. The pacer lets the consumer wait until then."""
        self._quiet_at = quiet_at

    def set_crash_loops(self, crashes: CrashLoops) -> None:
        """Register the detector of crash loops. A rollout whose new pods crash then counts as failed."""
        self._crashes = crashes

    def turn(
        self,
        target: Target,
        spec: BindingSpec,
        consumers: Sequence[Consumer],
        record: Record,
        tried: Collection[WorkloadRef] = (),
        begins: WorkloadRef | None = None,
    ) -> Turn:
        """Decide which of ``consumers`` may be restarted now. The rollout policy allows a restart of each of them, but
        the schedule can make some of them wait, for example for a rollout window.

        Consumers in ``tried`` that still need a mark are skipped. This reconcile has just tried to restart them, and
        has not written their marks: for example, the API server has refused a mark, or the restart has turned out to be
        unnecessary. ``begins`` is the workload for which ``held_up_by`` asks, or None.
        """
        current = [self.latest(each) for each in consumers]
        if self._crashes and record.halt:
            current = [self._crashes.told(each, target, record) for each in current]
        # A watched Secret has no status, so only this replica's memory knows of an earlier halt.
        told = record.halt or self._halted.get(target, "")
        resumed = is_resumed(spec, record)
        named = (each.ref for each in current if told and is_halt_of(told, each.ref, target, record))
        halting = None if resumed else next(named, None)
        needed = ((each, self.needed(each, rollout(each, target.name, record))) for each in current)
        marks = {each.ref: mark for each, mark in needed if mark and not self._fights.leaves_off(each, mark)}
        if not marks:
            self.forget(target)
            return Turn()
        now = self._wall()
        in_namespace = self._namespaces.annotations(target.namespace)
        window = in_namespace.get(WINDOW)
        candidates = [
            self._candidate(
                each, target, record, marks.get(each.ref), window, now, each.ref in tried, begins, each.ref == halting
            )
            for each in current
        ]
        # Consumers that may no longer be restarted also count until their rollouts end.
        open_now = [each for each in map(self.latest, self._index.of(target)) if self._is_open(each, now)]
        slots, shared = self._pace(spec) - len(open_now), INFINITY
        leaves_to_leader = self.needs_leader(target, spec) and not self._is_leader()
        if leaves_to_leader:
            slots = 0
        else:
            shared = self._shared_slots(target.namespace)
        by_ref = {each.ref: each for each in current}
        unfinished = (by_ref[each.ref] for each in candidates if each.state is ConsumerState.UNFINISHED)
        if not resumed and any(map(self._is_unsure, unfinished)):
            slots = 0  # the leader has to look at the pods first
        made = schedule(candidates, now, slots, shared, resumed, halting)
        start = [by_ref[ref] for ref in made.start]
        waits = [(by_ref[ref], wait) for ref, wait in made.waits.items()]
        unpaced = [by_ref[ref] for ref, mark in marks.items() if not may_restart(mark) and ref not in tried]
        halted_by = by_ref[made.halted_by] if made.halted_by else None
        frees_at = min((at for each in open_now if (at := open_until(each)) > now), default=INFINITY)
        has_failed = any(each.ref == made.halted_by and each.state is ConsumerState.FAILED for each in candidates)
        halt = (halt_of(halted_by, target, record) if has_failed else told) if halted_by else ""
        self._keep(target, made, halt, now, shared <= slots, frees_at)
        return Turn(start, unpaced, waits, halted_by, halt, leaves_to_leader and bool(waits))

    def note_adopted(self, consumer: Consumer, mark: RolloutAnnotation) -> None:
        """Remember that a consumer has adopted pods that are behind. From now on, it is due for ``mark``."""
        self._adopted.put(consumer.ref.namespace, (consumer.ref, consumer.uid, mark.name), mark.value)

    def needed(self, consumer: Consumer, mark: RolloutAnnotation | None) -> RolloutAnnotation | None:
        """Return the mark of a consumer. If the consumer is known to have adopted pods that are behind, the mark is
        undecided."""
        if mark is None or not mark.may_have_adopted:
            return mark
        known = self._adopted.get(consumer.ref.namespace, (consumer.ref, consumer.uid, mark.name))
        return replace(mark, undecided=True, may_have_adopted=False) if known == mark.value else mark

    def held_up_by(
        self, target: Target, spec: BindingSpec, consumers: Sequence[Consumer], record: Record, ref: WorkloadRef
    ) -> WaitReason | None:
        """Return the reason why the evictions of a workload's pods must not begin or go on now, or None if they may.

        Evictions that are not blocked have their slot already. Those that are blocked have given it back, and need one
        again. BACKOFF stands for a workload that is not due for a restart any more.
        """
        turn = self.turn(target, spec, consumers, record, begins=ref)
        if any(each.ref == ref for each in turn.start):
            return None
        return next((wait.reason for each, wait in turn.waits if each.ref == ref), WaitReason.BACKOFF)

    def needs_leader(self, target: Target, spec: BindingSpec) -> bool:
        """Return whether only the leader starts rollouts of a Secret. If the result is false, every replica may start
        them: even two replicas that do not see each other's writes cannot exceed a limit."""
        limits = (self._limits.per_cluster, self._limit(target.namespace))
        if self._index.count(target) > self._pace(spec) or any(each is not None for each in limits):
            return True
        return any(each.evicts for each in self._index.of(target))

    @contextmanager
    def starting(self, consumers: Iterable[Consumer]) -> Iterator[None]:
        """Reserve slots for consumers while their restarts are written."""
        refs = [each.ref for each in consumers]
        self._starting.update(refs)
        try:
            yield
        finally:
            self._starting.subtract(refs)
            self._starting = +self._starting

    def observe(self, consumer: Consumer) -> None:
        """Record the state of a consumer that this replica has just written or read. The watch may show this state
        later."""
        self._written.put(consumer.ref.namespace, consumer.ref, consumer)

    def latest(self, consumer: Consumer) -> Consumer:
        """Return the latest state of a consumer: the cached one, or the one that this replica has written or read. If
        the new pods of the consumer crash, its rollout counts as failed."""
        written = self._written.get(consumer.ref.namespace, consumer.ref)
        current = written if written and self._is_ahead(written) else self._index.latest(consumer) or consumer
        return self.judged(current)

    def judged(self, consumer: Consumer) -> Consumer:
        """Return a consumer, with a failed rollout if its new pods crash (``CrashLoops.judged``)."""
        return self._crashes.judged(consumer) if self._crashes else consumer

    def look_again_in(self, target: Target) -> float | None:
        """Return the seconds until a Secret has to be checked again, or None if no time is set."""
        waiting = self._waiting.get(target)
        if waiting is None or waiting.look_again_at == INFINITY:
            return None
        return min(MAX_LOOK_AGAIN, max(0.0, waiting.look_again_at - self._wall()))

    def forget(self, target: Target) -> None:
        """Forget a Secret that is gone, or for which no consumer waits."""
        self._waiting.pop(target, None)
        self._halted.pop(target, None)
        self._for_slots.pop(target.namespace, target)

    def halted(self) -> int:
        """Return the number of Secrets with a failed consumer that halts the others."""
        return len(self._halted)

    def waiting(self, reason: WaitReason) -> int:
        """Return the number of consumers that wait for this reason."""
        return sum(each.reasons[reason] for each in self._waiting.values())

    def on_progress(self, before: Consumer | None, after: Consumer) -> None:
        """Wake the Secrets that wait for a consumer if the state of its rollout has changed, or if the setting that
        keeps its pods from restarting has changed."""
        if before is None or stance(before) != stance(after):
            self._wake(after.ref, after.reads)

    def _on_release(self, ref: WorkloadRef, target: Target) -> None:
        """Check each Secret that the workload reads, because the workload may be due for it, too. Also wake Secrets
        that wait for a slot."""
        consumer = self._index.get(ref, target)
        for name in {target.name, *(consumer.reads if consumer else ())}:
            self._index.notify(Target(ref.namespace, name))
        self._wake(ref, ())

    def on_unread(self, ref: WorkloadRef, target: Target) -> None:
        """Wake a Secret whose consumer is gone or no longer reads the Secret."""
        self._wake(ref, (target.name,))

    def on_started_leading(self) -> None:
        """Wake every waiting Secret, because some Secrets wait only for a leader."""
        for target in list(self._waiting):
            self._index.notify(target)

    def _wake(self, ref: WorkloadRef, names: Iterable[str]) -> None:
        for name in names:
            target = Target(ref.namespace, name)
            if target in self._waiting:
                self._index.notify(target)
        for namespace in list(self._for_slots)[:MAX_WOKEN]:
            target, _ = self._for_slots.pop_oldest(namespace)
            self._for_slots.move_to_end(namespace)
            self._index.notify(target)

    def _keep(self, target: Target, made: Schedule, halt: str, now: float, is_shared: bool, frees_at: float) -> None:
        """Remember who waits, and the text about a halt. At ``frees_at``, the deadline of a rollout frees a slot of the
        Secret."""
        reasons = Counter(wait.reason for wait in made.waits.values())
        for_slots = is_shared and reasons[WaitReason.PACE] > 0
        look_again_at = min(made.look_again_at, now + MAX_WAIT) if for_slots else made.look_again_at
        if reasons[WaitReason.PACE]:
            look_again_at = min(look_again_at, frees_at)
        self.forget(target)
        if reasons:
            self._waiting[target] = _Waiting(reasons, look_again_at)
        if halt:
            self._halted[target] = halt
        if for_slots:
            self._for_slots.put(target.namespace, target, None)

    def _candidate(
        self,
        consumer: Consumer,
        target: Target,
        record: Record,
        mark: RolloutAnnotation | None,
        window: str | None,
        now: float,
        was_tried: bool,
        begins: WorkloadRef | None,
        is_halting: bool,
    ) -> Candidate:
        if mark is None or not may_restart(mark):
            if self._evictor.is_replacing(consumer, target):
                return Candidate(consumer.ref, ConsumerState.UNFINISHED, consumer.order)
            return other_candidate(consumer, target.name, record, now, is_halting)
        if consumer.ref == begins:
            has_slot = not self._evictor.is_blocked(consumer, target) or self._is_open(consumer, now)
            return due_candidate(consumer, window, now, has_slot)
        if self._evictor.is_blocked(consumer, target):
            return Candidate(consumer.ref, ConsumerState.SETTLED, consumer.order)
        delay = max(self._fights.delay(consumer, mark), self._evictor.delay(consumer))
        until = INFINITY if was_tried else now + delay
        quiet_at = self._quiet_at(consumer, target, record)
        is_open = self._is_open(consumer, now) and not self._is_unsure(consumer)
        return due_candidate(consumer, window, now, is_open, until, quiet_at)

    def _is_unsure(self, consumer: Consumer) -> bool:
        return self._crashes is not None and self._crashes.is_unsure(consumer)

    def _is_open(self, consumer: Consumer, now: float) -> bool:
        ref = consumer.ref
        return takes_slot(consumer, now) or ref in self._starting or self._evictor.takes_slot(ref)

    def _pace(self, spec: BindingSpec) -> int:
        return min(self._limits.per_secret, spec.pace or self._limits.per_secret)

    def _limit(self, namespace: str) -> int | None:
        """Return the limit for the rollouts of a namespace, or None."""
        limits = (self._limits.per_namespace, read_pace(self._namespaces.annotations(namespace)))
        return min((each for each in limits if each is not None), default=None)

    def _shared_slots(self, namespace: str) -> float:
        """Return the number of further rollouts that the limits of the namespace and of the cluster allow now."""
        cluster, of_namespace, slots = self._limits.per_cluster, self._limit(namespace), INFINITY
        if of_namespace is not None:
            slots = of_namespace - len(self._open_refs(namespace))
        if cluster is not None:
            slots = min(slots, cluster - sum(len(self._open_refs(each)) for each in self._namespaces_with_rollouts()))
        return slots

    def _namespaces_with_rollouts(self) -> set[str]:
        starting = (ref.namespace for ref in self._starting)
        return {*self._index.open_rollouts, *self._written, *starting, *self._evictor.namespaces()}

    def _open_refs(self, namespace: str) -> set[WorkloadRef]:
        now = self._wall()
        refs = {ref for ref, until in self._index.open_rollouts.get(namespace, {}).items() if now < until}
        for ref in self._written.of(namespace):
            written = self._written.get(namespace, ref)
            if written and self._is_ahead(written):
                (refs.add if takes_slot(written, now) else refs.discard)(ref)
        if self._crashes:
            refs -= self._crashes.failed(namespace)
        return refs | {ref for ref in self._starting if ref.namespace == namespace} | self._evictor.slots(namespace)

    def _is_ahead(self, written: Consumer) -> bool:
        """Return whether a written state of a consumer is newer than the cached state. If it is not, forget the written
        state.

        The resource versions of one kind of object are numbers that grow:
        https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
        """
        cached = self._index.latest(written)
        if cached:
            ours, theirs = written.resource_version, cached.resource_version
            if ours.isdecimal() and theirs.isdecimal() and int(theirs) < int(ours):
                return True
        self._written.pop(written.ref.namespace, written.ref)
        return False


def stance(consumer: Consumer) -> tuple[object, ...]:
    """Return an object that changes when the state of a consumer's rollout, or its ``hold``, changes. Callers only
    compare it."""
    progress = consumer.progress
    return consumer.hold, (progress.state, progress.has_ended) if progress else None
