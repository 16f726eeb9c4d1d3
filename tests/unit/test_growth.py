"""Memory: what the receiver keeps does not grow with the number of rotations.

The whole way of a rotation runs in virtual time, from a verified delivery to the restart of a consumer and its Event,
while the poller sweeps. Only the API client and the AWS client are fakes.
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn_contract.message import EventType, Notification, NotificationData, Outcome, Result
from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.event_recorder import DEDUP_WINDOW, EventRecorder
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceReader
from keyturn_receiver.cluster.secret_cache import MAX_SMALL, SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.policy import ALLOW_SECRETS, Default
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.poller.poller import Poller
from keyturn_receiver.poller.sweep import Sweeper
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter, Restraints
from keyturn_receiver.reconcile.deletion import SecretDeleter
from keyturn_receiver.reconcile.drift import DriftDetector
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.reconciler import Reconciler
from keyturn_receiver.reconcile.renderer import Renderer
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.reconcile.secret_filler import SecretFiller
from keyturn_receiver.reconcile.source_reader import SourceReader
from keyturn_receiver.reconcile.status_reporter import StatusReporter
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.settings import PollMode
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import Identity, Store, StoreKey, Stores
from keyturn_receiver.telemetry.legs import LegTimer
from keyturn_receiver.telemetry.metrics import Metrics
from keyturn_receiver.web.notification_handler import NotificationHandler
from keyturn_receiver.web.replay_cache import TTL, ReplayCache
from support.bindings import ARN, KEYED, bound_object
from support.fake_objects import copied, patch

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
NAMES = ("a", "b", "c")
DEPLOYMENT = WORKLOAD_KINDS["Deployment"]
INTERVAL = 30.0  # seconds between two sweeps
# Each rotation takes one second of virtual time here. After this number of rotations, the caches hold as much as they
# ever will.
WARM = max(2 * MAX_SMALL, int(TTL), int(DEDUP_WINDOW)) + 100
COUNTED = 400
ACCOUNT = {"keyturn.dev/service-account": "app"}


def deployment(secret: str) -> dict[str, Any]:
    container = {"name": "app", "envFrom": [{"secretRef": {"name": secret}}]}
    return {
        "metadata": {"namespace": "team", "name": f"web-{secret}", "resourceVersion": "1", "annotations": {}},
        "spec": {"template": {"metadata": {"annotations": {}}, "spec": {"containers": [container]}}},
    }


class Cluster:
    """An API server with a Secret and a Deployment for each name, behind the port of the API client. Its watches show
    each write at once."""

    def __init__(self, secrets: SecretCache, consumers: ConsumerCache) -> None:
        self._caches: dict[str, Any] = {"secrets": secrets, "deployments": consumers}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        for name in NAMES:
            account = ACCOUNT if name == "c" else {}
            self.objects["secrets", name] = {**bound_object(name, **account), "type": "Opaque", "data": {}}
            self.objects["deployments", f"web-{name}"] = deployment(name)
        self.objects["namespaces", "team"] = {
            "metadata": {"name": "team", "uid": "1", "resourceVersion": "1", "annotations": {ALLOW_SECRETS: "prod/*"}}
        }
        self.marks = self.events = 0
        for where in self.objects:
            self._show(where)

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        content_type: str = "",
        accept: str = "",
        decoder: Any = None,
    ) -> dict[str, Any]:
        await asyncio.sleep(0)
        if method == "POST":
            self.events += 1
            return {}
        resource, name = path.split("/")[-2:]
        obj = self.objects[resource, name]
        if method == "GET":
            return copied(obj)
        assert body is not None
        patch(obj, body)
        self.marks += "spec" in body
        self._show((resource, name))
        return copied(obj)

    def _show(self, where: tuple[str, str]) -> None:
        if where[0] in self._caches:
            cache = self._caches[where[0]]
            cache.update(cache.transform(copied(self.objects[where])))


class Aws:
    """Secrets Manager with only the current version of each secret, behind the port of the receiver's client."""

    credentials_error = None

    def __init__(self) -> None:
        self.versions = dict.fromkeys(NAMES, 0)

    def may_batch(self, secret_id: str) -> bool:
        return True

    async def value(self, source: Source, namespace: str = "") -> SecretVersion:
        name = source.secret_id.removeprefix("prod/")
        version = self.versions[name]
        return SecretVersion(ARN.format(name), f"prod/{name}", f"v{version}", f'{{"password": "{version}"}}')

    async def values(self, secret_ids: Sequence[str], namespace: str = "") -> dict[str, SecretVersion]:
        return {each: await self.value(Source(each)) for each in secret_ids}

    async def describe(self, secret_id: str, background: bool = False, namespace: str = "") -> SecretMetadata:
        name = secret_id.removeprefix("prod/")
        stages = {f"v{self.versions[name]}": frozenset({"AWSCURRENT"})}
        return SecretMetadata(ARN.format(name), f"prod/{name}", stages, datetime(2026, 11, 28, tzinfo=UTC))

    async def list_secrets(self) -> AsyncIterator[Sequence[SecretMetadata]]:
        yield [await self.describe(f"prod/{name}") for name in NAMES]


