"""Drift: what the watches show is held against what should be, and what differs is queued. No call is needed to tell.

Every replica sees the same. So that they do not race, the one that holds the poller's Lease acts at once; the others
look again after a while, and act only if nobody has: a leader that is gone costs seconds, and no work is lost with it.
Where somebody else goes on writing what Keyturn owns, each answers the other; that is slowed down, and never given up.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.sync_status import SyncStatus, due
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.fight_backoff import FightBackoff
from keyturn_receiver.reconcile.reconciler import Reconciler
from keyturn_receiver.reconcile.request import Cause, because
from keyturn_receiver.reconcile.work_queue import WorkQueue

HANG_BACK = (2.0, 4.0)  # seconds, for who does not lead

_log = logging.getLogger(__name__)


class DriftDetector:
    """Looks at bindings whenever something about them has changed; ``leading`` tells whether this replica leads."""

    def __init__(
        self,
        bound: SecretCache,
        namespaces: NamespaceCache,
        restarts: ConsumerRestarter,
        reconciler: Reconciler,
        queue: WorkQueue,
        tenancies: AccessPolicy,
        leading: Callable[[], bool],
    ) -> None:
        self._bound = bound
        self._namespaces = namespaces
        self._restarts = restarts
        self._reconciler = reconciler
        self._queue = queue
        self._tenancies = tenancies
        self._leading = leading
        self._begun = False
        self._later: dict[Target, asyncio.TimerHandle] = {}
        self._brake = FightBackoff()

    def begin(self) -> None:
        """Look at everything, and from now on at each change.

        Not before the pictures are whole: a consumer not seen yet would look as if there was none.
        """
        self._begun = True
        for bound in self._bound.all():
            self.look(bound.target)

    def look(self, target: Target) -> None:
        """Queue what is due at ``target``, now or a little later."""
        if not self._begun:
            return
        known = self._bound.get(target)
        if known is None:
            self._forget(target)
        elif cause := self._cause(known):
            delay = self._brake.delay(target) if cause is Cause.DRIFT else 0.0
            if not self._leading():
                delay += random.uniform(*HANG_BACK)  # noqa: S311 - jitter between replicas
            if not delay:
                self._submit(target, cause)
            elif target not in self._later:
                self._later[target] = asyncio.get_running_loop().call_later(delay, self._look_again, target)
        elif not self._reconciler.has_given_up(known):
            self._queue.mark_recovered(target)

    def check_namespace(self, namespace: str) -> None:
        """Look at all bindings of a namespace that now says something else."""
        for target in self._bound.in_namespace(namespace):
            self._reconciler.reconsider(target)
            self.look(target)

    def lead(self) -> None:
        """Do at once what was left to the leader: that is this replica now."""
        for target in list(self._later):
            self._look_again(target)

    def _look_again(self, target: Target) -> None:
        if handle := self._later.pop(target, None):
            handle.cancel()
        known = self._bound.get(target)
        if known and (cause := self._cause(known)):
            self._submit(target, cause)

    def _submit(self, target: Target, cause: Cause) -> None:
        if cause is Cause.DRIFT and self._brake.take(target):
            fields = {"secret": str(target)}
            _log.warning("put right many times: somebody else writes it, too; slowing down", extra={"fields": fields})
        self._queue.submit(target, because(cause))

    def _cause(self, known: BoundSecret) -> Cause | None:
        try:
            return self._due(known)
        except Exception:
            # One that breaks whoever looks at it must not keep us from the others; its reconcile is tried, and counted.
            _log.exception("look broke", extra={"fields": {"secret": str(known.target)}})
            return Cause.DRIFT

    def _due(self, known: BoundSecret) -> Cause | None:
        target, record = known.target, known.record
        namespace = self._namespaces.annotations(target.namespace)
        disabled = self._restarts.disabled(known.annotations, namespace)
        consumers = () if disabled else self._restarts.consumers(target)
        if self._reconciler.has_given_up(known):
            # It stays as it is, and those who read it have to know of what it holds all the same.
            return None if self._restarts.none_due(target, consumers, record) else Cause.CONSUMER
        state = due(record, known.annotations, known.intact, target.name, consumers)
        if not record.filled:
            return Cause.NEW
        if state is SyncStatus.DATA or not self._tenancies.allow(known):
            return Cause.DRIFT
        return Cause.CONSUMER if state is SyncStatus.RESTARTS else None

    def _forget(self, target: Target) -> None:
        self._reconciler.forget(target)
        self._queue.forget(target)
        self._brake.forget(target)
        if handle := self._later.pop(target, None):
            handle.cancel()
