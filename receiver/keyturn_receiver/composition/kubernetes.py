"""The Kubernetes layer: the API client, the parts that watch and write with it, and the parts that use a Lease."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.clock import utc_now
from keyturn_receiver.cluster import api as kubernetes
from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.event_path import EventPathMonitor
from keyturn_receiver.cluster.event_recorder import EventRecorder
from keyturn_receiver.cluster.fingerprint import new_fingerprint
from keyturn_receiver.cluster.lease import LeaderElector, LeaseClient
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceReader
from keyturn_receiver.cluster.record_key import RecordKey
from keyturn_receiver.cluster.released_cache import ReleasedCache
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.template_borrowers import Borrowers
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.composition.informers import Caches, build_informers
from keyturn_receiver.composition.process import Process
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
from keyturn_receiver.runtime import Informer


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The API client, the caches with their informers, the record key, the Event recorder, and two parts that use a
    Lease: the leader election and the event path monitor."""

    api: kubernetes.Api
    caches: Caches
    record_key: RecordKey
    informers: Mapping[str, Informer]
    events: EventRecorder
    elector: LeaderElector
    event_path: EventPathMonitor


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients that read and write single objects."""

    secrets: SecretClient
    watched: WatchedClient
    workloads: WorkloadClient
    namespaces: NamespaceReader


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


def build_clients(process: Process, kube: Kubernetes) -> Clients:
    """Build the clients of Secrets, watched Secrets, workloads and namespaces."""
    caches = kube.caches
    return Clients(
        SecretClient(kube.api, new_fingerprint(), kube.record_key, utc_now),
        WatchedClient(kube.api, caches.watched, kube.record_key),
        WorkloadClient(kube.api, ReloaderMode(process.settings.reloader), caches.borrowers),
        NamespaceReader(kube.api, caches.namespaces),
    )