class Receiver:
    """The parts of the receiver that a rotation passes, put together as the composition root does it."""

    def __init__(self) -> None:
        self.secrets, self.index, namespaces = SecretCache(KEYED), ConsumerIndex(), NamespaceCache()
        self.cluster, self.aws, metrics = Cluster(self.secrets, ConsumerCache(DEPLOYMENT, self.index)), Aws(), Metrics()
        api: Any = self.cluster
        namespaces.update(namespaces.transform(self.cluster.objects["namespaces", "team"]))
        legs = LegTimer(metrics)
        access = AccessPolicy(namespaces, Default.DENY, True, Regions("aws", frozenset({"eu-west-1"})))
        stores = Stores(self._make, "eu-west-1", self._identify)
        resolver = ArnResolver(stores, access, time.monotonic)
        secret_client = SecretClient(api, lambda value: value[:16], KEYED, lambda: datetime.now(UTC))
        rollouts = RolloutPolicy(namespaces, Switch.ENABLED)
        workloads, fights = WorkloadClient(api), RolloutFights()
        self.events = EventRecorder(api, metrics, lambda: datetime.now(UTC), time.monotonic)
        evictor = PodEvictor(workloads, secret_client, self.events, fights, lambda: True)
        pacer = RolloutPacer(self.index, namespaces, fights, evictor, PaceLimits(), lambda: True)
        self.index.add_progress_handler(pacer.on_progress)
        self.index.add_unread_handler(pacer.on_unread)
        restarter = ConsumerRestarter(
            self.index, workloads, secret_client, legs, Restraints(rollouts, fights, evictor, pacer)
        )
        filler = SecretFiller(
            SourceReader(stores, access, resolver, legs),
            Renderer(ThreadPoolExecutor(1)),
            secret_client,
            self.secrets,
            restarter,
            SecretDeleter(stores, secret_client, resolver, allowed=False),
            legs,
        )
        reverted = RevertedRestarts(self.secrets, pacer, fights, self.index.notify, lambda: True)
        self.index.add_progress_handler(reverted.on_progress)
        self.index.add_unread_handler(reverted.on_unread)
        reporter = StatusReporter(secret_client, self.events, metrics, reverted)
        reconciler = Reconciler(
            self.secrets, secret_client, filler, restarter, reporter, NamespaceReader(api, namespaces)
        )
        self.queue = WorkQueue(reconciler.reconcile, 8, metrics, time.monotonic)
        drift = DriftDetector(self.secrets, restarter, self.queue, access, reverted, lambda: True)
        self.secrets.add_handler(drift.check)
        self.index.add_handler(drift.check)
        sweeper = Sweeper(stores, self.secrets, access, PollMode.LIST, INTERVAL)
        self.poller = Poller(sweeper, self.queue, lambda: True, lambda: True, metrics, time.monotonic)
        self.handler = NotificationHandler(
            self.secrets, self.queue, access, lambda sent: None, metrics, lambda: datetime.now(UTC)
        )
        self.replays = ReplayCache(now=time.monotonic)
        drift.start()

    async def _make(self, key: StoreKey, identity: Identity) -> Store:
        aws: Any = self.aws
        return Store.of(key, aws, identity=identity)

    async def _identify(self, key: StoreKey) -> Identity:
        return Identity("uid", "role")

    async def rotate(self, number: int) -> None:
        """Rotate one secret, and deliver the notification of three rotations in four. The poller finds the others."""
        name = NAMES[number % len(NAMES)]
        self.aws.versions[name] = number
        if number % 4:
            data = NotificationData(
                "SecretLabelUpdated", "123456789012", "eu-west-1", f"prod/{name}", f"v{number}", "AWSCURRENT"
            )
            sent = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            notification = Notification(
                f"event-{number}", "aws.secretsmanager", EventType.CHANGED, ARN.format(name), sent, data
            )

            async def handle() -> Sequence[Result]:
                return [await self.handler.handle(notification, lambda: time.monotonic() + 8)]

            (result,) = await self.replays.get(f"digest {number}".encode(), handle)
            # A sweep may have found the change at the same moment.
            assert result.outcome in (Outcome.APPLIED, Outcome.UNCHANGED), result
        await asyncio.sleep(1)


async def kept(receiver: Receiver) -> int:
    """Wait until the running work has ended. Return the number of memory blocks that are in use."""
    await asyncio.sleep(20)
    gc.collect()
    return sys.getallocatedblocks()


async def test_memory_does_not_grow_with_the_number_of_rotations() -> None:
    receiver = Receiver()
    running = [asyncio.create_task(each) for each in (receiver.events.run(), receiver.poller.run())]
    await asyncio.sleep(5)
    for number in range(1, WARM):
        await receiver.rotate(number)
    before, marks, events = await kept(receiver), receiver.cluster.marks, receiver.cluster.events
    for number in range(WARM, WARM + COUNTED):
        await receiver.rotate(number)
    grown = await kept(receiver) - before
    assert receiver.cluster.marks - marks >= COUNTED / 2
    assert receiver.cluster.events - events >= COUNTED / 2
    assert grown / COUNTED < 0.5, f"{grown} more objects after {COUNTED} rotations"
    for task in running:
        task.cancel()
