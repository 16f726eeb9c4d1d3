"""Drift detection. Compares the state in the caches with the desired state, and queues each binding whose state
differs.

Every replica sees the same changes. To avoid a race, only the leader acts at once. The other replicas check again a few
seconds later, and act only if the leader has not acted. So no work is lost if the leader fails. If another writer keeps
reverting the fields that Keyturn owns, repairs slow down but never stop.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyturn_receiver.cluster.lease import follower_delay
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.sync_status import SyncStatus, sync_status
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.request import Cause, Request
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.work_queue import WorkQueue

# A check compares every consumer of a Secret, which takes about 10 ms for a thousand consumers. So a check of a Secret
# with more than FEW_CONSUMERS consumers is delayed by one millisecond for each consumer. All edits in that time share
# one check.
FEW_CONSUMERS = 50
MAX_WAIT_FOR_CHECK = 5.0  # seconds; a pending check that runs within this time is not replaced by one that runs sooner
SECONDS_PER_CONSUMER = 0.001
WRITER_SECONDS = 1.0  # seconds for a replica to begin the restarts for a Secret that it has written

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a Secret needs: a reconcile for ``cause``, or nothing if ``cause`` is None. ``consumers`` are those that
    need a new mark and may get it now."""

    cause: Cause | None
    consumers: Sequence[Consumer] = ()


