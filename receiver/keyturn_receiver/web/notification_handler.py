"""Notification handler. Turns one verified notification into its result."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyturn_contract.message import (
    MAX_HEARTBEAT_AGE,
    REASON_HEARTBEAT,
    REASON_NO_LONGER_BOUND,
    REASON_NOT_BOUND,
    EventType,
    Notification,
    Outcome,
    Result,
)
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import KeyturnError, Permanent
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.telemetry.metrics import Metrics

MAX_REASON_LENGTH = 1000  # characters

_Completion = ReconcileResult | KeyturnError | None  # None means that it is not done within the deadline


@dataclass(frozen=True, slots=True)
class _PendingReconcile:
    """A reconcile that a notification waits for.

    ``expected`` has the version ids that the Secret should be made from.
    """

    target: Target
    expected: frozenset[str]
    future: "asyncio.Future[ReconcileResult]"

    @property
    def completion(self) -> _Completion:
        if not self.future.done():
            return None
        result = self.future.result()
        return result.error or result


class NotificationHandler:
    """Notification handler. Reconciles every binding that a notification may concern, and reports the outcome.

    ``on_heartbeat`` is called with the time of each heartbeat that is recent enough. ``now`` returns the time in UTC.
    """

    def __init__(
        self,
        secrets: SecretCache,
        queue: WorkQueue,
        access_policy: AccessPolicy,
        on_heartbeat: Callable[[datetime], None],
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._secrets = secrets
        self._queue = queue
        self._access_policy = access_policy
        self._on_heartbeat = on_heartbeat
        self._metrics = metrics
        self._now = now

    async def handle(self, notification: Notification, deadline: Callable[[], float]) -> Result:
        """Reconcile the bindings that a notification may concern, and wait for the results.

        ``deadline`` returns the end of the wait in monotonic seconds. It is called again every second, because a
        shutdown can move the end.
        """
        if notification.type is EventType.HEARTBEAT:
            self._record_heartbeat(notification)
            return Result(notification.id, Outcome.IGNORED, reason=REASON_HEARTBEAT)
        self._metrics.notification_age_seconds.observe(self._age(notification))
        reconciles = self._submit(notification)
        if not reconciles:
            return Result(notification.id, Outcome.IGNORED, reason=REASON_NOT_BOUND)
        await _wait_until(deadline, [each.future for each in reconciles])
        result = _result(notification.id, reconciles)
        if result.outcome is Outcome.APPLIED:
            self._metrics.propagation_seconds.observe(self._age(notification))
        return result

    def _submit(self, notification: Notification) -> Sequence[_PendingReconcile]:
        data, since = notification.data, time.monotonic()
        names = {*candidate_names(notification.subject), *([data.name] if data.name else [])}
        reconciles: list[_PendingReconcile] = []
        for target in self._secrets.by_secret_id(notification.subject, data.name):
            bound = self._secrets.get(target)
            if bound is None or not self._access_policy.could_apply(bound, names):
                continue
            # A notification about a different label does not tell which version this Secret should be made from.
            has_version = notification.type is EventType.CHANGED and data.label in (None, bound.spec.stage)
            expected = frozenset({data.version_id} if has_version and data.version_id else ())
            request = Request(frozenset({Cause.NOTIFICATION}), since, expected, (notification.id,), not expected)
            reconciles.append(
                _PendingReconcile(target, expected, self._queue.submit(target, request, bound.spec.secret_id))
            )
        return reconciles

    def _record_heartbeat(self, notification: Notification) -> None:
        sent = _sent(notification)
        # `helm test` and the signing key's rotation send an older heartbeat on purpose.
        if sent and abs((self._now() - sent).total_seconds()) < MAX_HEARTBEAT_AGE:
            self._metrics.notification_age_seconds.observe(self._age(notification))
            self._on_heartbeat(sent)

    def _age(self, notification: Notification) -> float:
        sent = _sent(notification)
        return max(0.0, (self._now() - sent).total_seconds()) if sent else 0.0


def _sent(notification: Notification) -> datetime | None:
    """Return the time of the event, or None if it is not a valid time, such as 31 February."""
    try:
        sent = datetime.fromisoformat(notification.time)
    except ValueError:
        return None
    return sent if sent.tzinfo else None


async def _wait_until(deadline: Callable[[], float], futures: Sequence["asyncio.Future[ReconcileResult]"]) -> None:
    while (seconds := deadline() - time.monotonic()) > 0:
        _, pending = await asyncio.wait(futures, timeout=min(1.0, seconds))
        if not pending:
            return


def _result(notification_id: str, reconciles: Sequence[_PendingReconcile]) -> Result:
    completions = [(each, each.completion) for each in reconciles]
    succeeded = [(each, completion) for each, completion in completions if isinstance(completion, ReconcileResult)]
    failed = [(each, completion) for each, completion in completions if not isinstance(completion, ReconcileResult)]
    secrets = tuple(str(each.target) for each, completion in succeeded if completion.changed)
    consumers = tuple(str(ref) for _, completion in succeeded for ref in completion.restarted)
    reason = "; ".join(f"{each.target}: {_reason(error)}" for each, error in failed)[:MAX_REASON_LENGTH] or None
    if any(not isinstance(error, Permanent) for _, error in failed):
        outcome = Outcome.FAILED
    elif secrets or consumers:
        outcome = Outcome.APPLIED
    elif failed:
        # If the notification were sent again, it would fail in the same way. The Secret's status tells its owner what
        # to correct, and the correction itself starts the next reconcile.
        outcome = Outcome.IGNORED
    elif not any(completion.bound for _, completion in succeeded):
        outcome, reason = Outcome.IGNORED, REASON_NO_LONGER_BOUND
    elif all(each.expected - completion.version_ids for each, completion in succeeded):
        outcome = Outcome.SUPERSEDED
    else:
        outcome = Outcome.UNCHANGED
    return Result(notification_id, outcome, secrets, consumers, reason)


def _reason(error: KeyturnError | None) -> str:
    return "not done within the deadline" if error is None else str(error)
