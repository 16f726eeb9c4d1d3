"""Watch reconciler. One reconcile of a watched Secret brings its annotation and its consumers up to date.

A watched Secret is filled by somebody else. The annotation tells when each key changed. Consumers that may use an older
value are restarted.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.namespace_cache import NamespaceReader
from keyturn_receiver.cluster.watched_cache import WatchedCache, WatchedSecret
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.errors import (
    Conflict,
    Contended,
    KeyturnError,
    NotFound,
    Permanent,
    Unrecorded,
    detached,
    first_retryable,
)
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.reconciler import CONFLICT_BACKOFF, CONFLICT_RETRIES
from keyturn_receiver.reconcile.request import NOT_BOUND, ReconcileResult, Request
from keyturn_receiver.reconcile.unsettled_marks import unsettled_marks
from keyturn_receiver.reconcile.watch_reporter import WatchReporter
from keyturn_receiver.telemetry import logs
from keyturn_receiver.telemetry.tracing import Span, no_traces

LATE_SECONDS = 15.0  # seconds from a change until the watch shows it; more than that, and pods may be younger than it
FRESH_SECONDS = 5.0  # seconds after the watch has shown a change; hardly any pod is created in this time


@dataclass(frozen=True, slots=True)
class KeepResult:
    """The result of the step that brings the annotation up to date. ``written`` is true if this reconcile has written
    the annotation. ``error`` is the error that prevented the write, or None."""

    secret: WatchedSecret
    written: bool = False
    error: KeyturnError | None = None


class WatchReconciler:
    """Reconciles watched Secrets. It keeps no state: every decision is based on the Secret and its consumers.

    The annotation is written before the marks (the annotations on the consumers). If the process dies between the two
    writes, the old marks still show which consumers use an older value. For consumers without a mark, the annotation on
    the Secret shows this.
    """

    def __init__(
        self,
        cache: WatchedCache,
        client: WatchedClient,
        restarter: ConsumerRestarter,
        reporter: WatchReporter,
        namespaces: NamespaceReader,
        span: Span = no_traces,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._client = client
        self._restarter = restarter
        self._reporter = reporter
        self._namespaces = namespaces
        self._span = span
        self._wall = wall

    async def reconcile(self, target: Target, request: Request) -> ReconcileResult:
        """Bring the annotation and the consumers of the watched Secret at ``target`` up to date. A KeyturnError is
        logged and returned in the result instead of being raised."""
        started, outcome = time.monotonic(), "failed"
        try:
            with (
                logs.log_context(secret=str(target)),
                self._span("reconcile", (), secret=str(target), cause=request.priority.value),
            ):
                result = await self._retry_conflicts(target)
            outcome = result.outcome
            if result.error:
                self._reporter.log_failure(target, request, result.error)
            return result
        finally:
            self._reporter.count(request, outcome, time.monotonic() - started)

    async def _retry_conflicts(self, target: Target) -> ReconcileResult:
        secret = self._cache.get(target)
        conflict: KeyturnError = Conflict(f"Secret {target} has changed: trying again")
        for attempt in range(CONFLICT_RETRIES):
            # Read the workloads before the Secret. Reconciler._reconcile gives the reason.
            consumers = self._restarter.consumers(target)
            try:
                if attempt:
                    secret = await self._client.read(target)
                if secret is None or self._cache.get(target) is None:
                    return NOT_BOUND
                return await self._reconcile(secret, consumers)
            except NotFound:
                return NOT_BOUND
            except Contended as error:
                return ReconcileResult(True, error=detached(error))
            except Conflict as error:
                conflict = detached(error)
            except KeyturnError as error:
                return ReconcileResult(True, error=_tried_again(error))
            await asyncio.sleep(CONFLICT_BACKOFF.delay(attempt + 1))
        return ReconcileResult(True, error=conflict)

    async def _reconcile(self, secret: WatchedSecret, consumers: Sequence[Consumer]) -> ReconcileResult:
        target = secret.target
        # The annotations of an earlier namespace with this name must not decide about this Secret.
        await self._namespaces.confirm(target.namespace, secret.first_seen_at)
        # Consumers that may not be restarted now also count for the annotation, because they may be restarted later.
        kept = await self._keep(secret, consumers)
        consumers = self._restarter.permitted(consumers, target, secret.spec)
        secret = kept.secret
        # The consumers are restarted even if the annotation could not be written, because the marks do not need it. If
        # the watch has just shown the change without delay, the pods of all consumers with a mark are older than the
        # change. Otherwise the ages of the pods decide.
        before = secret.followed if kept.written and _is_fresh(secret, self._wall()) else None
        rollout = await self._restarter.restart(target, secret.spec, consumers, secret.record, before)
        if isinstance(rollout.error, Conflict):
            self._reporter.report(secret, kept.written, replace(rollout, error=None), None)
            raise rollout.error
        # An annotation that is refused is left as it is, but no pod may keep an old value because of a refusal.
        error = first_retryable(kept.error, rollout.error and _tried_again(rollout.error))
        await self._reporter.report_and_wait(secret, kept.written, rollout, error)
        is_terminal = isinstance(kept.error, Permanent)
        return ReconcileResult(
            bound=True,
            changed=kept.written,
            restarted=tuple(each.ref for each in rollout.restarted),
            error=error,
            terminal_version=secret.resource_version if is_terminal and isinstance(error, Permanent) else "",
        )

    async def _keep(self, secret: WatchedSecret, consumers: Sequence[Consumer]) -> KeepResult:
        if secret.watched.is_kept:
            return KeepResult(secret)
        secret = await _with_unsettled(secret, consumers)
        try:
            await self._client.keep(secret)
        except (Conflict, NotFound):
            raise
        except KeyturnError as error:
            return KeepResult(secret, error=detached(error))
        return KeepResult(secret, written=True)


def _is_fresh(secret: WatchedSecret, now: float) -> bool:
    """Return whether the last change of a Secret has just happened, and the watch has just shown it. ``now`` is in
    seconds since 1970. A clock that runs ahead makes no change fresh, so that pods are listed."""
    changed_at = max((time.at for time in secret.record.write_times.values() if time.at is not None), default=None)
    is_late = changed_at is not None and now - changed_at > LATE_SECONDS
    return not is_late and time.monotonic() - secret.changed_at < FRESH_SECONDS


def _tried_again(error: KeyturnError) -> KeyturnError:
    """Return an error of a restart without its traceback. A watched Secret has no status, and no sweep of the poller
    looks at it. So a permanent error is tried again, too."""
    return Unrecorded(error) if isinstance(error, Permanent) else detached(error)


async def _with_unsettled(secret: WatchedSecret, consumers: Sequence[Consumer]) -> WatchedSecret:
    """Return a changed Secret with ``Record.unsettled`` (``core/unsettled.py``) for its waiting consumers. If the state
    before the change is not known, return the Secret unchanged."""
    name, watched, before = secret.target.name, secret.watched, secret.watched.before
    if before is None:
        return secret
    unsettled = await unsettled_marks(consumers, name, before, secret.record, int(time.time()))
    return replace(secret, watched=replace(watched, record=replace(secret.record, unsettled=unsettled)))
