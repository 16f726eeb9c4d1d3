"""One reconcile: from what stands in AWS and in the cluster to a binding that is true."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime

from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.binding import Binding, OnDelete, Source, Target, binding_hash, read_binding
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.plan import Fingerprint, LiveSecret, plan
from keyturn_receiver.core.policy import check_type
from keyturn_receiver.core.render import SecretVersion, estimated_cost, render
from keyturn_receiver.core.revision import OK, Record, status_of
from keyturn_receiver.core.sync_status import SyncStatus, due
from keyturn_receiver.errors import ClusterRefused, Conflict, KeyturnError, NotFound, Permanent, SourceNotFound
from keyturn_receiver.reconcile import event_messages
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.deletion import SecretDeleter
from keyturn_receiver.reconcile.fetch import fetch
from keyturn_receiver.reconcile.fingerprint_cache import FingerprintCache
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.sources.stores import StoreKey, Stores
from keyturn_receiver.telemetry import logs
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span

NOT_BOUND = ReconcileResult(bound=False)
HEAVY = 100_000  # units of ``expression.cost``: some hundredths of a second, which others should not have to wait

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Filled:
    """The Secret after its part of a reconcile; ``written``: by us, just now, so that ``record`` is the truth.

    ``recovers``: nothing is wrong with it but that it tells of a refusal. That stays until the restarts are done: were
    they refused each time, the Secret would be written twice for each try, and each write is seen.
    """

    record: Record
    consumers: Sequence[Consumer]
    changed_keys: str = ""  # in words
    written: bool = False
    recovers: bool = False


class Reconciler:
    """Reconciles bound Secrets; ``now`` gives the time in UTC, for people only: nothing is decided by it."""

    def __init__(
        self,
        stores: Stores,
        secrets: SecretClient,
        bound: SecretCache,
        namespaces: NamespaceCache,
        restarts: ConsumerRestarter,
        events: EventRecorder,
        tenancies: AccessPolicy,
        deletions: bool,
        fingerprint: Fingerprint,
        executor: Executor,
        metrics: Metrics,
        span: Span,
        now: Callable[[], datetime],
    ) -> None:
        self._stores = stores
        self._secrets = secrets
        self._bound = bound
        self._namespaces = namespaces
        self._restarts = restarts
        self._events = events
        self._names = ArnResolver(stores, tenancies)
        self._deletion = SecretDeleter(stores, secrets, self._names, deletions)
        self._tenancies = tenancies
        self._fingerprint = fingerprint
        self._executor = executor
        self._metrics = metrics
        self._span = span
        self._now = now
        self._memory = FingerprintCache()
        self._given_up: dict[Target, str] = {}  # the resource version of each Secret that only a person can help

    async def reconcile(self, target: Target, request: Request) -> ReconcileResult:
        """Make the binding at ``target`` true. Raises any KeyturnError, once the Secret and an Event tell of it."""
        known = self._bound.get(target)
        if known is None:
            self.forget(target)
            return NOT_BOUND
        with (
            logs.log_context(secret=str(target), event_ids=request.event_ids),
            self._span("reconcile", request.event_ids, secret=str(target), cause=request.priority.value),
        ):
            try:
                return await self._reconcile(known, request)
            except Conflict:
                self._memory.forget(target)  # somebody else is at work on it; the next try looks for itself
                raise
            except KeyturnError:
                if self._bound.get(target) is None:  # it went meanwhile, and what was noted of it would stay
                    self.forget(target)
                    return NOT_BOUND
                raise

    def forget(self, target: Target) -> None:
        """Keep nothing about a Secret that is not bound any more."""
        self._memory.forget(target)
        self._given_up.pop(target, None)

    def has_given_up(self, known: BoundSecret) -> bool:
        """Whether this replica has tried in vain, and nothing about the Secret has changed since."""
        return self._given_up.get(known.target) == known.resource_version

    def reconsider(self, target: Target) -> None:
        """Try again what was tried in vain: something else has changed that it may have been due to."""
        self._given_up.pop(target, None)

    async def _reconcile(self, known: BoundSecret, request: Request) -> ReconcileResult:
        target = known.target
        # The workloads before the Secret: a mark is then refused when another replica, which saw a later Secret, has
        # marked the workload in the meantime. The other order could take a workload back to an older revision.
        consumers = self._restarts.consumers(target)
        if self._seems_there(known, consumers, request):
            if await self._still_says(target, known.record):
                return ReconcileResult(bound=True, version_ids=request.expected)
            self._memory.forget(target)
        live, annotations = self._memory.recall(known), known.annotations
        recalled = live is not None
        if live is None:
            try:
                found = await self._secrets.read(target)
            except NotFound:
                return NOT_BOUND
            if not found.bound:
                return NOT_BOUND
            live, annotations = found.live, found.annotations
            self._memory.keep(live, live.resource_version, live.fingerprints)
        # The value as of after the Secret was written: what was read for others before may be older than what another
        # replica has put there meanwhile.
        seen = known.seen if live.resource_version == known.resource_version else time.monotonic()
        request = replace(request, since=max(request.since, seen))
        try:
            return await self._settle(live, annotations, consumers, request, recalled)
        except Conflict:
            raise
        except KeyturnError as error:
            await self._tell(live, error)
            raise

    async def _still_says(self, target: Target, record: Record) -> bool:
        """Whether the Secret says this of itself even now: the picture may lag behind what another replica has written,
        and where nothing is written, no resource version tells."""
        try:
            return await self._secrets.read_record(target) == record
        except NotFound:
            return False

    def _seems_there(self, known: BoundSecret, consumers: Sequence[Consumer], request: Request) -> bool:
        """Whether notifications tell of nothing but what the Secret is made from already; they come twice, and more.

        Should AWS have moved on since, then another notification tells of that, or the poller.
        """
        if request.causes != {Cause.NOTIFICATION} or request.unnamed or not request.expected:
            return False
        if self._restarts.disabled(known.annotations, self._namespaces.annotations(known.target.namespace)):
            consumers = ()
        record = known.record
        there = request.expected == set(record.version_ids.values())
        return (
            there and due(record, known.annotations, known.intact, known.target.name, consumers) is SyncStatus.NOTHING
        )

    async def _settle(
        self,
        live: LiveSecret,
        annotations: Mapping[str, str],
        consumers: Sequence[Consumer],
        request: Request,
        recalled: bool,
    ) -> ReconcileResult:
        target = live.target
        if self._restarts.disabled(annotations, self._namespaces.annotations(target.namespace)):
            consumers = ()
        filled = as_it_stands = _Filled(live.record, consumers)
        # A consumer alone is no matter of AWS's; but a refusal that the Secret tells of may be over.
        if request.causes != {Cause.CONSUMER} or live.record.has_reason(ClusterRefused.reason):
            try:
                made = await self._fill_or_delete(live, annotations, consumers, request)
            except Conflict:
                raise
            except KeyturnError as error:
                # What the Secret holds it goes on holding, and its consumers have to know of that all the same.
                try:
                    await self._restart(target, as_it_stands)
                except Permanent:
                    if isinstance(error, Permanent):
                        raise
                raise  # what can be tried again goes first
            if made is None:
                return NOT_BOUND
            if recalled and not made.written and not await self._still_says(target, live.record):
                raise Conflict(f"Secret {target} is not what it was: reading again")
            filled = made
            self._given_up.pop(target, None)
        restarted = await self._restart(target, filled)
        if filled.recovers:
            await self._secrets.write_status(live, OK)
        if filled.changed_keys or restarted:
            self._events.event(
                target,
                live.uid,
                False,
                "Applied",
                event_messages.applied(filled.record, filled.changed_keys, restarted),
            )
        return ReconcileResult(
            bound=True,
            changed=bool(filled.changed_keys),
            version_ids=frozenset(filled.record.version_ids.values()),
            restarted=tuple(consumer.ref for consumer in restarted),
        )

    async def _fill_or_delete(
        self, live: LiveSecret, annotations: Mapping[str, str], consumers: Sequence[Consumer], request: Request
    ) -> _Filled | None:
        """Fill the Secret; None: it is gone, as its binding asks for once AWS has deleted what it was made from."""
        binding = read_binding(live.target, annotations)
        try:
            return await self._fill(binding, live, annotations, consumers, request)
        except SourceNotFound as fault:
            if binding.on_delete is OnDelete.RETAIN or not live.record.filled:
                raise
            store = self._store(binding, min(binding.sources))
            await self._deletion.delete(binding, store, live, request.since, fault)
            return None

    async def _fill(
        self,
        binding: Binding,
        live: LiveSecret,
        annotations: Mapping[str, str],
        consumers: Sequence[Consumer],
        request: Request,
    ) -> _Filled:
        target = live.target
        check_type(live.type)
        versions = await self._fetch(binding, request)
        data = await self._render(binding, versions)
        planned = plan(binding, binding_hash(annotations), live, data, versions, self._fingerprint)
        if not planned.write:
            return _Filled(live.record, consumers)
        stands = not planned.changed_keys and planned.record == replace(live.record, status=OK)
        if stands and live.record.has_reason(ClusterRefused.reason):
            return _Filled(live.record, consumers, recovers=True)
        consumers = await self._restarts.baseline(target, consumers, planned.before)
        applied_at = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        with self._metrics.apply_seconds.time(), self._span("apply"):
            resource_version = await self._secrets.apply(live, planned.record, data, applied_at)
        if live.record.revisions.keys() <= data.keys():
            fingerprints = {key: self._fingerprint(value) for key, value in data.items()}
            self._memory.keep(live, resource_version, {**live.fingerprints, **fingerprints})
        else:
            self._memory.forget(target)  # what becomes of keys given up depends on who else owns them
        keys = event_messages.keys(binding, planned.changed_keys)
        fields = {"keys": keys, "version_ids": planned.record.version_ids}
        _log.info("applied", extra={"fields": {**fields, "causes": sorted(request.causes)}})
        return _Filled(planned.record, consumers, keys, written=True)

    async def _fetch(self, binding: Binding, request: Request) -> dict[Source, SecretVersion]:
        sources = sorted(binding.sources)
        whose = (binding.target.namespace, binding.service_account)
        for source in sources:
            await self._names.check(self._store(binding, source), *whose, source.secret_id, request.since)
        # A notification names one version of one secret: of several sources it cannot be told which it is about.
        expected = request.expected if len(sources) == 1 else frozenset()
        with self._metrics.fetch_seconds.time(), self._span("fetch"):
            background = Cause.NOTIFICATION not in request.causes
            reads = [
                fetch(self._stores, self._store(binding, source), source, expected, request.since, background)
                for source in sources
            ]
            found = [await reads[0]] if len(reads) == 1 else await asyncio.gather(*reads)
        for version in found:
            self._tenancies.check_name(*whose, version.name)
        return dict(zip(sources, found, strict=True))

    def _store(self, binding: Binding, source: Source) -> StoreKey:
        return self._stores.key(source.secret_id, binding.target.namespace, binding.service_account)

    async def _render(self, binding: Binding, versions: Mapping[Source, SecretVersion]) -> dict[str, bytes]:
        if estimated_cost(binding, versions) <= HEAVY:
            return render(binding, versions)
        return await asyncio.get_running_loop().run_in_executor(self._executor, render, binding, versions)

    async def _restart(self, target: Target, filled: _Filled) -> Sequence[Consumer]:
        record = filled.record
        if self._restarts.none_due(target, filled.consumers, record):
            return ()
        if not filled.written:
            # The picture may lag behind, and marks of an older revision would restart pods for nothing.
            try:
                record = await self._secrets.read_record(target)
            except NotFound:
                return ()
        with self._metrics.rollout_seconds.time(), self._span("rollout"):
            return await self._restarts.restart(target, filled.consumers, record.revisions)

    async def _tell(self, live: LiveSecret, error: KeyturnError) -> None:
        """Say on the Secret and in an Event what is wrong; what will pass is told by the Event alone."""
        self._events.event(live.target, live.uid, True, error.reason, str(error))
        if not isinstance(error, Permanent):
            return
        status = status_of(error.reason, str(error))
        resource_version = live.resource_version
        if live.record.status != status:
            try:
                resource_version = await self._secrets.write_status(live, status)
            except Conflict:
                raise
            except KeyturnError as trouble:
                _log.warning("the status of %s could not be written: %s", live.target, trouble)
        self._given_up[live.target] = resource_version
