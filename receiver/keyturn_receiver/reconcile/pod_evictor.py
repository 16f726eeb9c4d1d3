"""Pod evictor. If a workload asks for evictions (``core/restart_way.py``), the evictor evicts, one by one, those of its
pods that use an older value of a Secret.

Such pods are called "behind". They are evicted through the Eviction API, which respects PodDisruptionBudgets. A Ready
pod is evicted only if all pods that the workload should have are Ready. Each step is derived from the cluster's state,
because the pods that are behind are the remaining work. So another replica can continue after a crash. Only the leader
evicts.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.workload_client import Workload, WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, mark_name
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import is_behind, rollout
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.errors import ClusterRefused, Conflict, DisruptionNotAllowed, KeyturnError, NotFound
from keyturn_receiver.reconcile.record_client import RecordClient
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.resilience.fair_map import FairMap

MAX_RUNS = 100  # workloads whose pods are evicted at the same time
MAX_RUNS_PER_NAMESPACE = 5
MAX_BLOCKED = 1000  # the same with those whose evictions do not go on; each costs a look every half minute
MAX_BLOCKED_PER_NAMESPACE = 50
STEP_SECONDS = 1.0  # seconds between two looks at the pods
WAIT_BACKOFF = Backoff(base=1.0, cap=30.0, jitter=0)  # seconds between two looks while nothing can be evicted
TOLD_AFTER = 60.0  # seconds without an eviction after which an Event gives the reason
# Seconds to wait until the new pods are Ready, or until another pod may be evicted. After that, other workloads do not
# wait for this one.
FINISH_SECONDS = 600.0
REFUSED_SECONDS = 300.0  # seconds until a refused eviction is tried again
# Seconds until the next check whether the evictions of a workload can begin. Evictions cannot begin if the pods of too
# many other workloads are being evicted, if the workload's evictions have begun already, or if this replica does not
# lead.
RECHECK = 15.0
WAITS = "RestartWaits"

_WITH_OLD_VALUE = "its pods are evicted one by one, and some still run with an old value: "
_BLOCKED = _WITH_OLD_VALUE + "a PodDisruptionBudget does not allow the next eviction"
_NOT_READY = _WITH_OLD_VALUE + "fewer of its pods are Ready than it should have"
_NOT_READY_WITH_NEW_VALUE = (
    "its pods with an old value are evicted, and fewer of the others are Ready than it should have"
)
_FORBIDDEN = (
    "no pod is evicted: the receiver may not; set the chart's rollouts.evict: true, or remove the annotation"
    " keyturn.dev/restart"
)

_log = logging.getLogger(__name__)

Permits = Callable[[Consumer], bool]
HeldUpBy = Callable[[Record], WaitReason | None]
Done = Callable[[Target, Consumer, int, int | None], None]


@dataclass(slots=True)
class _Run:
    """The evictions of one workload for one change of a Secret. ``mark`` is the value of the mark that stands for this
    change. It is empty before the first look at the pods. ``is_blocked`` tells whether the evictions do not go on,
    because the API server refuses a call, or because nothing could be evicted for FINISH_SECONDS. ``is_trying`` tells
    whether such evictions have a slot again for one more try. ``waits`` counts the looks at the pods since the last
    eviction. ``waits_since`` is the time of the first of these looks. ``replaced_at`` is the time of the last eviction,
    or of the first look that found no pod behind. Before that, it is None. ``waits_since`` and ``replaced_at`` are in
    monotonic seconds. ``until`` is the creation of the youngest pod at the first look, in seconds since 1970."""

    target: Target
    uid: str
    permits: Permits
    held_up_by: HeldUpBy
    task: asyncio.Task[None] | None = None
    mark: str = ""
    is_blocked: bool = False
    is_trying: bool = False
    waits: int = 0
    waits_since: float = 0.0
    replaced_at: float | None = None
    until: int | None = None


class PodEvictor:
    """Pod evictor. Works on several workloads at a time, with a share for each namespace.

    ``is_leader`` returns whether this replica leads. ``now`` returns monotonic seconds.
    """

    def __init__(
        self,
        workloads: WorkloadClient,
        secrets: RecordClient,
        events: EventRecorder,
        fights: RolloutFights,
        is_leader: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workloads = workloads
        self._secrets = secrets
        self._events = events
        self._fights = fights
        self._is_leader = is_leader
        self._now = now
        self._runs: FairMap[str, WorkloadRef, _Run] = FairMap(MAX_BLOCKED + 1)
        self._begun_handlers: list[Callable[[Consumer], None]] = []
        self._done_handlers: list[Done] = []
        self._release_handlers: list[Callable[[WorkloadRef, Target], None]] = []

    def add_begun_handler(self, on_begun: Callable[[Consumer], None]) -> None:
        """Register ``on_begun``, which is called with a workload when the first of its pods is evicted for a change."""
        self._begun_handlers.append(on_begun)

    def add_done_handler(self, on_done: Done) -> None:
        """Register ``on_done``, which is called when all pods of a workload have the new value and are Ready.

        Its arguments are the Secret, the workload with its new mark, the number of its pods, and the time at which the
        last of these pods became ready. The time is in seconds since 1970, or None if it is not known. ``on_done`` is
        not called if this replica stops leading first, or if the pods are not Ready within FINISH_SECONDS.
        """
        self._done_handlers.append(on_done)

    def add_release_handler(self, on_release: Callable[[WorkloadRef, Target], None]) -> None:
        """Register ``on_release``, which is called with a workload and a Secret when the evictions of the workload's
        pods no longer take a slot of the pace."""
        self._release_handlers.append(on_release)

    def is_busy(self, consumer: Consumer) -> bool:
        """Return whether pods of this consumer are being evicted."""
        return self._runs.get(consumer.ref.namespace, consumer.ref) is not None

    def is_replacing(self, consumer: Consumer, target: Target) -> bool:
        """Return whether pods of this consumer are being evicted for a Secret, or are evicted but not yet replaced by
        Ready pods. Return False if the evictions do not go on."""
        run = self._runs.get(consumer.ref.namespace, consumer.ref)
        return run is not None and run.target == target and not run.is_blocked

    def is_blocked(self, consumer: Consumer, target: Target) -> bool:
        """Return whether the evictions of this consumer's pods have begun for a Secret, but do not go on."""
        run = self._runs.get(consumer.ref.namespace, consumer.ref)
        return run is not None and run.target == target and run.is_blocked

    def takes_slot(self, ref: WorkloadRef) -> bool:
        """Return whether evictions of a workload's pods take a slot of the pace. Evictions that do not go on take none,
        because they may never end. They need one again for each further try."""
        run = self._runs.get(ref.namespace, ref)
        return run is not None and (run.is_trying or not run.is_blocked)

    def slots(self, namespace: str) -> set[WorkloadRef]:
        """Return the workloads of a namespace whose evictions take a slot."""
        return {ref for ref in self._runs.of(namespace) if self.takes_slot(ref)}

    def namespaces(self) -> Iterable[str]:
        """Return the namespaces in which pods are being evicted."""
        return self._runs

    def delay(self, consumer: Consumer) -> float:
        """Return the seconds until the next check whether the evictions of a consumer can begin. Return 0.0 if they can
        begin now, or if the consumer does not ask for evictions."""
        return RECHECK if consumer.evicts and not self._has_room_for(consumer) else 0.0

    def start(self, target: Target, consumer: Consumer, permits: Permits, held_up_by: HeldUpBy) -> bool:
        """Begin to evict those pods of a consumer that use an older value than the Secret has.

        If no such pod is left, only the end is reported, because an earlier leader may not have reported it. The
        evictions run in the background. Return whether they were begun. ``permits`` tells whether a consumer may be
        restarted. ``held_up_by`` returns why the schedule does not let an eviction happen, given the record of the
        Secret, or None if it does. Something may have held back this eviction for hours.
        """
        if not self._has_room_for(consumer):
            return False
        run = _Run(target, consumer.uid, permits, held_up_by)
        run.task = asyncio.get_running_loop().create_task(self._run(run, consumer.ref))
        self._runs.put(consumer.ref.namespace, consumer.ref, run)
        return True

    def _has_room_for(self, consumer: Consumer) -> bool:
        here = consumer.ref.namespace
        if not self._is_leader() or self.is_busy(consumer):
            return False
        if len(self.slots(here)) >= MAX_RUNS_PER_NAMESPACE or self._runs.size(here) >= MAX_BLOCKED_PER_NAMESPACE:
            return False
        if len(self._runs) < MAX_RUNS:
            return True
        return self._going_on() < MAX_RUNS and len(self._runs) < MAX_BLOCKED

    def _going_on(self) -> int:
        return sum(len(self.slots(namespace)) for namespace in self._runs)

    def _held_up_by(self, run: _Run, ref: WorkloadRef, record: Record) -> WaitReason | None:
        """Return why no pod may be evicted now, or None if one may. The schedule decides about the first eviction. It
        also decides about each eviction of a run that has given its slot back. Many such runs can go on at the same
        time, for example when a PodDisruptionBudget is loosened."""
        if run.is_blocked and (
            len(self.slots(ref.namespace)) >= MAX_RUNS_PER_NAMESPACE or self._going_on() >= MAX_RUNS
        ):
            return WaitReason.PACE
        return run.held_up_by(record) if run.is_blocked or run.replaced_at is None else None

    async def _run(self, run: _Run, ref: WorkloadRef) -> None:
        try:
            while self._is_leader():
                pause = await self._try_step(run, ref)
                if pause is None:
                    return
                await asyncio.sleep(pause)
        except Exception:
            # A bug must not stop the evictions for other workloads.
            _log.exception("evictions of the pods of %s have failed", ref)
        finally:
            self._runs.pop(ref.namespace, ref)
            self._release(run, ref)

    def _release(self, run: _Run, ref: WorkloadRef) -> None:
        for on_release in self._release_handlers:
            on_release(ref, run.target)

    async def _try_step(self, run: _Run, ref: WorkloadRef) -> float | None:
        """Make one step. Return the seconds until the next one, or None if nothing is left to do."""
        try:
            return await self._step(run, ref)
        except DisruptionNotAllowed:
            return self._wait(run, ref, _BLOCKED)
        except NotFound:
            return STEP_SECONDS if await self._exists(ref) else None
        except Conflict:
            return STEP_SECONDS
        except ClusterRefused as error:
            return self._refused(run, ref, error, str(error))
        except KeyturnError as error:
            return self._wait(run, ref, f"{_WITH_OLD_VALUE}{error}")

    async def _step(self, run: _Run, ref: WorkloadRef) -> float | None:
        workload = await self._workloads.inspect(ref, "")
        consumer = workload.consumer
        if consumer is None or not consumer.evicts or not run.permits(consumer):
            return None
        try:
            record = await self._secrets.read_record(run.target)
        except NotFound:
            return None
        # Only the cache knows whether this replica saw the workload late. To be safe, assume here that it did.
        mark = rollout(replace(consumer, seen_late=True), run.target.name, record)
        if mark is None:
            # If the mark is not that of this run, somebody has brought the former value back.
            is_done = consumer.baseline.get(mark_name(run.target.name)) == run.mark or not run.mark
            return await self._finish(run, workload, consumer) if is_done else None
        run.mark = run.mark or mark.value
        if mark.value != run.mark:
            return None  # the Secret has changed again, and the pacer decides when these pods may restart for that
        pod, is_enough = None, False
        if mark.undecided or mark.may_have_adopted:
            pod, is_enough = await self._next(
                run, workload, lambda pod: is_behind(pod, run.target.name, record, mark, True)
            )
        if pod is None:
            if mark.undecided and mark.marked and run.replaced_at is None:
                run.replaced_at = self._now()
            if not (self._fights.delay(consumer, mark) or self._fights.keeps_off(consumer, mark)):
                marked = await self._workloads.mark(consumer, replace(mark, restart=False))
                if marked:
                    self._fights.observe(consumer, marked)
                    consumer = marked
            return await self._finish(run, workload, consumer)
        if pod.is_ready and not is_enough:
            return self._wait(run, ref, _NOT_READY)
        reason = self._held_up_by(run, ref, record) if self._is_leader() else WaitReason.BACKOFF
        if reason:
            return WAIT_BACKOFF.cap if reason is WaitReason.PACE else None
        run.is_trying = run.is_blocked
        try:
            await self._workloads.evict(ref, pod)
            run.is_blocked = False
        except NotFound:
            raise
        except ClusterRefused as error:
            return self._refused(run, ref, error, _FORBIDDEN)
        finally:
            was_trying, run.is_trying = run.is_trying, False
            if was_trying and run.is_blocked:  # another workload may wait for the slot of this try
                self._release(run, ref)
        if run.replaced_at is None:
            for on_begun in self._begun_handlers:
                on_begun(consumer)
        run.waits, run.replaced_at = 0, self._now()
        return STEP_SECONDS

    async def _finish(self, run: _Run, workload: Workload, consumer: Consumer) -> float | None:
        """Wait until the pods that replace the evicted pods are Ready. Returns the seconds until the next step, or None
        if nothing is left to do."""
        if run.replaced_at is None or self._now() - run.replaced_at > FINISH_SECONDS:
            return None
        ready, ready_at = 0, None
        async with aclosing(self._workloads.pods(workload)) as pods:
            async for pod in pods:
                ready += pod.is_ready
                ready_at = max((at for at in (ready_at, pod.ready_at) if at is not None), default=None)
        if ready < workload.replicas:
            return self._wait(run, workload.ref, _NOT_READY_WITH_NEW_VALUE)
        if workload.replicas:
            for on_done in self._done_handlers:
                on_done(run.target, consumer, workload.replicas, ready_at)
        return None

    async def _next(self, run: _Run, workload: Workload, behind: Callable[[Pod], bool]) -> tuple[Pod | None, bool]:
        """Return two results: the pod to evict next, and whether all wanted pods are Ready. The pod is None if no pod
        is behind.

        Pods that are not Ready are evicted first, because they serve nobody. Older pods are evicted before younger
        ones. A pod that was created after the first look of this run has read the present value.
        """
        found: Pod | None = None
        ready, youngest = 0, 0
        async with aclosing(self._workloads.pods(workload)) as pods:
            async for pod in pods:
                ready += pod.is_ready
                youngest = max(youngest, pod.created)
                if run.until is not None and pod.created > run.until:
                    continue
                if behind(pod) and (found is None or (pod.is_ready, pod.created) < (found.is_ready, found.created)):
                    found = pod
        run.until = youngest if run.until is None else run.until
        return found, ready >= workload.replicas

    async def _exists(self, ref: WorkloadRef) -> bool:
        try:
            return await self._workloads.read(ref) is not None
        except NotFound:
            return False
        except KeyturnError:
            return True

    def _wait(self, run: _Run, ref: WorkloadRef, why: str) -> float:
        run.waits += 1
        if run.waits == 1:
            run.waits_since = self._now()
        elif self._now() - run.waits_since >= TOLD_AFTER:
            self._tell(run, ref, WAITS, why)
        if self._now() - run.waits_since >= FINISH_SECONDS:
            self._block(run, ref)
        return WAIT_BACKOFF.delay(run.waits)

    def _refused(self, run: _Run, ref: WorkloadRef, error: ClusterRefused, message: str) -> float:
        self._tell(run, ref, error.reason, message)
        self._block(run, ref)
        return REFUSED_SECONDS

    def _block(self, run: _Run, ref: WorkloadRef) -> None:
        if not run.is_blocked:
            run.is_blocked = True
            self._release(run, ref)

    def _tell(self, run: _Run, ref: WorkloadRef, reason: str, message: str) -> None:
        message = f"Secret {run.target.name}: {message}"
        self._events.event(Target(ref.namespace, ref.name), run.uid, True, reason, message, kind=ref.kind)
