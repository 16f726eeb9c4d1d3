"""One reconcile: observe, fill, roll out, report. It makes one binding true."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.binding import BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.sync_status import SyncStatus, sync_status
from keyturn_receiver.errors import ClusterRefused, Conflict, KeyturnError, NotFound
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.request import NOT_BOUND, Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.secret_filler import FillResult, SecretFiller
from keyturn_receiver.reconcile.status_reporter import StatusReporter
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.telemetry import logs
from keyturn_receiver.telemetry.tracing import Span, no_traces

CONFLICT_RETRIES = 5  # nearly at once: the other writer is done when the conflict is known
CONFLICT_BACKOFF = Backoff(base=0.05, cap=1.0, jitter=1)  # seconds; the jitter keeps replicas apart


@dataclass(frozen=True, slots=True)
class Observed:
    """A bound Secret as a reconcile begins with it; ``from_cache``: the API server was not asked."""

    live: LiveSecret
    spec: BindingSpec
    from_cache: bool


class Reconciler:
    """Reconciles bound Secrets. It holds no state: every decision comes from what AWS and the cluster hold."""

    def __init__(
        self,
        cache: SecretCache,
        secrets: SecretClient,
        filler: SecretFiller,
        restarter: ConsumerRestarter,
        reporter: StatusReporter,
        span: Span = no_traces,
    ) -> None:
        self._cache = cache
        self._secrets = secrets
        self._filler = filler
        self._restarter = restarter
        self._reporter = reporter
        self._span = span

    async def reconcile(self, target: Target, request: Request) -> ReconcileResult:
        """Make the binding at ``target`` true. Every KeyturnError is in the result, once status and Event tell it."""
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
        for attempt in range(CONFLICT_RETRIES + 1):
            bound = self._cache.get(target)
            if bound is None:
                return NOT_BOUND
            try:
                return await self._reconcile(bound, request)
            except Conflict as error:
                self._cache.drop_values(target)  # another writer is at work on it: the next attempt reads for itself
                conflict = error
            except KeyturnError as error:
                return ReconcileResult(True, error=error) if self._cache.get(target) else NOT_BOUND
            if attempt < CONFLICT_RETRIES:
                await asyncio.sleep(CONFLICT_BACKOFF.delay(attempt + 1))
        return ReconcileResult(True, error=conflict)

    async def _reconcile(self, bound: BoundSecret, request: Request) -> ReconcileResult:
        target = bound.target
        # The workloads before the Secret: a mark is then refused when another replica, which saw a later Secret, has
        # marked the workload in the meantime. The other order could take a workload back to an older revision.
        consumers = self._restarter.consumers(target)
        if self._is_already_applied(bound, consumers, request):
            if await self._is_unchanged(target, bound.record):
                return ReconcileResult(True, version_ids=request.expected, filled=True)
            self._cache.drop_values(target)
        observed = await self._observe(bound)
        if observed is None:
            return NOT_BOUND
        live = observed.live
        # The value as of after the Secret was written: one that was read for others before may be older than what
        # another replica has applied meanwhile.
        seen_at = bound.seen_at if live.resource_version == bound.resource_version else time.monotonic()
        request = replace(request, since=max(request.since, seen_at))
        consumers = self._restarter.permitted(consumers, target, observed.spec)
        fill = FillResult(live.record, consumers)
        fills = self._has_to_fill(live, request)
        if fills:
            fill = await self._filler.fill(live, observed.spec, consumers, request)
            unconfirmed = observed.from_cache and not (fill.error or fill.written or fill.deleted)
            if unconfirmed and not await self._is_unchanged(target, live.record):
                raise Conflict(f"Secret {target} is not what it was: reading again")
        # Also where filling has failed: the Secret keeps what it holds, and its consumers have to run with it.
        rollout = await self._restarter.restart(target, fill.consumers, fill.record, fill.written)
        result = await self._reporter.report(live, request, fill, rollout, fills and fill.error is None)
        return result if not fill.deleted and (result.error is None or self._cache.get(target)) else NOT_BOUND

    async def _observe(self, bound: BoundSecret) -> Observed | None:
        """The Secret from the cache, or from the API server where the cache lacks its values; None: it is not bound.

        Raises the KeyturnError of the read.
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
        # A consumer alone is no matter of AWS's; but a refusal that the status tells may be over.
        return request.causes != {Cause.CONSUMER} or live.record.has_reason(ClusterRefused.reason)

    def _is_already_applied(self, bound: BoundSecret, consumers: Sequence[Consumer], request: Request) -> bool:
        """Whether the notified version is already applied (SQS and EventBridge deliver at least once).

        Should AWS have moved on since, then another notification tells that, or the poller.
        """
        if request.causes != {Cause.NOTIFICATION} or request.unversioned or not request.expected:
            return False
        consumers = self._restarter.permitted(consumers, bound.target, bound.spec)
        record = bound.record
        status = sync_status(record, bound.spec, bound.solely_managed, bound.target.name, consumers)
        return request.expected == set(record.version_ids.values()) and status is SyncStatus.IN_SYNC

    async def _is_unchanged(self, target: Target, record: Record) -> bool:
        """Whether the Secret carries this record even now: the cache may be behind what another replica has written,
        and where nothing is written, no resource version tells."""
        try:
            return await self._secrets.read_record(target) == record
        except NotFound:
            return False
