"""Notification handler. It turns one verified notification into a result."""

import asyncio
import time
from collections.abc import Callable, Sequence, Set
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
    VersionState,
)
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.arn import candidate_names, may_share_account
from keyturn_receiver.core.binding import Source, Target
from keyturn_receiver.errors import ClusterUnavailable, KeyturnError, Permanent, Temporary
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.resilience.time_slice import TimeSlice
from keyturn_receiver.resilience.turns import take_turns
from keyturn_receiver.telemetry.metrics import Metrics

MAX_REASON_LENGTH = 1000  # characters
# Characters per list of names in a result. The ten results of a delivery must fit into the reply, and the notifier
# limits the size of a reply.
MAX_NAMES_LENGTH = 7000

_Completion = ReconcileResult | KeyturnError | None  # None means that the reconcile has not ended before the deadline


@dataclass(frozen=True, slots=True)
class _PendingReconcile:
    """A reconcile whose end a notification waits for.

    ``expected`` are the version ids from which the Secret should be made. ``about`` are those AWS secrets of the
    binding that the notification concerns. ``may_fail_alone`` is true if the binding reads with an AWS role of its
    namespace, or reads several AWS secrets. Such reads can fail although the reads of all other bindings succeed.
    """

    target: Target
    expected: frozenset[str]
    about: frozenset[Source]
    may_fail_alone: bool
    future: "asyncio.Future[ReconcileResult]"

    @property
    def completion(self) -> _Completion:
        if not self.future.done():
            return None
        result = self.future.result()
        return result.error if result.error and not self.about <= result.met else result

    @property
    def waits_for_another(self) -> bool:
        """Whether some AWS secrets could not be read, and the notification concerns none of them. The reconcile then
        waits only for these AWS secrets."""
        unavailable = self.future.result().unavailable if self.future.done() else frozenset()
        return bool(unavailable) and self.about.isdisjoint(unavailable)

    @property
    def partly_done(self) -> bool:
        """Whether some keys were changed, while an error prevented the change of other keys."""
        return self.future.done() and self.future.result().partial


@dataclass(frozen=True, slots=True)
class _Outcome:
    """State of one reconcile at the time of the reply.

    ``held_up`` is true if the reconcile waits because its namespace has used up its share of the work queue.
    """

    reconcile: _PendingReconcile
    completion: _Completion
    held_up: bool

    @property
    def target(self) -> Target:
        return self.reconcile.target


class NotificationHandler:
    """Notification handler. It reconciles every binding that a notification may concern, and reports the outcome.

    ``on_heartbeat`` is called with the time of each heartbeat that is recent enough. ``now`` returns the time in UTC.
    ``versions`` returns the version states that the reply to a heartbeat reports.
    """

    def __init__(
        self,
        secrets: SecretCache,
        queue: WorkQueue,
        access_policy: AccessPolicy,
        on_heartbeat: Callable[[datetime], None],
        metrics: Metrics,
        now: Callable[[], datetime],
        versions: Callable[[], Sequence[VersionState]] = tuple,
    ) -> None:
        self._secrets = secrets
        self._queue = queue
        self._access_policy = access_policy
        self._on_heartbeat = on_heartbeat
        self._metrics = metrics
        self._now = now
        self._versions = versions
        self._time_slice = TimeSlice()  # all deliveries share one time slice

    async def handle(
        self,
        notification: Notification,
        deadline: Callable[[], float],
        keeps_running: Callable[[], bool] = lambda: True,
    ) -> Result:
        """Reconcile the bindings that a notification may concern, wait for the reconciles, and return the result.

        ``deadline`` returns the time at which the wait ends, in monotonic seconds. It is called again every second,
        because a shutdown can change this time. ``keeps_running`` returns whether this process can still retry a
        reconcile after the reply.
        """
        if notification.type is EventType.HEARTBEAT:
            self._record_heartbeat(notification)
            return Result(notification.id, Outcome.IGNORED, reason=REASON_HEARTBEAT, versions=tuple(self._versions()))
        self._metrics.notification_age_seconds.observe(self._age(notification))
        reconciles = await self._submit(notification)
        if not reconciles:
            return Result(notification.id, Outcome.IGNORED, reason=REASON_NOT_BOUND)
        await _wait_until(deadline, [each.future for each in reconciles])
        outcomes = [_Outcome(each, each.completion, self._queue.is_held_up(each.target)) for each in reconciles]
        result = _result(notification.id, outcomes, keeps_running())
        if result.outcome is Outcome.APPLIED:
            self._metrics.propagation_seconds.observe(self._age(notification))
        return result

    async def _submit(self, notification: Notification) -> Sequence[_PendingReconcile]:
        data, since, sent = notification.data, time.monotonic(), _sent(notification)
        names = {*candidate_names(notification.subject), *([data.name] if data.name else [])}
        reconciles: list[_PendingReconcile] = []
        targets = self._secrets.by_secret_id(
            notification.subject,
            data.name,
            lambda namespace, has_account: self._access_policy.may_concern(namespace, has_account, names),
        )
        for target, bound in [(target, self._secrets.get(target)) for target in targets]:
            await self._time_slice.pause_if_over()
            if bound is None or self._secrets.get(target) is None:
                continue
            sources = self._sources(bound, notification.subject, names)
            if not sources:
                continue
            # If a notification is about another staging label, it does not say from which version this Secret should be
            # made.
            labelled = [source for source in sources if data.label in (None, source.stage)]
            has_version = notification.type is EventType.CHANGED and len({source.stage for source in labelled}) == 1
            expected = frozenset({data.version_id} if has_version and data.version_id else ())
            about = frozenset(labelled if expected else sources)
            several = len(bound.spec.sources) > 1
            request = Request(
                frozenset({Cause.NOTIFICATION}),
                since,
                expected,
                (notification.id,),
                unversioned=not expected,
                about=dict.fromkeys(about, expected) if several else {},
                awaited=about if several else frozenset(),
                moved_at=dict.fromkeys(expected, int(sent.timestamp())) if sent else {},
            )
            future = self._queue.submit(target, request, sources[0].secret_id)
            may_fail_alone = several or bool(bound.spec.account)
            reconciles.append(_PendingReconcile(target, expected, about, may_fail_alone, future))
        return reconciles

    def _sources(self, bound: BoundSecret, subject: str, names: Set[str]) -> Sequence[Source]:
        """Return the sources of a bound Secret that a notification may concern. Leave out all its other sources."""
        sources = bound.spec.sources
        if len(sources) > 1:
            # A single source is not compared with ``names``, because AWS may report an ARN where the binding has a
            # name. In that case, the Secret was found by an ARN in its record.
            sources = tuple(
                source
                for source in sources
                if not names.isdisjoint(candidate_names(source.secret_id))
                and may_share_account(source.secret_id, subject)
            )
        return [source for source in sources if self._access_policy.could_apply(bound, source, names)]

    def _record_heartbeat(self, notification: Notification) -> None:
        sent = _sent(notification)
        # `helm test` and the signing key's rotation send an old heartbeat on purpose, which must not count.
        if sent and abs((self._now() - sent).total_seconds()) < MAX_HEARTBEAT_AGE:
            self._metrics.notification_age_seconds.observe(self._age(notification))
            self._on_heartbeat(sent)

    def _age(self, notification: Notification) -> float:
        sent = _sent(notification)
        return max(0.0, (self._now() - sent).total_seconds()) if sent else 0.0


