"""Composition root. Builds the receiver in layers, each from the layers below. ``runtime`` then runs the receiver."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import ProcessCollector

from keyturn_receiver.clock import utc_now
from keyturn_receiver.cluster import api as kubernetes
from keyturn_receiver.cluster import released_cache
from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.event_path import EventPathMonitor
from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.fingerprint import new_fingerprint
from keyturn_receiver.cluster.history_client import HistoryClient
from keyturn_receiver.cluster.lease import LeaderElector, LeaseClient
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespacePoller, NamespaceReader
from keyturn_receiver.cluster.optional_informer import OptionalInformer
from keyturn_receiver.cluster.reader_client import ReaderClient
from keyturn_receiver.cluster.record_key import RecordKey, RecordKeyClient, RecordKeyMonitor
from keyturn_receiver.cluster.record_reader import RecordReader
from keyturn_receiver.cluster.reflector import ListWatch, ObjectCache, Reflector, WatchTimeouts
from keyturn_receiver.cluster.released_cache import ReleasedCache
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.cluster.service_account_client import ServiceAccountClient
from keyturn_receiver.cluster.template_borrowers import Borrowers, RolloutCache
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.cluster.wanted_fields import workload_decoder
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.vocabulary import BIND_LABEL, WATCH_LABEL
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.liveness import Watchdog
from keyturn_receiver.poller.poller import Poller
from keyturn_receiver.poller.sweep import Sweeper
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.change_brake import ChangeBrake
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter, Restraints
from keyturn_receiver.reconcile.deletion import SecretDeleter
from keyturn_receiver.reconcile.drift import DriftDetector
from keyturn_receiver.reconcile.fight_reporter import FightReporter
from keyturn_receiver.reconcile.live_reporter import LiveReporter
from keyturn_receiver.reconcile.missing_key_reporter import MissingKeyReporter
from keyturn_receiver.reconcile.notices import Notices
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.reader_reporter import ReaderReporter
from keyturn_receiver.reconcile.reconciler import Reconciler
from keyturn_receiver.reconcile.release_reporter import ReleaseReporter
from keyturn_receiver.reconcile.renderer import Renderer
from keyturn_receiver.reconcile.request import PRIORITIES
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.rollout_debouncer import RolloutDebouncer
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.reconcile.secret_filler import SecretFiller
from keyturn_receiver.reconcile.source_reader import SourceReader
from keyturn_receiver.reconcile.status_reporter import StatusReporter
from keyturn_receiver.reconcile.version_states import VersionStates
from keyturn_receiver.reconcile.watch_detector import WatchDetector
from keyturn_receiver.reconcile.watch_reconciler import WatchReconciler
from keyturn_receiver.reconcile.watch_reporter import WatchReporter
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.runtime import (
    GRACE,
    Background,
    Http,
    Informer,
    Notifications,
    Readiness,
    Runtime,
    SigningKeyLoader,
)
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources import clients
from keyturn_receiver.sources.key_file import KeyFile
from keyturn_receiver.sources.key_secret import KeySecret
from keyturn_receiver.sources.signing_keys import KeySource, SigningKeys, ed25519
from keyturn_receiver.sources.stores import Stores
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.status.page_data import Cluster
from keyturn_receiver.status_page import NO_HOOKS, HealthParts, Hooks, Recorder, StatusPage, build_status_page
from keyturn_receiver.store_factory import StoreFactory
from keyturn_receiver.telemetry.legs import LegTimer
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.telemetry.tracing import Span, no_traces
from keyturn_receiver.web.certificate import ReloadingCertificate
from keyturn_receiver.web.connection_limiter import ConnectionLimiter
from keyturn_receiver.web.health import health_app
from keyturn_receiver.web.notification_handler import NotificationHandler
from keyturn_receiver.web.server import Server
from keyturn_receiver.web.webhook import WebhookConfig, WebhookEndpoint

RECORD_KEY = "record-key"  # the end of the name of the Secret that holds the record key
OPERATIONS_GRACE = 1.0  # seconds that open requests on the operations port have to finish during a shutdown

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """The lowest layer, on which all others depend: settings, threads, metrics, liveness and traces."""

    settings: Settings
    pools: ThreadPools
    metrics: Metrics
    watchdog: Watchdog
    span: Span


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches that the informers fill from the cluster."""

    secrets: SecretCache
    namespaces: NamespaceCache
    consumers: ConsumerIndex
    borrowers: Borrowers
    released: ReleasedCache
    watched: WatchedCache


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The Kubernetes side: the API client, the caches with their informers, the record key, the Event recorder, and the
    two parts that use a Lease: the leader election and the event path monitor."""

    api: kubernetes.Api
    caches: Caches
    record_key: RecordKey
    informers: Mapping[str, Informer]
    events: EventRecorder
    elector: LeaderElector
    event_path: EventPathMonitor


@dataclass(frozen=True, slots=True)
class Aws:
    """The AWS side: the stores of secrets, and the keys that verify deliveries."""

    stores: Stores
    signing_keys: SigningKeys


@dataclass(frozen=True, slots=True)
class Controller:
    """The parts that decide what to do, and do it.

    - ``access`` and ``queue``: the access policy and the work queue.
    - ``drift`` and ``poller``: besides the webhook, they submit work to the queue.
    - ``pacer``: paces rollouts.
    - ``releases`` and ``live``: report Secrets that are no longer bound, and rollouts.
    - ``versions``: knows which versions have reached every pod. None if rollouts are off, because the receiver then
      watches no workload.
    - ``readers``: reports readers that are not restarted. None if such reports are off.
    - ``restarter``: restarts consumers.
    - ``watch_queue`` and ``watches``: the queue and the detector of watched Secrets.
    """

    access: AccessPolicy
    queue: WorkQueue
    drift: DriftDetector
    poller: Poller
    releases: ReleaseReporter
    pacer: RolloutPacer
    live: LiveReporter
    watch_queue: WorkQueue
    watches: WatchDetector
    readers: ReaderReporter | None
    restarter: ConsumerRestarter
    versions: VersionStates | None


def build(
    settings: Settings, transport: Transport, pools: ThreadPools, rendering: Executor, span: Span = no_traces
) -> Runtime:
    """Build the receiver."""
    process = Process(settings, pools, Metrics(), Watchdog(settings.stuck_seconds), span)
    kube = build_kubernetes(process, transport)
    aws = build_aws(process, kube)
    recorder = Recorder(kube.caches.secrets, kube.caches.consumers) if settings.status_page else None
    hooks = recorder.hooks() if recorder else NO_HOOKS
    controller = build_controller(process, kube, aws, rendering, hooks)
    readiness = Readiness(kube.informers, aws.signing_keys, aws.stores)
    http, certificates = build_http(process, kube, aws, controller, readiness, hooks)
    observe(process, kube, aws, controller)

    # Every change in the caches, and the start of leadership, triggers a check for drift.
    kube.caches.secrets.add_handler(controller.drift.check)
    secrets = SecretLookup(kube.caches.secrets, kube.caches.watched)
    for cache in (kube.caches.secrets, kube.caches.watched):
        cache.add_handler(lambda target: None if secrets.get(target) else controller.pacer.forget(target))
    kube.caches.consumers.add_handler(controller.drift.check)
    kube.caches.namespaces.add_handler(controller.drift.check_namespace)
    kube.elector.add_handler(controller.drift.on_started_leading)
    kube.caches.namespaces.add_end_handler(kube.caches.secrets.forget_former)
    kube.caches.watched.add_handler(controller.watches.check)
    kube.caches.watched.add_kept_handler(controller.watches.on_kept)
    kube.caches.consumers.add_handler(controller.watches.check)
    kube.caches.namespaces.add_handler(controller.watches.check_namespace)
    kube.elector.add_handler(controller.watches.on_started_leading)

    notices = Notices(kube.events, kube.elector.is_leader)
    kube.caches.secrets.add_copy_handler(notices.on_copy)
    kube.caches.watched.add_fault_handler(notices.on_watched)
    kube.caches.consumers.add_fault_handler(notices.on_consumer)
    kube.caches.namespaces.add_fault_handler(notices.on_namespace)
    kube.elector.add_handler(notices.on_started_leading)
    missing_keys = MissingKeyReporter(kube.caches.consumers, kube.caches.secrets, notices)
    controller.drift.add_handler(missing_keys.check)
    kube.caches.secrets.add_handler(missing_keys.on_secret)
    kube.caches.consumers.add_unread_handler(notices.on_no_missing_keys)

    live = controller.live
    kube.caches.consumers.add_progress_handler(live.on_progress)
    kube.caches.consumers.add_unread_handler(live.on_unread)
    kube.caches.secrets.add_handler(live.on_secret)
    kube.caches.watched.add_handler(live.on_secret)
    kube.elector.add_handler(live.on_started_leading)
    if controller.versions:
        kube.caches.secrets.add_handler(controller.versions.on_secret)

    key_loader = SigningKeyLoader(
        aws.signing_keys,
        aws.stores,
        readiness,
        settings.signing_key_interval_seconds,
        ping=process.watchdog.register("signing key"),
    )

    ping = process.watchdog.register("poller")

    async def run_controller() -> None:
        controller.drift.start()
        controller.watches.start()
        if not settings.deliveries:
            _log.info("deliveries are off: the poller alone carries changes")
        _log.info("started", extra={"fields": {"bindings": len(kube.caches.secrets)}})
        await controller.poller.run(ping)

    parts = [key_loader.run, kube.events.run, kube.elector.run, kube.event_path.run, controller.releases.run, live.run]
    if controller.readers:
        parts.append(controller.readers.run)
    if recorder:
        parts.append(build_page(process, kube, aws, controller, readiness, recorder).run)
    background = Background(kube.informers, [*parts, *(each.run for each in certificates)], run_controller, ping)
    queues = [controller.queue, controller.watch_queue]
    return Runtime(background, http, queues, kube.events, readiness, settings.drain_seconds)


def build_kubernetes(process: Process, transport: Transport) -> Kubernetes:
    """Build the API client, the caches, the informers, the Event recorder, the leader election and the event path
    monitor."""
    settings, watchdog = process.settings, process.watchdog
    limiter = AdaptiveLimiter(settings.kubernetes_requests)
    process.metrics.kubernetes_request_limit.set_function(lambda: limiter.limit)
    api = kubernetes.Api(transport, limiter, process.metrics)
    record_key = RecordKey()
    caches = Caches(
        SecretCache(record_key),
        NamespaceCache(),
        ConsumerIndex(),
        Borrowers(),
        ReleasedCache(),
        WatchedCache(record_key),
    )
    identity = f"{socket.gethostname()}-{os.getpid()}"

    def lease(name: str) -> LeaseClient:
        return LeaseClient(api, settings.lease_namespace, f"{settings.lease_name}-{name}")

    return Kubernetes(
        api,
        caches,
        record_key,
        build_informers(process, api, caches, record_key),
        EventRecorder(api, process.metrics, utc_now),
        LeaderElector(lease("poller"), identity, watchdog.register("leader election")),
        EventPathMonitor(
            lease("event-path"),
            identity,
            settings.heartbeat_silence_seconds if settings.deliveries else 0.0,
            watchdog.register("event path monitor"),
        ),
    )


def build_informers(
    process: Process, api: kubernetes.Api, caches: Caches, record_key: RecordKey
) -> Mapping[str, Informer]:
    """Build the informers. Each watches one kind of object in the whole cluster.

    If only some namespaces are served, each watches one kind in one namespace. Secrets are not listed until the record
    key (``cluster/record_key.py``) is known. Released Secrets, whose values are not read, do not wait for the key.
    """
    settings = process.settings
    served = settings.namespaces
    timeouts = WatchTimeouts(settings.watch_seconds, settings.resync_seconds)
    informers: dict[str, Informer] = {}
    hashed: list[Reflector[Any]] = []  # the reflectors of Secrets, whose hashes depend on the record key

    def list_again() -> None:
        for each in hashed:
            each.list_again()

    key_name = f"{settings.lease_name}-{RECORD_KEY}"
    client = RecordKeyClient(api, settings.lease_namespace, key_name)
    monitor = RecordKeyMonitor(client, record_key, list_again, process.watchdog.register("record key"))
    informers[f"Secret {key_name}"] = monitor

    def watch(
        group_version: str,
        resource: str,
        cache: ObjectCache[Any],
        title: str = "",
        after: asyncio.Event | None = None,
        is_optional: bool = False,
        **options: Any,
    ) -> list[Reflector[Any]]:
        reflectors = []
        for namespace in served or (None,):
            name = (title or resource) if namespace is None else f"{title or resource} in {namespace}"
            list_watch = ListWatch(kubernetes.path(group_version, resource, namespace), namespace, **options)
            ping = process.watchdog.register(f"watch of {name}")
            reflector = Reflector(api, list_watch, cache, timeouts, ping, after, is_optional)
            informers[name] = (
                OptionalInformer(reflector, cache, name, timeouts.watch, namespace, ping) if is_optional else reflector
            )
            reflectors.append(reflector)
        return reflectors

    if served:
        # A Role can grant ``get`` on its own namespace but not ``watch``, so the served namespaces are polled.
        ping = process.watchdog.register("poll of namespaces")
        informers["namespaces"] = NamespacePoller(api, served, caches.namespaces, ping)
    else:
        watch("v1", "namespaces", caches.namespaces, metadata_only=True, page_size=250)
    hashed += watch("v1", "secrets", caches.secrets, after=monitor.synced, labels=BIND_LABEL, page_size=250)
    watch(
        "v1",
        "secrets",
        caches.released,
        title="released secrets",
        labels=released_cache.SELECTOR,
        metadata_only=True,
        page_size=250,
    )
    if settings.rollouts and settings.watch_secrets:
        hashed += watch(
            "v1", "secrets", caches.watched, title="watched secrets", after=monitor.synced, labels=WATCH_LABEL
        )
    for kind in WORKLOAD_KINDS.values() if settings.rollouts else ():
        if kind.is_custom and not settings.argo_rollouts:
            continue
        reloader = ReloaderMode(settings.reloader)
        consumers = ConsumerCache(kind, caches.consumers, reloader=reloader)
        cache: ObjectCache[Any] = consumers
        if kind.has_restart_at:
            cache = RolloutCache(kind, consumers, caches.borrowers, reloader is ReloaderMode.REPLACED)
        watch(kind.group_version, kind.plural, cache, is_optional=kind.is_custom, decoder=workload_decoder(kind))
    return informers


def build_aws(process: Process, kube: Kubernetes) -> Aws:
    """Build the stores and the signing keys."""
    settings = process.settings
    own_region = clients.default_region() or ""
    service_accounts = ServiceAccountClient(kube.api)
    factory = StoreFactory(
        settings, process.pools, service_accounts, process.metrics, clients.own_identity(), own_region
    )
    stores = Stores(factory.make, own_region, factory.identify)
    key_sources: list[KeySource] = []
    if settings.signing_key_secret_id:
        key_sources.append(KeySecret(stores, settings.signing_key_secret_id))
    if settings.signing_key_file:
        key_sources.append(KeyFile(settings.signing_key_file))
    return Aws(stores, SigningKeys(key_sources))


def build_controller(process: Process, kube: Kubernetes, aws: Aws, rendering: Executor, hooks: Hooks) -> Controller:
    """Build the reconciler with its parts, the work queue that feeds it, drift detection and the poller."""
    settings, metrics, caches = process.settings, process.metrics, kube.caches
    legs = LegTimer(metrics, hooks.span(process.span))
    access = AccessPolicy(
        caches.namespaces,
        settings.policy_default,
        settings.tenant_roles,
        clients.regions(settings.regions),
        settings.signing_key_secret_id,
    )
    resolver = ArnResolver(aws.stores, access)
    secrets = SecretClient(kube.api, new_fingerprint(), kube.record_key, utc_now)
    reloader = ReloaderMode(settings.reloader)
    workloads, fights = WorkloadClient(kube.api, reloader, caches.borrowers), RolloutFights()
    caches.consumers.add_mark_handler(fights.observe)
    fight_reporter = FightReporter(workloads, caches.secrets, kube.events, metrics, kube.elector.is_leader)
    fights.add_handler(fight_reporter.on_fight)
    watch_client = WatchedClient(kube.api, caches.watched, kube.record_key)
    records = RecordReader(secrets, watch_client, caches.watched)
    evictor = PodEvictor(workloads, records, kube.events, fights, kube.elector.is_leader)
    rollouts = RolloutPolicy(caches.namespaces, Switch(settings.rollout_default), reloader)
    limits = PaceLimits(
        settings.max_unfinished_per_secret, settings.max_unfinished_per_namespace, settings.max_unfinished_per_cluster
    )
    pacer = RolloutPacer(caches.consumers, caches.namespaces, fights, evictor, limits, kube.elector.is_leader)
    caches.consumers.add_progress_handler(pacer.on_progress)
    caches.consumers.add_unread_handler(pacer.on_unread)
    kube.elector.add_handler(pacer.on_started_leading)
    lookup = SecretLookup(caches.secrets, caches.watched)
    debouncer = RolloutDebouncer(lookup, rollouts)
    pacer.set_debounce(debouncer.quiet_at)
    restraints = Restraints(rollouts, fights, evictor, pacer, debouncer)
    restarter = ConsumerRestarter(caches.consumers, workloads, records, legs, restraints)
    restarter.add_owner_handler(fight_reporter.on_owner)
    filler = SecretFiller(
        SourceReader(aws.stores, access, resolver, legs),
        Renderer(rendering),
        secrets,
        caches.secrets,
        restarter,
        SecretDeleter(aws.stores, secrets, resolver, settings.deletions),
        legs,
    )
    readers = None
    if settings.rollouts and settings.report_readers:
        readers = ReaderReporter(
            ReaderClient(kube.api),
            caches.secrets,
            caches.consumers,
            rollouts,
            kube.events,
            borrowers=caches.borrowers,
        )
    reverted = RevertedRestarts(caches.secrets, pacer, fights, caches.consumers.notify, kube.elector.is_leader)
    caches.consumers.add_progress_handler(reverted.on_progress)
    caches.consumers.add_unread_handler(reverted.on_unread)
    kube.elector.add_handler(reverted.on_started_leading)
    reporter = StatusReporter(secrets, kube.events, metrics, reverted, readers.on_written if readers else None)
    namespaces = NamespaceReader(kube.api, caches.namespaces)
    reconciler = Reconciler(caches.secrets, secrets, filler, restarter, reporter, namespaces, process.span)
    queue = WorkQueue(hooks.reconcile(reconciler.reconcile), settings.concurrency, metrics)
    drift = DriftDetector(caches.secrets, restarter, queue, access, reverted, kube.elector.is_leader)
    poller = Poller(
        Sweeper(aws.stores, caches.secrets, access, settings.poll_mode, settings.poll_interval),
        queue,
        kube.elector.is_leader,
        kube.event_path.healthy,
        metrics,
        notifications=settings.deliveries,
    )
    releases = ReleaseReporter(caches.released, secrets, kube.events, kube.elector.is_leader)
    watch_reporter = WatchReporter(kube.events, metrics)
    watch_reconciler = WatchReconciler(
        caches.watched, watch_client, restarter, watch_reporter, namespaces, process.span
    )
    watch_queue = WorkQueue(watch_reconciler.reconcile, settings.concurrency, metrics)
    watches = WatchDetector(caches.watched, restarter, watch_queue, ChangeBrake(), kube.elector.is_leader)
    watches.add_handler(watch_reporter.on_braked)
    live = LiveReporter(
        lookup,
        restarter,
        workloads,
        kube.events,
        metrics,
        kube.elector.is_leader,
    )
    evictor.add_done_handler(live.on_evicted)
    versions = VersionStates(caches.secrets, restarter, live, access.may_concern) if settings.rollouts else None
    return Controller(
        access, queue, drift, poller, releases, pacer, live, watch_queue, watches, readers, restarter, versions
    )


def build_http(
    process: Process, kube: Kubernetes, aws: Aws, controller: Controller, readiness: Readiness, hooks: Hooks
) -> tuple[Http, Sequence[ReloadingCertificate]]:
    """Build the HTTP servers. Return them with the list of TLS certificates to reload, which has at most one element.

    Without deliveries, no server listens for notifications. A sender then gets no connection, which it cannot confuse
    with a refusal of its message.
    """
    settings, metrics = process.settings, process.metrics
    health = Server(
        health_app(process.watchdog.stuck, readiness.not_ready, metrics),
        settings.host,
        settings.operations_port,
        ConnectionLimiter(settings.max_connections, metrics),
        shutdown_timeout=OPERATIONS_GRACE,
    )
    if not settings.deliveries:
        return Http(health), []
    handler = NotificationHandler(
        kube.caches.secrets,
        controller.queue,
        controller.access,
        kube.event_path.record_heartbeat,
        metrics,
        utc_now,
        controller.versions.recent if controller.versions else tuple,
    )
    webhook = WebhookEndpoint(
        handler=hooks.handler(handler),
        keys=aws.signing_keys.current,
        ready=readiness.is_prepared,
        now=time.time,
        config=WebhookConfig(
            [ed25519(key) for key in settings.signing_public_keys],
            settings.deadline_seconds,
            settings.max_deliveries,
        ),
        metrics=metrics,
        span=process.span,
    )
    certificate = (
        ReloadingCertificate(settings.tls_certificate_file, settings.tls_key_file)
        if settings.tls_certificate_file and settings.tls_key_file
        else None
    )
    limiter = ConnectionLimiter(settings.max_connections, metrics)
    server = Server(webhook.app(), settings.host, settings.port, limiter, GRACE, certificate)
    return Http(health, Notifications(webhook, server)), [certificate] if certificate else []


def build_page(
    process: Process, kube: Kubernetes, aws: Aws, controller: Controller, readiness: Readiness, recorder: Recorder
) -> StatusPage:
    """Build the status page."""
    caches, settings = kube.caches, process.settings
    cluster = Cluster(caches.secrets, caches.consumers, controller.restarter, controller.live, HistoryClient(kube.api))
    parts = HealthParts(
        settings.deliveries,
        kube.event_path,
        controller.poller,
        kube.elector.is_leader,
        aws.stores.credentials_error,
        readiness.not_prepared,
    )
    return build_status_page(settings, recorder, cluster, parts, process.metrics)


def observe(process: Process, kube: Kubernetes, aws: Aws, controller: Controller) -> None:
    """Connect the gauges and the watchdog to the functions that supply their values."""
    metrics, queue = process.metrics, controller.queue
    ProcessCollector(registry=metrics.registry)
    process.watchdog.register_duration("reconcile", queue.longest_running)
    process.watchdog.register_duration("reconcile of a watched Secret", controller.watch_queue.longest_running)
    process.watchdog.register_duration("AWS calls", process.pools.saturated_for)
    metrics.bindings.set_function(lambda: len(kube.caches.secrets))
    metrics.watched_secrets.set_function(lambda: len(kube.caches.watched))
    metrics.failing_bindings.set_function(queue.failing)
    metrics.staleness_seconds.set_function(queue.oldest_unmet)
    metrics.rollouts_halted.set_function(controller.pacer.halted)
    for reason in WaitReason:
        metrics.rollouts_waiting.labels(reason).set_function(partial(controller.pacer.waiting, reason))
    metrics.rollouts_stuck.set_function(controller.live.stuck)
    metrics.poller_leader.set_function(kube.elector.is_leader)
    if process.settings.deliveries:
        metrics.event_path_up.set_function(kube.event_path.healthy)
        public_keys = len(process.settings.signing_public_keys)
        metrics.signing_keys.set_function(lambda: len(aws.signing_keys.current()) + public_keys)
    else:  # a 0 would fire an alert, and a 1 would not be true
        metrics.registry.unregister(metrics.event_path_up)
        metrics.registry.unregister(metrics.signing_keys)
    for priority in PRIORITIES:
        metrics.queue_depth.labels(priority).set_function(partial(queue.depth, priority))
