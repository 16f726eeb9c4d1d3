"""The composition root: builds the receiver from its settings, and runs it until it is told to stop."""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prometheus_client import ProcessCollector

from keyturn_receiver.cluster import api as kubernetes
from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.event_path import EventPathMonitor
from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.lease import LeaderElector, LeaseClient
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespacePoller
from keyturn_receiver.cluster.reflector import ListWatch, ObjectCache, Reflector, WatchTimeouts
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.service_account_client import ServiceAccount, ServiceAccountClient
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import BIND_LABEL, Target
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.errors import KeyturnError
from keyturn_receiver.liveness import Watchdog
from keyturn_receiver.poller.poller import Poller
from keyturn_receiver.poller.sweep import Sweeper
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter
from keyturn_receiver.reconcile.drift import DriftDetector
from keyturn_receiver.reconcile.fingerprint_cache import new_fingerprint
from keyturn_receiver.reconcile.reconciler import Reconciler
from keyturn_receiver.reconcile.request import PRIORITIES
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources import assume_role, clients
from keyturn_receiver.sources.key_file import KeyFile
from keyturn_receiver.sources.key_secret import KeySecret
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.signing_keys import KeySource, SigningKeys, ed25519
from keyturn_receiver.sources.stores import Store, StoreKey, Stores
from keyturn_receiver.sources.thread_pools import OVERSUBSCRIPTION, ThreadPools
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span, no_traces
from keyturn_receiver.web.certificate import ReloadingCertificate
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.health import health_app
from keyturn_receiver.web.notification_handler import NotificationHandler
from keyturn_receiver.web.server import Server
from keyturn_receiver.web.webhook import WebhookConfig, WebhookEndpoint

# Kubernetes allows 30 seconds from SIGTERM to the end; of them the drain takes 15 at most.
GRACE = 9.0  # seconds for what is under way after the drain
ANSWERED = 7.0  # of them, until each delivery is answered
LAST_WORDS = 2.0  # seconds for Events that were not written yet
SWEEP_THREADS = 2

_log = logging.getLogger(__name__)


