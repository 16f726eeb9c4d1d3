"""Rollout debouncer. It delays the restart of a workload while other Secrets of the workload may still change. One
write then sets the marks of all changed Secrets. A mark is the annotation that restarts the pods for one Secret."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_debounce import MAX_SECRETS, due_marks, quiet_at
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.resilience.fair_map import FairMap

# The longest time, in seconds, for which changes of other Secrets delay a restart.
MAX_SECONDS = 10.0
MAX_WAITING = 10_000  # workloads whose wait is remembered


@dataclass(frozen=True, slots=True)
class _Wait:
    """The wait of a workload. ``marks`` has the workload's marks on the pod template and on the workload itself."""

    began: float
    marks: tuple[Mapping[str, str], Mapping[str, str]]


class RolloutDebouncer:
    """Rollout debouncer. Before a restart, a workload waits until its Secrets stop changing. ``wall`` returns the
    seconds since 1970.

    The debouncer remembers only the time at which each wait began, and the marks that the workload had then. If this
    memory is lost, the wait begins again. A wait has ended if the marks of the workload have changed, because another
    replica may have restarted it. It has also ended after twice MAX_SECONDS, because the change may have been undone
    without a restart.
    """

    def __init__(self, secrets: SecretLookup, policy: RolloutPolicy, wall: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._policy = policy
        self._wall = wall
        self._waits: FairMap[str, WorkloadRef, _Wait] = FairMap(MAX_WAITING)  # by namespace

    def quiet_at(self, consumer: Consumer, target: Target, record: Record) -> float:
        """Return the time, in seconds since 1970, from which a consumer may be restarted for the Secret at ``target``.
        The time is in the past if the consumer need not wait, for example because it reads no other bound or watched
        Secret."""
        records = self._others(consumer, target)
        if not records:
            return 0.0
        now, ref = self._wall(), consumer.ref
        due = {target.name, *due_marks(consumer, records)}
        at = quiet_at(consumer, {**records, target.name: record}, due, now)
        marks = (consumer.marks, consumer.baseline)
        wait = self._waits.get(ref.namespace, ref)
        if wait and (wait.marks != marks or now >= wait.began + 2 * MAX_SECONDS):
            wait = None
        if at <= now or (wait and now >= wait.began + MAX_SECONDS):
            return 0.0
        if wait is None:
            wait = _Wait(now, marks)
            self._waits.put(ref.namespace, ref, wait)
        return min(at, wait.began + MAX_SECONDS)

    def marks_beside(self, consumer: Consumer, target: Target) -> list[RolloutAnnotation]:
        """Return the marks that a consumer needs for its other Secrets. The restart for the Secret at ``target`` also
        serves those Secrets."""
        self._waits.pop(consumer.ref.namespace, consumer.ref)
        return list(due_marks(consumer, self._others(consumer, target), may_have_adopted=True).values())

    def _others(self, consumer: Consumer, target: Target) -> dict[str, Record]:
        records: dict[str, Record] = {}
        for name in islice(consumer.reads, MAX_SECRETS):
            other = Target(target.namespace, name)
            secret = self._secrets.get(other) if name != target.name else None
            if secret and self._policy.permits(consumer, other, secret.spec):
                records[name] = secret.record
        return records