class DriftDetector:
    """Drift detector. Checks a binding whenever anything about it changes. It makes no calls to AWS or Kubernetes.

    ``reverted`` decides what the status says about reverted restarts. ``is_leader`` returns whether this replica leads.
    """

    def __init__(
        self,
        bound: SecretCache,
        restarter: ConsumerRestarter,
        queue: WorkQueue,
        access: AccessPolicy,
        reverted: RevertedRestarts,
        is_leader: Callable[[], bool],
    ) -> None:
        self._bound = bound
        self._restarter = restarter
        self._queue = queue
        self._access = access
        self._reverted = reverted
        self._is_leader = is_leader
        self._handlers: list[Callable[[BoundSecret], None]] = []
        self._started = False

    def add_handler(self, on_filled: Callable[[BoundSecret], None]) -> None:
        """Register ``on_filled``. A check calls it with each Secret that needs no fill, because its content is right
        or because this replica has given up on it."""
        self._handlers.append(on_filled)

    def start(self) -> None:
        """Check every binding now. From now on, check each binding that changes.

        Call this only when the caches are complete. Before that, a consumer that is not cached yet would seem not to
        exist.
        """
        self._started = True
        for bound in self._bound.all():
            self.check(bound.target)

    def check(self, target: Target) -> None:
        """Queue a reconcile if the binding at ``target`` needs one.

        The check is repeated later if the cache may not show all writes of this replica yet. The reconcile waits a
        little if this replica is not the leader, or if another writer keeps reverting repairs.
        """
        if not self._started:
            return
        consumers = self._restarter.count(target)
        if consumers > FEW_CONSUMERS and self._bound.get(target):
            delay = consumers * SECONDS_PER_CONSUMER
            if self._queue.check_due_in(target) > MAX_WAIT_FOR_CHECK:
                self._queue.check_later(target, delay, self._check)
        else:
            self._check(target)

    def _check(self, target: Target) -> None:
        bound = self._bound.get(target)
        if bound is None:
            self._queue.drop(target)
        elif settles_in := self._queue.settles_in(target):
            # The cache may not show all writes of this replica yet.
            self._queue.check_later(target, settles_in, self._check)
        else:
            self._act(bound, self._find(bound))
            self._look_again(target)

    def _act(self, bound: BoundSecret, work: _Work) -> None:
        target, cause = bound.target, work.cause
        if cause in (None, Cause.CONSUMER):
            self._report_filled(bound)
        if cause:
            delay = self._fight_delay(bound, work)
            if cause is Cause.CONSUMER and not self._restarter.needs_leader(target, bound.spec):
                # The replica that has just written the Secret can restart the consumers without a list of their pods.
                # So give that replica time to do it.
                delay += max(0.0, bound.seen_at + WRITER_SECONDS - time.monotonic())
            if not self._is_leader():
                delay += follower_delay()
            if delay:
                self._queue.check_later(target, delay, self._check_after_delay)
            else:
                self._submit(bound, cause)
        elif not self._queue.gave_up_on(target, bound.resource_version):
            self._queue.mark_recovered(target)

    def _look_again(self, target: Target) -> None:
        """Check a Secret again when more of its consumers may be restarted, such as when a window opens. Also check it
        when the text about reverted restarts in its status may become wrong."""
        bound = self._bound.get(target)
        if bound is None:
            return
        consumers = self._restarter.restartable(target, bound.spec) if bound.record.reverted else ()
        delays = (
            self._restarter.look_again_in(target),
            self._reverted.look_again_in(target, consumers, bound.record),
        )
        delay = min((each for each in delays if each is not None), default=None)
        if delay is not None:
            self._queue.check_later(target, delay, self._check)

    def _report_filled(self, bound: BoundSecret) -> None:
        try:
            for on_filled in self._handlers:
                on_filled(bound)
        except Exception:
            # A bug in a report must not prevent the detection of changes.
            _log.exception("report of a Secret failed", extra={"fields": {"secret": str(bound.target)}})

    def check_namespace(self, namespace: str) -> None:
        """Check all bindings in a namespace after the annotations of the namespace have changed."""
        for target in self._bound.in_namespace(namespace):
            self._queue.clear_terminal(target)
            self.check(target)

    def on_started_leading(self) -> None:
        """Run all pending checks at once, because this replica is the leader now."""
        self._queue.check_now(self._check_after_delay)

    def _check_after_delay(self, target: Target) -> None:
        bound = self._bound.get(target)
        if bound is None:
            return
        if settles_in := self._queue.settles_in(target):
            self._queue.check_later(target, settles_in, self._check_after_delay)
            return
        work = self._find(bound)
        if work.cause is None:
            self._look_again(target)
        elif work.cause is Cause.CONSUMER and (delay := self._fight_delay(bound, work)):
            self._queue.check_later(target, delay, self._check_after_delay)
        else:
            self._submit(bound, work.cause)
            self._look_again(target)  # this check may have replaced the one for the time at which a window opens

    def _fight_delay(self, bound: BoundSecret, work: _Work) -> float:
        """Return the seconds to wait because another writer keeps reverting the Secret or the marks of its consumers (a
        fight), or because the evictions of a consumer's pods cannot begin now. Return 0.0 if there is no such
        reason."""
        match work.cause:
            case Cause.DRIFT:
                return self._queue.fight_delay(bound.target)
            case Cause.CONSUMER:
                return self._restarter.fight_delay(bound.target, work.consumers, bound.record)
        return 0.0

    def _submit(self, bound: BoundSecret, cause: Cause) -> None:
        self._queue.submit(bound.target, Request.now(cause), bound.spec.group)
        if cause is Cause.DRIFT and self._queue.record_repair(bound.target):
            _log.warning(
                "another writer keeps reverting this Secret; backing off",
                extra={"fields": {"secret": str(bound.target)}},
            )

    def _find(self, bound: BoundSecret) -> _Work:
        try:
            return self._due(bound)
        except Exception:
            # A check that fails must not block the checks of other Secrets. The Secret is reconciled, and the metrics
            # count the outcome.
            _log.exception("drift check failed", extra={"fields": {"secret": str(bound.target)}})
            return _Work(Cause.DRIFT)

    def _due(self, bound: BoundSecret) -> _Work:
        target, record = bound.target, bound.record
        restartable = self._restarter.restartable(target, bound.spec)
        consumers, halt = self._restarter.in_turn(target, bound.spec, restartable, record)
        if self._queue.gave_up_on(target, bound.resource_version):
            # This Secret cannot be filled, so its data stays as it is. Its consumers still have to run with that data.
            is_up_to_date = self._restarter.is_up_to_date(target, consumers, record)
            return _Work(None if is_up_to_date else Cause.CONSUMER, consumers)
        status = sync_status(record, bound.spec, bound.is_intact, target.name, consumers)
        if not record.was_written and not bound.lost_record:
            return _Work(Cause.NEW)
        if status is SyncStatus.IN_SYNC and record.notice != self._reverted.notice(target, restartable, record, halt):
            status = SyncStatus.ROLLOUT_DUE  # the text about the rollouts in the status is out of date
        if status is SyncStatus.FILL_DUE or not self._access.allows(bound):
            return _Work(Cause.DRIFT)
        return _Work(Cause.CONSUMER if status is SyncStatus.ROLLOUT_DUE else None, consumers)
