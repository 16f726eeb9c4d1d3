"""Reconciler. One reconcile makes one binding true: it observes, fills, restarts and reports."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.namespace_cache import NamespaceReader
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.binding import BindingSpec, Target, versions_of
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.sync_status import SyncStatus, sync_status
from keyturn_receiver.errors import (
    ClusterRefused,
    Conflict,
    Contended,
    InvalidBinding,
    KeyturnError,
    NotFound,
    Permanent,
    Unrecorded,
    detached,
)
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.request import NOT_BOUND, Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.secret_filler import FillResult, SecretFiller
from keyturn_receiver.reconcile.status_reporter import StatusReporter
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.telemetry import logs
from keyturn_receiver.telemetry.tracing import Span, no_traces

CONFLICT_RETRIES = 5  # the delays are short, because the other writer has finished by the time the conflict is known
CONFLICT_SECONDS = 3.0  # seconds in which a conflict is retried at once; after that, the work queue retries it
CONFLICT_BACKOFF = Backoff(base=0.05, cap=1.0, jitter=1)  # seconds; jitter keeps replicas from retrying together


@dataclass(frozen=True, slots=True)
class Observed:
    """A bound Secret as it is at the start of a reconcile.

    ``from_cache`` is true if the Secret comes from the cache and not from the API server.
    """

    live: LiveSecret
    spec: BindingSpec
    from_cache: bool


class Reconciler:
    """Reconciles bound Secrets. It keeps no state: every decision is based on the state of AWS and of the cluster."""

    def __init__(
        self,
        cache: SecretCache,
        secrets: SecretClient,
        filler: SecretFiller,
        restarter: ConsumerRestarter,
        reporter: StatusReporter,
        namespaces: NamespaceReader,
        span: Span = no_traces,
    ) -> None:
        self._cache = cache
        self._namespaces = namespaces
        self._secrets = secrets
        self._filler = filler
        self._restarter = restarter
        self._reporter = reporter
        self._span = span

    async def reconcile(self, target: Target, request: Request) -> ReconcileResult:
        """Make the binding at ``target`` true. A KeyturnError is logged and returned in the result instead of being
        raised."""
        started, outcome = time.monotonic(), "failed"
        try:
            with (
                logs.log_context(secret=str(target), event_ids=request.event_ids),
                self._span("reconcile", request.event_ids, secret=str(target), cause=request.priority.value),
            ):
                result = await self._retry_conflicts(target, request)
            outcome = result.outcome
            if result.error:
                self._reporter.log_failure(str(target), request, result.error)
            return result
        finally:
            self._reporter.count(request, outcome, time.monotonic() - started)

    async def _retry_conflicts(self, target: Target, request: Request) -> ReconcileResult:
        versions: list[str] = []  # the resource version of the Secret in each attempt
        deadline = time.monotonic() + CONFLICT_SECONDS
        for attempt in range(CONFLICT_RETRIES + 1):
            bound = self._cache.get(target)
            if bound is None:
                return NOT_BOUND
            try:
                return await self._reconcile(bound, request, versions)
            except Contended as error:
                return ReconcileResult(True, error=detached(error))
            except Conflict as error:
                self._cache.drop_values(target)  # another writer was first, so the next attempt must read again
                conflict = detached(error)
            except KeyturnError as error:
                failure = Unrecorded(error) if isinstance(error, Permanent) else detached(error)
                return ReconcileResult(True, error=failure) if self._cache.get(target) else NOT_BOUND
            if time.monotonic() >= deadline:
                break
            if attempt < CONFLICT_RETRIES:
                await asyncio.sleep(CONFLICT_BACKOFF.delay(attempt + 1))
        if len(versions) > 1 and versions[-1] != versions[-2]:
            # The Secret really changes. Otherwise the conflict could be a fault of the API server.
            conflict = Contended(f"Secret {target} keeps changing: trying again")
        return ReconcileResult(True, error=conflict)

    async def _reconcile(self, bound: BoundSecret, request: Request, versions: list[str]) -> ReconcileResult:
        target = bound.target
        # Read the workloads before the Secret. If another replica sees a later state of the Secret and marks a workload
        # in the meantime, our mark is refused. If the Secret were read first, our mark could put an older revision on
        # the workload.
        consumers = self._restarter.consumers(target)
        if self._is_already_applied(bound, consumers, request):
            if await self._is_unchanged(target, bound.record):
                return ReconcileResult(True, version_ids=request.expected, filled=True)
            self._cache.drop_values(target)
        observed = await self._observe(bound)
        if observed is None:
            return NOT_BOUND
        live = observed.live
        versions.append(live.resource_version)
        # The annotations of an earlier namespace with this name must not decide about this Secret.
        first_seen_at = bound.first_seen_at if live.uid == bound.uid else time.monotonic()
        await self._namespaces.confirm(target.namespace, first_seen_at)
        # The value must be read after this replica saw the present state of the Secret. An earlier read that is shared
        # with other bindings may be older than the value that another replica has applied since.
        seen_at = bound.seen_at if live.resource_version == bound.resource_version else time.monotonic()
        request = replace(request, since=max(request.since, seen_at))
        consumers = self._restarter.permitted(consumers, target, observed.spec)
        fill = FillResult(live.record, consumers)
        fills = self._has_to_fill(live, request)
        if bound.fault:
            fill = FillResult(live.record, consumers, error=InvalidBinding(bound.fault))
        elif fills:
            fill = await self._filler.fill(live, observed.spec, consumers, request)
            unconfirmed = observed.from_cache and not (fill.error or fill.written or fill.deleted)
            if unconfirmed and not await self._is_unchanged(target, live.record):
                raise Conflict(f"Secret {target} is not what it was: reading again")
        # Restart consumers even if the fill has failed, because they have to run with the values that the Secret has
        # now.
        rollout = await self._restarter.restart(target, observed.spec, fill.consumers, fill.record, fill.before)
        result = await self._reporter.report(live, observed.spec, request, fill, rollout, fills and fill.error is None)
        return result if not fill.deleted and (result.error is None or self._cache.get(target)) else NOT_BOUND

    async def _observe(self, bound: BoundSecret) -> Observed | None:
        """Return the Secret from the cache, or from the API server if the cache lacks a part of the Secret. Return None
        if the Secret is not bound.

        Raises a KeyturnError if the Secret cannot be read.
        """
        live = self._cache.live(bound)
        if live:
            return Observed(live, bound.spec, from_cache=True)
        try:
            read = await self._secrets.read(bound.target)
        except NotFound:
            return None
        if not read.bound:
            return None
        self._cache.keep_values(read.live, read.live.resource_version, read.live.fingerprints)
        return Observed(read.live, read.spec, from_cache=False)

    def _has_to_fill(self, live: LiveSecret, request: Request) -> bool:
        # If only a consumer has changed, no call to AWS is needed. But if the status reports a refusal by Kubernetes,
        # the cause of the refusal may be gone, so filling is tried again.
        return request.causes != {Cause.CONSUMER} or live.record.has_reason(ClusterRefused.reason)

    def _is_already_applied(self, bound: BoundSecret, consumers: Sequence[Consumer], request: Request) -> bool:
        """Return whether the version that the notification names is already applied. SQS and EventBridge can deliver a
        notification more than once.

        If the secret has changed again in AWS, another notification or the poller will report that.
        """
        if request.causes != {Cause.NOTIFICATION} or request.unversioned or not request.expected:
            return False
        if not all(version_id in bound.versions_text for version_id in request.expected):
            return False  # this is the usual case, and nothing has to be parsed for it
        record = bound.record
        permitted = self._restarter.permitted(consumers, bound.target, bound.spec)
        consumers, _ = self._restarter.in_turn(bound.target, bound.spec, permitted, record)
        status = sync_status(record, bound.spec, bound.is_intact, bound.target.name, consumers)
        if status is not SyncStatus.IN_SYNC:
            return False
        if not request.about:
            return request.expected == set(record.version_ids.values())
        return all(
            expected == set(versions_of(source, record.version_ids).values())
            for source, expected in request.about.items()
        )

    async def _is_unchanged(self, target: Target, record: Record) -> bool:
        """Return whether the Secret in the API server still has this record.

        The cache may not show a recent write of another replica yet. A reconcile that writes notices this, because its
        write fails with a Conflict. This check is for reconciles that write nothing.
        """
        try:
            return await self._secrets.read_record(target) == record
        except NotFound:
            return False
