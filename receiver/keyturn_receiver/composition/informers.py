"""Builder of the informers. Informers fill the caches."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keyturn_receiver.cluster import api as kubernetes
from keyturn_receiver.cluster import released_cache
from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespacePoller
from keyturn_receiver.cluster.optional_informer import OptionalInformer
from keyturn_receiver.cluster.record_key import RecordKey, RecordKeyClient, RecordKeyMonitor
from keyturn_receiver.cluster.reflector import ListWatch, ObjectCache, Reflector, WatchTimeouts
from keyturn_receiver.cluster.released_cache import ReleasedCache
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.template_borrowers import Borrowers, RolloutCache
from keyturn_receiver.cluster.wanted_fields import workload_decoder
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.composition.process import Process
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.vocabulary import BIND_LABEL, WATCH_LABEL
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.runtime import Informer

RECORD_KEY = "record-key"  # the end of the name of the Secret that holds the record key


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches that the informers fill from the cluster."""

    secrets: SecretCache
    namespaces: NamespaceCache
    consumers: ConsumerIndex
    borrowers: Borrowers
    released: ReleasedCache
    watched: WatchedCache


def build_informers(
    process: Process, api: kubernetes.Api, caches: Caches, record_key: RecordKey
) -> Mapping[str, Informer]:
    """Build the informers. Most of them watch the objects of one kind, with a given label if they watch Secrets, in the
    whole cluster.

    If only some namespaces are served, such an informer watches only one of these namespaces. The record key
    (``cluster/record_key.py``) is read without a watch, and so are the served namespaces. Bound and watched Secrets are
    not listed before the record key is known, because their hashes depend on it. Released Secrets do not wait for the
    key, because their values are not read.
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
        # A Role can grant ``get`` on its own namespace, but not ``watch``. So the served namespaces are polled.
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
