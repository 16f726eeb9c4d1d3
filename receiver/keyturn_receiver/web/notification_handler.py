"""From one verified notification to its result: reconcile every binding it may concern, and say what came of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from keyturn_contract.message import EventType, Notification, Outcome, Result
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.core.binding import CURRENT, Target
from keyturn_receiver.errors import KeyturnError, Permanent
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.telemetry.metrics import Metrics

FRESH_SECONDS = 300.0  # an older heartbeat tells of a queue that was stuck, not of a path that is alive
MOST_REASON = 1000  # characters

_Ending = ReconcileResult | KeyturnError | None  # None: not done within the deadline
_Concern = tuple[Target, frozenset[str], "asyncio.Future[ReconcileResult]"]


class NotificationHandler:
    """Answers notifications once their work is done; ``heard`` is told of heartbeats, ``now`` gives the time in UTC."""

    def __init__(
        self,
        bound: SecretCache,
        queue: WorkQueue,
        tenancies: AccessPolicy,
        heard: Callable[[], None],
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._bound = bound
        self._queue = queue
        self._tenancies = tenancies
        self._heard = heard
        self._metrics = metrics
        self._now = now

    async def __call__(self, notification: Notification, deadline: Callable[[], float]) -> Result:
        """Reconcile what the notification may concern, until ``deadline`` (monotonic seconds), which may move."""
        age = self._age(notification)
        if notification.type is EventType.HEARTBEAT:
            if age < FRESH_SECONDS:  # an older one tells nothing, such as that of `helm test`
                self._metrics.notification_age_seconds.observe(age)
                self._heard()
            return Result(notification.id, Outcome.IGNORED, reason="heartbeat")
        self._metrics.notification_age_seconds.observe(age)
        concerns = self._submit(notification)
        if not concerns:
            return Result(notification.id, Outcome.IGNORED, reason="no Secret is bound to it")
        await _until([done for _, _, done in concerns], deadline)
        result = _result(notification.id, [(target, expected, _ending(done)) for target, expected, done in concerns])
        if result.outcome is Outcome.APPLIED:
            self._metrics.propagation_seconds.observe(self._age(notification))
        return result

    def _submit(self, notification: Notification) -> Sequence[_Concern]:
        told, since = notification.data, time.monotonic()
        names = {*candidate_names(notification.subject), *([told.name] if told.name else [])}
        concerns: list[_Concern] = []
        for target in self._bound.by_secret_id(notification.subject, told.name):
            bound = self._bound.get(target)
            if bound and not self._tenancies.could_apply(bound, names):
                continue
            stage = bound.stage if bound else CURRENT
            # The version that the Secret should be made from: none, if the notification is about another label.
            concerned = notification.type is EventType.CHANGED and told.label in (None, stage)
            expected = frozenset({told.version_id} if concerned and told.version_id else ())
            request = Request(frozenset({Cause.NOTIFICATION}), since, expected, (notification.id,), not expected)
            concerns.append((target, expected, self._queue.submit(target, request)))
        return concerns

    def _age(self, notification: Notification) -> float:
        try:
            return max(0.0, (self._now() - datetime.fromisoformat(notification.time)).total_seconds())
        except (ValueError, TypeError):
            return 0.0  # a time that is none, such as the 31st of February


async def _until(work: Sequence["asyncio.Future[ReconcileResult]"], deadline: Callable[[], float]) -> None:
    while (left := deadline() - time.monotonic()) > 0:
        _, under_way = await asyncio.wait(work, timeout=min(1.0, left))
        if not under_way:
            return


def _ending(done: "asyncio.Future[ReconcileResult]") -> _Ending:
    if not done.done():
        return None
    error = done.exception()
    return error if isinstance(error, KeyturnError) else done.result()


def _result(notification_id: str, ends: Sequence[tuple[Target, frozenset[str], _Ending]]) -> Result:
    done = [(target, expected, ending) for target, expected, ending in ends if isinstance(ending, ReconcileResult)]
    faults = [(target, ending) for target, _, ending in ends if not isinstance(ending, ReconcileResult)]
    secrets = tuple(str(target) for target, _, ending in done if ending.changed)
    consumers = tuple(str(ref) for _, _, ending in done for ref in ending.restarted)
    reason = "; ".join(f"{target}: {_why(fault)}" for target, fault in faults)[:MOST_REASON] or None
    if any(not isinstance(fault, Permanent) for _, fault in faults):
        outcome = Outcome.FAILED
    elif secrets or consumers:
        outcome = Outcome.APPLIED
    elif faults:
        # Sending it again would change nothing: the Secret tells its owner, whose correction is seen by itself.
        outcome = Outcome.IGNORED
    elif not any(ending.bound for _, _, ending in done):
        outcome, reason = Outcome.IGNORED, "no Secret is bound to it any more"
    elif all(expected - ending.version_ids for _, expected, ending in done):
        outcome = Outcome.SUPERSEDED
    else:
        outcome = Outcome.UNCHANGED
    return Result(notification_id, outcome, secrets, consumers, reason)


def _why(fault: KeyturnError | None) -> str:
    return "not done within the deadline" if fault is None else str(fault)