def _sent(notification: Notification) -> datetime | None:
    """Return the time of the event, or None if the text is not a valid time, such as 31 February."""
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


def _result(notification_id: str, outcomes: Sequence[_Outcome], keeps_running: bool) -> Result:
    """Return the result of a notification. If the outcome is FAILED, the sender has to send the notification again.

    The reason for an unfinished binding may lie in the namespace of this binding. Such a binding does not make the
    notification fail, because otherwise one namespace could delay the acknowledgement for all namespaces. The work
    queue retries such a binding (docs/adr/020-replies-for-what-is-done.md).
    """
    # A list of names or reasons that is too long loses its end. So the namespaces take turns in the list, and each of
    # them appears in it.
    outcomes = take_turns(outcomes, lambda each: each.target.namespace)
    done = [(each, each.completion) for each in outcomes if isinstance(each.completion, ReconcileResult)]
    not_done = [each for each in outcomes if not isinstance(each.completion, ReconcileResult)]
    refused = [each for each in not_done if isinstance(each.completion, Permanent)]
    namespaces = {each.target.namespace for each, completion in done if completion.bound}
    retrying = [each for each in not_done if keeps_running and _is_own_doing(each, namespaces)]
    changed = [each.target for each, completion in done if completion.changed]
    secrets = tuple(str(each) for each in (*changed, *(each.target for each in not_done if each.reconcile.partly_done)))
    consumers = tuple(str(ref) for _, completion in done for ref in completion.restarted)
    reason = "; ".join(f"{each.target}: {_reason(each.completion)}" for each in not_done)[:MAX_REASON_LENGTH] or None
    if len(refused) + len(retrying) < len(not_done):
        outcome = Outcome.FAILED
    elif secrets or consumers:
        outcome = Outcome.APPLIED
    elif retrying:
        outcome = Outcome.RETRYING
    elif refused:
        # The same notification would fail again in the same way. The Secret's status tells the Secret's owner what to
        # correct. The correction itself starts the next reconcile.
        outcome = Outcome.IGNORED
    elif not any(completion.bound for _, completion in done):
        outcome, reason = Outcome.IGNORED, REASON_NO_LONGER_BOUND
    elif all(each.reconcile.expected - completion.version_ids for each, completion in done):
        outcome = Outcome.SUPERSEDED
    else:
        outcome = Outcome.UNCHANGED
    names = tuple(str(each.target) for each in retrying)
    return Result(notification_id, outcome, _first(secrets), _first(consumers), reason, _first(names))


def _is_own_doing(outcome: _Outcome, done_namespaces: Set[str]) -> bool:
    """Return whether the reason why a binding is not done lies in the binding's own namespace.

    ``done_namespaces`` are the namespaces in which the same notification has finished bindings. If another namespace is
    among them, AWS and Kubernetes work. There are then three possible reasons: the namespace has used up its share of
    the work queue, its AWS role fails, or another AWS secret of the binding is slow.
    """
    error = outcome.completion
    if isinstance(error, Temporary) and (error.caused_by_tenant or outcome.reconcile.waits_for_another):
        return True
    if not done_namespaces - {outcome.target.namespace}:
        return False
    may_fail_alone = outcome.reconcile.may_fail_alone
    if error is None:
        return outcome.held_up or may_fail_alone
    return may_fail_alone and isinstance(error, Temporary) and not isinstance(error, ClusterUnavailable)


def _reason(error: _Completion) -> str:
    return "not done within the deadline" if error is None else str(error)


def _first(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first of the names, until they fill MAX_NAMES_LENGTH characters."""
    length, kept = 0, []
    for name in names:
        length += len(name) + len('"",')
        if length > MAX_NAMES_LENGTH:
            break
        kept.append(name)
    return tuple(kept)
