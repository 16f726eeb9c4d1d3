"""Watch detector. Queues each watched Secret whose annotation or whose consumers have to be brought up to date.

A watched Secret is filled by somebody else, and Keyturn restarts its consumers. Keyturn's annotation on the Secret
tells when each key changed. The detector compares the Secret with this annotation and with the marks of the consumers.

As in ``drift.py``, the leader acts at once. The other replicas act a few seconds later if the leader has not acted.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyturn_receiver.cluster.lease import follower_delay
from keyturn_receiver.cluster.watched_cache import WatchedCache, WatchedSecret
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.reconcile.change_brake import ChangeBrake
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.drift import FEW_CONSUMERS, MAX_WAIT_FOR_CHECK, SECONDS_PER_CONSUMER
from keyturn_receiver.reconcile.request import Cause, Request
from keyturn_receiver.reconcile.work_queue import WorkQueue

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a watched Secret needs. ``cause`` is the cause of the next reconcile, or None if there is nothing to do.
    ``consumers`` have to be restarted now. ``halt`` is the text about a failed rollout that halts the others."""

    cause: Cause | None
    consumers: Sequence[Consumer] = ()
    halt: str = ""


class WatchDetector:
    """Watch detector. Checks a watched Secret whenever anything about it changes. It makes no calls to Kubernetes.

    ``is_leader`` returns whether this replica leads.
    """

    def __init__(
        self,
        cache: WatchedCache,
        restarter: ConsumerRestarter,
        queue: WorkQueue,
        brake: ChangeBrake,
        is_leader: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._restarter = restarter
        self._queue = queue
        self._brake = brake
        self._is_leader = is_leader
        self._braked_handlers: list[Callable[[WatchedSecret], None]] = []
        self._halts: dict[Target, str] = {}  # what this replica has told about a failed rollout that halts the others
        self._started = False

    def add_handler(self, on_braked: Callable[[WatchedSecret], None]) -> None:
        """Register ``on_braked``. It is called with a Secret when the brake will delay the restarts for the Secret's
        next change."""
        self._braked_handlers.append(on_braked)

    def start(self) -> None:
        """Check every watched Secret now. From now on, check each watched Secret that changes.

        Call this only when the caches are complete.
        """
        self._started = True
        for secret in self._cache.all():
            self.check(secret.target)

    def check(self, target: Target) -> None:
        """Queue a reconcile if the watched Secret at ``target`` needs one. Both the check and the reconcile may be
        delayed."""
        if not self._started:
            return
        consumers = self._restarter.count(target)
        if consumers > FEW_CONSUMERS and self._cache.get(target):
            if self._queue.check_due_in(target) > MAX_WAIT_FOR_CHECK:
                self._queue.check_later(target, consumers * SECONDS_PER_CONSUMER, self._check)
        else:
            self._check(target)

    def check_namespace(self, namespace: str) -> None:
        """Check all watched Secrets in a namespace after the annotations of the namespace have changed."""
        for target in self._cache.in_namespace(namespace):
            self.check(target)

    def on_started_leading(self) -> None:
        """Run all pending checks at once, because this replica is the leader now."""
        self._queue.check_now(self._check_after_delay)

    def on_kept(self, before: WatchedSecret) -> None:
        """Count a change for the brake after any replica has written the annotation for this change.

        Every replica counts the changes, so a new leader has the same delays as the former one. ``before`` is the
        changed Secret before the annotation was written.
        """
        self._count(before)

    def _check(self, target: Target) -> None:
        self._check_as(target, self._is_leader())

    def _check_after_delay(self, target: Target) -> None:
        self._check_as(target, acts=True)

    def _check_as(self, target: Target, acts: bool) -> None:
        self._act(target, acts)
        delay = self._restarter.look_again_in(target)
        if delay is not None and self._cache.get(target):
            self._queue.check_later(target, delay, self._check)

    def _act(self, target: Target, acts: bool) -> None:
        secret = self._cache.get(target)
        if secret is None:
            self._queue.drop(target)
            self._halts.pop(target, None)
            return
        if settles_in := self._queue.settles_in(target):
            # The caches may not show all writes of this replica yet.
            self._queue.check_later(target, settles_in, self._check_after_delay if acts else self._check)
            return
        work = self._find(secret)
        if work.cause:
            delay = self._delay(secret, work) + (0.0 if acts else follower_delay())
            if delay:
                self._queue.check_later(target, delay, self._check_after_delay)
            else:
                self._queue.submit(target, Request.now(work.cause))
                if work.cause is Cause.DRIFT:
                    self._count(secret)
                elif work.halt:
                    self._halts[target] = work.halt
        elif not self._queue.gave_up_on(target, secret.resource_version):
            self._queue.mark_recovered(target)

    def _delay(self, secret: WatchedSecret, work: _Work) -> float:
        """Return the seconds to wait because the values of the Secret, or the marks of its consumers, change again and
        again, or because the evictions of a consumer's pods cannot begin now. Return 0.0 if there is no such reason."""
        if work.cause is Cause.DRIFT:
            return self._brake.delay(secret.target)
        return self._restarter.fight_delay(secret.target, work.consumers, secret.record)

    def _count(self, secret: WatchedSecret) -> None:
        if not self._brake.record(secret.target, secret.resource_version):
            return
        fields = {"secret": str(secret.target)}
        _log.warning("a watched Secret keeps changing; backing off", extra={"fields": fields})
        for on_braked in self._braked_handlers:
            on_braked(secret)

    def _find(self, secret: WatchedSecret) -> _Work:
        try:
            return self._due(secret)
        except Exception:
            # An error in the check of one Secret must not block the checks of other Secrets. So the Secret is
            # reconciled without a check, and the metrics count the outcome of this reconcile.
            _log.exception("check of a watched Secret failed", extra={"fields": {"secret": str(secret.target)}})
            return _Work(Cause.DRIFT)

    def _due(self, secret: WatchedSecret) -> _Work:
        target = secret.target
        restartable = self._restarter.restartable(target, secret.spec)
        consumers, halt = self._restarter.in_turn(target, secret.spec, restartable, secret.record)
        is_up_to_date = self._restarter.is_up_to_date(target, consumers, secret.record)
        if not secret.watched.is_kept:
            gave_up = self._queue.gave_up_on(target, secret.resource_version)
            return _Work(None if gave_up and is_up_to_date else Cause.DRIFT)
        if not halt:
            self._halts.pop(target, None)
        # A watched Secret has no status, so only the memory of the leader shows whether a halt was told.
        is_told = not halt or not self._is_leader() or self._halts.get(target) == halt
        return _Work(None if is_up_to_date and is_told else Cause.CONSUMER, consumers, halt)