class Receiver:
    """The receiver's parts, put together; ``run`` sets them going."""

    def __init__(
        self, settings: Settings, transport: Transport, pools: ThreadPools, rendering: Executor, span: Span = no_traces
    ) -> None:
        self.settings = settings
        self._pools = pools
        self._stopping = False
        self.metrics = metrics = Metrics()
        self._pulse = Watchdog(settings.stuck_seconds)
        limiter = AdaptiveLimiter(settings.kubernetes_requests)
        api = kubernetes.Api(transport, limiter, metrics)
        self._service_accounts = ServiceAccountClient(api)
        self._stores = Stores(self._make_store, clients.default_region() or "")
        self._signing_keys = SigningKeys(self._key_places())

        # The pictures, and what they show being acted upon.
        self.bound = SecretCache(lambda target: self._drift.look(target))
        namespaces = NamespaceCache(lambda namespace: self._drift.check_namespace(namespace))
        consumers = ConsumerIndex()
        self._reflectors = self._reflect(api, namespaces, consumers)

        # From a request to a binding that is true.
        fingerprint = new_fingerprint()
        secrets = SecretClient(api, fingerprint)
        restarts = ConsumerRestarter(consumers, WorkloadClient(api), secrets, metrics)
        tenancies = AccessPolicy(
            namespaces, settings.policy_default, settings.tenant_roles, settings.signing_key_secret_id
        )
        self._events = EventRecorder(api, metrics, _utc_now)
        reconciler = Reconciler(
            stores=self._stores,
            secrets=secrets,
            bound=self.bound,
            namespaces=namespaces,
            restarts=restarts,
            events=self._events,
            tenancies=tenancies,
            deletions=settings.deletions,
            fingerprint=fingerprint,
            executor=rendering,
            metrics=metrics,
            span=span,
            now=_utc_now,
        )
        self.queue = WorkQueue(reconciler.reconcile, settings.concurrency, self._secret_id, metrics)

        # What asks: the pictures, the poller, the door.
        identity = f"{socket.gethostname()}-{os.getpid()}"

        def lease(name: str) -> LeaseClient:
            return LeaseClient(api, settings.lease_namespace, f"{settings.lease_name}-{name}")

        self.lease = LeaderElector(
            lease("poller"), identity, lambda: self._drift.lead(), self._pulse.register("leader election")
        )
        self._drift = DriftDetector(
            self.bound, namespaces, restarts, reconciler, self.queue, tenancies, self.lease.is_leader
        )
        self.heartbeats = EventPathMonitor(
            lease("event-path"),
            identity,
            settings.heartbeat_silence_seconds,
            self._pulse.register("event path monitor"),
        )
        self._polling = self._pulse.register("poller")
        self._poller = Poller(
            Sweeper(self._stores, self.bound, tenancies, settings.poll_mode),
            self.queue,
            self.lease.is_leader,
            self.heartbeats.healthy,
            settings.poll_interval_seconds,
            metrics,
        )
        door = WebhookEndpoint(
            handler=NotificationHandler(
                self.bound, self.queue, tenancies, self.heartbeats.record_heartbeat, metrics, _utc_now
            ),
            keys=self._signing_keys.current,
            ready=lambda: not self._unprepared(),
            now=time.time,
            config=WebhookConfig(
                [ed25519(key) for key in settings.signing_public_keys],
                settings.deadline_seconds,
                settings.max_deliveries,
            ),
            metrics=metrics,
            span=span,
        )
        self._certificate = (
            ReloadingCertificate(settings.tls_certificate_file, settings.tls_key_file)
            if settings.tls_certificate_file and settings.tls_key_file
            else None
        )
        room = ConnectionLimiter(settings.max_connections, metrics)
        self._door = door
        self._notifications = Server(door.app(), settings.host, settings.port, room, GRACE, self._certificate)
        self._operations = Server(
            health_app(self._pulse.stuck, self.missing, metrics),
            settings.host,
            settings.operations_port,
            ConnectionLimiter(settings.max_connections, metrics),
            shutdown_timeout=1.0,
        )
        ProcessCollector(registry=metrics.registry)
        self._pulse.register_duration("reconcile", self.queue.longest_running)
        self._pulse.register_duration("AWS calls", pools.saturated_for)
        metrics.bindings.set_function(lambda: len(self.bound))
        metrics.failing_bindings.set_function(self.queue.failing)
        metrics.staleness_seconds.set_function(self.queue.oldest_unmet)
        metrics.poller_leader.set_function(self.lease.is_leader)
        metrics.event_path_up.set_function(self.heartbeats.healthy)
        metrics.signing_keys.set_function(lambda: len(self._signing_keys.current()) + len(settings.signing_public_keys))
        metrics.kubernetes_request_limit.set_function(lambda: limiter.limit)
        for priority in PRIORITIES:
            metrics.queue_depth.labels(priority).set_function(partial(self.queue.depth, priority))

    def missing(self) -> Sequence[str]:
        """What readiness waits for, in words."""
        return ["shutting down"] if self._stopping else self._unready()

    def _unready(self) -> Sequence[str]:
        # Deliveries that come all the same are tried: what AWS says about one secret need not hold for the next.
        fault = self._stores.credentials_error()
        return [*self._unprepared(), *([f"AWS credentials: {fault}"] if fault else [])]

    def _unprepared(self) -> Sequence[str]:
        """What there must be before a delivery can be understood, and answered truly."""
        waiting = [f"first list of {name}" for name, part in self._reflectors.items() if not part.synced.is_set()]
        return [*waiting, *self._signing_keys.not_loaded()]

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; a part that breaks for good takes the process down, to be started anew."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(server.serve()) for server in (self._notifications, self._operations)]
            background = [group.create_task(part) for part in self._background()]
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await self._stop(serving)
            for task in background:
                task.cancel()
        await self._events.flush(LAST_WORDS)

    def _background(self) -> Sequence[Coroutine[Any, Any, None]]:
        parts: list[Coroutine[Any, Any, None]] = [reflector.run() for reflector in self._reflectors.values()]
        parts += [self._begin(), self._look_for_keys(), self._events.run(), self.lease.run(), self.heartbeats.run()]
        return [*parts, self._certificate.run()] if self._certificate else parts

    async def _begin(self) -> None:
        # Not before the pictures are whole: what is not seen yet would look as if there was none.
        while not await self._synced():
            self._polling()  # it waits, and is not stuck
        self._drift.begin()
        # What the pictures hold now stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        _log.info("started", extra={"fields": {"bindings": len(self.bound)}})
        await self._poller.run(self._polling)

    async def _synced(self, seconds: float = 10.0) -> bool:
        """Wait for the pictures; tell whether they are whole."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for reflector in self._reflectors.values():
                    await reflector.synced.wait()
                return True
        return False

    async def _stop(self, serving: Sequence["asyncio.Task[None]"]) -> None:
        """Be of use until the cluster has learnt to do without, then finish what was begun."""
        self._stopping = True
        _log.info("shutting down")
        self._door.start_draining()
        if not any(server.done() for server in serving):
            await asyncio.sleep(self.settings.drain_seconds)
        end = time.monotonic() + GRACE
        self._door.set_deadline(ANSWERED)
        self._notifications.should_exit = True
        await asyncio.wait(serving[:1])
        await self.queue.close(max(0.0, end - time.monotonic()))
        self._operations.should_exit = True
        await asyncio.gather(*serving)

    async def _look_for_keys(self) -> None:
        beat = self._pulse.register("signing keys")
        while True:
            beat()
            await self._signing_keys.load()
            # Who reads a key of AWS needs no other proof.
            if not self.settings.signing_key_secret_id and self._stores.credentials_error():
                await self._check_credentials()
            rest = 1.0 if self._unready() else self.settings.signing_key_interval_seconds
            beat(rest)
            await asyncio.sleep(rest)

    async def _check_credentials(self) -> None:
        try:
            await (await self._stores.get(self._stores.key())).secrets_manager.check_credentials()
        except KeyturnError as error:
            _log.warning("%s", error)

    def _key_places(self) -> Sequence[KeySource]:
        places: list[KeySource] = []
        if self.settings.signing_key_secret_id:
            places.append(KeySecret(self._stores, self.settings.signing_key_secret_id))
        if self.settings.signing_key_file:
            places.append(KeyFile(self.settings.signing_key_file))
        return places

    def _reflect(
        self, api: kubernetes.Api, namespaces: NamespaceCache, consumers: ConsumerIndex
    ) -> dict[str, Reflector[Any] | NamespacePoller]:
        """Make what fills the pictures: a watch of each kind, or in each of a few namespaces."""
        served = self.settings.namespaces
        patience = WatchTimeouts(self.settings.watch_seconds, self.settings.resync_seconds)
        reflectors: dict[str, Reflector[Any] | NamespacePoller] = {}

        def reflect(group_version: str, resource: str, picture: ObjectCache[Any], **view: Any) -> None:
            for namespace in served or (None,):
                name = resource if namespace is None else f"{resource} in {namespace}"
                path = kubernetes.path(group_version, resource, namespace)
                beat = self._pulse.register(f"watch of {name}")
                reflectors[name] = Reflector(api, ListWatch(path, namespace, **view), picture, patience, beat)

        if served:
            beat = self._pulse.register("namespace poller")
            reflectors["namespaces"] = NamespacePoller(api, served, namespaces, beat)
        else:
            reflect("v1", "namespaces", namespaces, metadata_only=True, page_size=250)
        reflect("v1", "secrets", self.bound, labels=f"{BIND_LABEL}=true", metadata_only=True, page_size=250)
        for kind in WORKLOAD_KINDS.values() if self.settings.rollouts else ():
            reflect(
                kind.group_version, kind.plural, ConsumerCache(kind, consumers, lambda target: self._drift.look(target))
            )
        return reflectors

    async def _make_store(self, key: StoreKey) -> Store:
        """Make what reads for one identity in one region."""
        threads = self.settings.aws_threads
        if not key.account:
            client = clients.secrets_manager(key.region, OVERSUBSCRIPTION * threads)
            sweeping = clients.secrets_manager(key.region, OVERSUBSCRIPTION * SWEEP_THREADS)
            return Store.of(key, SecretsManager(client, sweeping, self._pools, self.metrics))
        account = ServiceAccount(*key.account.split("/", 1))
        role_arn = await self._service_accounts.role_arn(account)
        token = await self._service_accounts.token(account)
        sts = clients.sts(key.region)
        credentials = await assume_role.assume(sts, self._pools.quarantine, self.metrics, key.account, role_arn, token)
        client = clients.secrets_manager(key.region, OVERSUBSCRIPTION * threads, credentials)
        return Store.of(key, SecretsManager(client, client, self._pools, self.metrics), credentials.expires_at)

    def _secret_id(self, target: Target) -> str:
        bound = self.bound.get(target)
        return bound.secret_id if bound else ""


def _utc_now() -> datetime:
    return datetime.now(UTC)
