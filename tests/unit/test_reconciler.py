"""A whole reconcile, from the cache to the report. Only the two ports are fakes: the API client and the stores.

The fake API server shows its writes to the caches as the watches would do, at a time that the test chooses.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.history_memo import MAX_HISTORIES
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceReader
from keyturn_receiver.cluster.record_reader import RecordReader
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import DATA, SECRET_ID, BindingSpec, Source, Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.history import Change, read_history
from keyturn_receiver.core.policy import Default
from keyturn_receiver.core.regions import Regions
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import HALTED
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.core.unsettled import without_suffix
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    Contended,
    InvalidValue,
    KeyturnError,
    SourceRefused,
    SourceUnavailable,
    Unrecorded,
    first_retryable,
)
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.reconcile.consumer_reporter import MAX_CONSUMER_EVENTS
from keyturn_receiver.reconcile.consumer_restarter import MARK_SECONDS, ConsumerRestarter, Restraints, RolloutResult
from keyturn_receiver.reconcile.deletion import SecretDeleter
from keyturn_receiver.reconcile.drift import DriftDetector
from keyturn_receiver.reconcile.missing_key_reporter import MissingKeyReporter
from keyturn_receiver.reconcile.notices import Notices
from keyturn_receiver.reconcile.pending_restarts import PendingRestarts
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.reconciler import CONFLICT_RETRIES, Reconciler
from keyturn_receiver.reconcile.renderer import Renderer
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.rollout_fights import Fight, RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.reconcile.secret_filler import FillResult, SecretFiller
from keyturn_receiver.reconcile.source_reader import SourceReader
from keyturn_receiver.reconcile.status_reporter import FAILURE_BURST, StatusReporter
from keyturn_receiver.reconcile.work_queue import SETTLE_SECONDS, WorkQueue
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import StoreKey
from keyturn_receiver.telemetry.legs import LegTimer
from keyturn_receiver.telemetry.metrics import Metrics
from support.bindings import ARN, KEYED, bound_object
from support.fake_objects import patch

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
DB = Target("team", "db")
DEPLOYMENT = WORKLOAD_KINDS["Deployment"]
WRITTEN = datetime(2026, 11, 28, tzinfo=UTC)  # the time of all writes


def deployment() -> dict[str, Any]:
    container = {"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}
    return {
        "metadata": {"namespace": "team", "name": "web", "uid": "web", "resourceVersion": "1", "annotations": {}},
        "spec": {"template": {"metadata": {"annotations": {}}, "spec": {"containers": [container]}}},
    }


class FakeApi:
    """One Secret and one Deployment behind the port of the API client. ``calls`` has the verb and resource of each
    request.

    ``refuse`` returns the error with which a call fails, or None. While ``watches_lag`` is true, the caches do not see
    writes. While ``counts_generations`` is true, each write changes the generation of an object.
    """

    def __init__(self, secrets: SecretCache, consumers: ConsumerCache) -> None:
        self._secrets = secrets
        self._consumers = consumers
        self.secret: dict[str, Any] = {**bound_object("db"), "type": "Opaque", "data": {}}
        self.workload = deployment()
        self.namespace: dict[str, Any] = {"metadata": {"name": "team", "uid": "uid", "resourceVersion": "1"}}
        self.pods: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], KeyturnError | None] = lambda method, resource: None
        self.slow_pods = 0.0  # the seconds that a list of pods takes
        self.watches_lag = self._hidden = self.counts_generations = False
        self.show()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        content_type: str = "",
        accept: str = "",
        max_bytes: float = 0,
        decoder: Any = None,
    ) -> dict[str, Any]:
        resource = "pods" if path.endswith("/pods") else path.split("/")[-2]
        self.calls.append((method, resource))
        await asyncio.sleep(0)
        if error := self.refuse(method, resource):
            raise error
        if resource == "namespaces":
            return self.namespace
        if resource == "pods":
            await asyncio.sleep(self.slow_pods)
            return {"metadata": {}, "items": [json.dumps(each) for each in self.pods]}
        obj = self.secret if resource == "secrets" else self.workload
        if method == "GET":
            return obj
        assert body is not None
        patch(obj, body, self.written_at(0))
        if self.counts_generations:  # a Deployment has a new generation after a change of annotations, too
            obj["metadata"]["generation"] = obj["metadata"].get("generation", 0) + 1
        if not self.watches_lag:
            self.show()
        return obj

    def written_at(self, seconds: int) -> str:
        """Return the time of all writes of the Secret, with ``seconds`` added."""
        return (WRITTEN + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def hide_workload(self) -> None:
        """Keep the workload from the cache, as if its watch were blind."""
        self._consumers.delete(self.workload)
        self._hidden = True

    def show_workload(self, created: int) -> None:
        """Show the workload, which was created ``created`` seconds after the Secret's writes, to the cache."""
        self.workload["metadata"]["creationTimestamp"] = self.written_at(created)
        self._hidden = False
        self.show()

    def make_pods(self, age: int | None) -> None:
        """Make one pod of the Deployment, created ``age`` seconds before the Secret's writes, or no pod if
        ``age`` is None."""
        owner = {"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": "web-1"}
        spec = self.workload["spec"]["template"]["spec"]
        labels = {"pod-template-hash": "1"}
        metadata = {"ownerReferences": [owner], "labels": labels, "creationTimestamp": self.written_at(-(age or 0))}
        self.pods = [] if age is None else [{"metadata": metadata, "spec": spec}]

    def show(self) -> None:
        """Show both objects to the caches, as the watches would do."""
        self._secrets.update(self._secrets.transform(self.secret))
        if not self._hidden:
            self._consumers.update(self._consumers.transform(self.workload))


class FakeStores:
    """The AWS secret prod/db, behind the port of the stores."""

    def __init__(self) -> None:
        self.version = 1
        self.error: KeyturnError | None = None
        self.reads = 0
        self.value = '{"password": "x"}'

    def key(self, *_: str) -> StoreKey:
        return StoreKey("", "eu-west-1")

    async def read(
        self, key: StoreKey, source: Source, since: float, background: bool = False, namespace: str = ""
    ) -> SecretVersion:
        self.reads += 1
        if self.error:
            raise self.error
        return SecretVersion(ARN.format("db"), "prod/db", f"v{self.version}", self.value)

    async def describe(self, key: StoreKey, secret_id: str, since: float, namespace: str = "") -> SecretMetadata:
        return SecretMetadata(ARN.format("db"), "prod/db", {f"v{self.version}": frozenset({"AWSCURRENT"})})


class Events:
    """The reasons of the recorded Events, behind the port of the event recorder."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.about_workloads: list[tuple[str, str, str]] = []

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str = "Secret") -> None:
        if kind != "Secret":
            self.about_workloads.append((f"{kind} {target}", reason, message))
            return
        self.reasons.append(reason)


class CountingRestarter(ConsumerRestarter):
    """A consumer restarter that counts how often a check asks for the consumers of a Secret."""

    checks = 0

    def restartable(self, target: Target, spec: BindingSpec) -> Sequence[Consumer]:
        self.checks += 1
        return super().restartable(target, spec)


class Engine:
    """The receiver's engine, put together as the composition root does it, except for the two ports. This replica
    leads unless ``leads`` is set to False. ``wall`` is the pacer's clock."""

    def __init__(self, limits: PaceLimits | None = None, wall: Callable[[], float] = time.time) -> None:
        self.leads = True
        self.cache, namespaces, index = SecretCache(KEYED), NamespaceCache(), ConsumerIndex()
        self.consumers = ConsumerCache(DEPLOYMENT, index, WRITTEN.timestamp)
        self.api = FakeApi(self.cache, self.consumers)
        self.stores, self.events, self.metrics = FakeStores(), Events(), Metrics()
        namespaces.add_end_handler(self.cache.forget_former)
        api: Any = self.api
        stores: Any = self.stores
        events: Any = self.events
        legs = LegTimer(self.metrics)
        access = AccessPolicy(namespaces, Default.ALLOW, False, Regions("aws", frozenset({"eu-west-1"})))
        resolver = ArnResolver(stores, access)
        secrets = SecretClient(api, lambda value: value[:16], KEYED, lambda: WRITTEN)
        self.secrets = secrets
        fights = RolloutFights(time.monotonic)
        index.add_mark_handler(fights.observe)
        self.fights: list[Fight] = []
        fights.add_handler(self.fights.append)
        policy = RolloutPolicy(namespaces, Switch.ENABLED)
        workloads = WorkloadClient(api)
        watched = WatchedCache(KEYED)
        records = RecordReader(secrets, WatchedClient(api, watched, KEYED), watched, self.cache)
        evictor = PodEvictor(workloads, records, events, fights, lambda: self.leads)
        self.pacer = pacer = RolloutPacer(
            index, namespaces, fights, evictor, limits or PaceLimits(), lambda: self.leads, wall
        )
        index.add_progress_handler(pacer.on_progress)
        index.add_unread_handler(pacer.on_unread)
        self.restarter = restarter = CountingRestarter(
            index, workloads, records, legs, Restraints(policy, fights, evictor, pacer)
        )
        restarter._pending = PendingRestarts(lambda: time.monotonic())  # the virtual time of this file
        filler = SecretFiller(
            SourceReader(stores, access, resolver, legs),
            Renderer(ThreadPoolExecutor(1)),
            secrets,
            self.cache,
            restarter,
            SecretDeleter(stores, secrets, resolver, allowed=False),
            legs,
        )
        reverted = RevertedRestarts(self.cache, pacer, fights, index.notify, lambda: self.leads)
        index.add_progress_handler(reverted.on_progress)
        index.add_unread_handler(reverted.on_unread)
        self.reporter = reporter = StatusReporter(secrets, events, self.metrics, reverted)
        reader = NamespaceReader(api, namespaces)
        self.reconciler = Reconciler(self.cache, secrets, filler, restarter, reporter, reader)
        self.requests: list[Request] = []
        self.queue = WorkQueue(self._reconcile, 4, self.metrics, now=time.monotonic)
        self.drift = DriftDetector(self.cache, restarter, self.queue, access, reverted, lambda: self.leads)
        self.notices = Notices(events, lambda: True)
        missing_keys = MissingKeyReporter(index, self.cache, self.notices)
        self.drift.add_handler(missing_keys.check)
        self.cache.add_handler(missing_keys.on_secret)
        index.add_unread_handler(self.notices.on_no_missing_keys)
        self.cache.add_handler(self.drift.check)
        index.add_handler(self.drift.check)

    async def _reconcile(self, target: Target, request: Request) -> ReconcileResult:
        self.requests.append(request)
        return await self.reconciler.reconcile(target, request)

    def reasons_of_waits(self) -> list[WaitReason]:
        bound = self.cache.get(DB)
        assert bound
        consumers = self.restarter.restartable(DB, bound.spec)
        return [wait.reason for _, wait in self.pacer.turn(DB, bound.spec, consumers, bound.record).waits]

    async def notify(self) -> ReconcileResult:
        return await self.queue.submit(DB, Request.now(Cause.NOTIFICATION, {f"v{self.stores.version}"}))

    async def settle(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS * 1.2)

    async def start(self) -> None:
        """Fill the Secret, and give its consumer a baseline."""
        self.drift.start()
        await asyncio.sleep(0.05)
        await self.settle()
        assert self.cache.get(DB).record.was_written
        self.forget()

    def forget(self) -> None:
        self.api.calls.clear()
        self.requests.clear()
        self.events.reasons.clear()
        self.events.about_workloads.clear()
        self.stores.reads = 0


ROTATION = [("PATCH", "secrets"), ("PATCH", "deployments")]


@pytest.mark.parametrize("watches_lag", [False, True], ids=["watches at once", "watches after the run"])
async def test_rotation_with_one_consumer_costs_one_read_one_apply_one_mark(watches_lag: bool) -> None:
    engine = Engine()
    await engine.start()
    engine.api.watches_lag = watches_lag
    for _ in range(3):
        engine.forget()
        engine.stores.version += 1
        engine.stores.value = f'{{"password": "{engine.stores.version}"}}'
        result = await engine.notify()
        assert [ref.name for ref in result.restarted] == ["web"]
        engine.api.show()  # the watches now report the receiver's own writes
        await engine.settle()
        assert (engine.api.calls, engine.stores.reads) == (ROTATION, 1)
        assert [request.causes for request in engine.requests] == [{Cause.NOTIFICATION}]


@pytest.mark.parametrize("restarts", [True, False])
async def test_next_change_of_the_secret_ends_a_halt_and_says_so(restarts: bool) -> None:
    """A replica whose restarts are refused does not know whether the halt goes on."""
    engine = Engine()
    await engine.start()
    if not restarts:
        engine.api.refuse = lambda method, resource: ClusterRefused("no") if resource == "deployments" else None
    status = f"{HALTED}: the restart of Deployment other has failed"
    engine.api.secret["metadata"]["annotations"]["keyturn.dev/status"] = status
    engine.api.secret["metadata"]["labels"]["keyturn.dev/state"] = HALTED
    engine.api.secret["metadata"]["resourceVersion"] += "0"
    engine.api.watches_lag = True  # otherwise the check for drift would find that nobody halts the others
    engine.api.show()
    assert engine.cache.get(DB).record.halt
    engine.forget()
    engine.stores.version, engine.stores.value = 2, '{"password": "mended"}'
    await engine.notify()
    assert ("RolloutResumed" in engine.events.reasons) is restarts


def further_consumer(number: int, **annotations: str) -> dict[str, Any]:
    """Return a Deployment that reads the Secret and may not be restarted."""
    workload = deployment()
    disabled = {"keyturn.dev/rollout": "disabled"}
    workload["metadata"] |= {"name": f"more-{number}", "annotations": {**disabled, **annotations}}
    return workload


async def test_secret_with_many_consumers_is_checked_at_a_bounded_rate() -> None:
    engine = Engine()
    for number in range(400):
        engine.consumers.update(engine.consumers.transform(further_consumer(number)))
    engine.drift.start()
    await asyncio.sleep(5)
    assert engine.cache.get(DB).record.was_written
    engine.restarter.checks = 0
    for number in range(1000):  # edits that matter for a restart, for ten seconds
        edited = further_consumer(7, **{"revision.keyturn.dev/db": str(number)})
        engine.consumers.update(engine.consumers.transform(edited))
        await asyncio.sleep(0.01)
    assert 10 <= engine.restarter.checks <= 30
    await asyncio.sleep(2)
    checks = engine.restarter.checks
    await asyncio.sleep(5)
    assert engine.restarter.checks == checks


async def test_restart_and_refusal_are_told_on_the_workload_too() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    about, reason, message = engine.events.about_workloads.pop()
    assert (about, reason) == ("Deployment team/web", "Restarted")
    assert message == "Secret db: wrote 1 key from version v2; restarting Deployment web"
    assert engine.events.about_workloads == []

    engine.stores.version, engine.stores.value = 3, '{"password": '
    for _ in range(3):
        await engine.notify()
    ((about, reason, message),) = engine.events.about_workloads
    assert (about, reason) == ("Deployment team/web", "InvalidValue")
    assert message.startswith("Secret db: AWS secret prod/db: ")


async def test_refused_restart_is_told_on_the_workload_and_made_good_with_its_version() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    engine.api.refuse = lambda method, resource: ClusterRefused("locked") if resource == "deployments" else None
    assert isinstance((await engine.notify()).error, ClusterRefused)
    told = ("Deployment team/web", "ClusterRefused", "Secret db: no restart: locked")
    assert engine.events.about_workloads == [told]

    engine.api.refuse = lambda method, resource: None
    engine.events.about_workloads.clear()
    await engine.reconciler.reconcile(DB, Request.now(Cause.CONSUMER))
    restarted = ("Deployment team/web", "Restarted", "Secret db: version v2; restarting Deployment web")
    assert engine.events.about_workloads == [restarted]


def status_of_secret(engine: Engine) -> str:
    return str(engine.api.secret["metadata"]["annotations"]["keyturn.dev/status"])


async def test_replica_that_may_restart_nobody_leaves_a_refused_restart_in_the_status() -> None:
    """Otherwise two replicas would write the status in turns: the leader's attempt is refused, and the other replica
    attempts nothing."""
    engine = Engine(PaceLimits(per_cluster=10))  # so that only the leader restarts
    counts = dict.fromkeys(
        ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "observedGeneration"), 1
    )
    engine.api.workload["metadata"]["generation"], engine.api.workload["status"] = 1, counts
    engine.api.show()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    engine.api.refuse = lambda method, resource: ClusterRefused("locked") if resource == "deployments" else None
    await engine.notify()
    assert status_of_secret(engine) == "ClusterRefused: locked"

    engine.leads = False
    engine.forget()
    await engine.reconciler.reconcile(DB, Request.now(Cause.DRIFT))
    assert status_of_secret(engine) == "ClusterRefused: locked"
    assert {method for method, _ in engine.api.calls} == {"GET"}

    engine.leads = True
    engine.api.refuse = lambda method, resource: None
    await engine.reconciler.reconcile(DB, Request.now(Cause.DRIFT))
    assert status_of_secret(engine) == "ok"


@pytest.mark.parametrize("verbs", [{"PATCH"}, {"GET", "PATCH"}], ids=["writes", "reads and writes"])
async def test_refusal_that_the_status_cannot_show_is_tried_again(verbs: Set[str]) -> None:
    """The status still says ok, so neither the poller nor another replica would look at the Secret soon."""
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    engine.cache.drop_values(DB)
    engine.requests.clear()
    engine.api.refuse = lambda method, resource: ClusterRefused("no") if method in verbs else None
    result = await engine.notify()
    assert isinstance(result.error, Unrecorded)
    assert str(result.error) == "no; no status says so: trying again"
    assert result.error.reason == "ClusterRefused"
    assert status_of_secret(engine) == "ok"
    await asyncio.sleep(3600)
    assert engine.queue.oldest_unmet() == 0  # no retry can help until somebody ends the cause
    assert 4 <= len(engine.requests) <= 12
    assert {cause for request in engine.requests[1:] for cause in request.causes} == {Cause.DRIFT}
    engine.api.refuse = lambda method, resource: None
    await asyncio.sleep(900)
    assert engine.cache.get(DB).record.version_ids == {f"{ARN.format('db')}#AWSCURRENT": "v2"}


async def test_halt_does_not_replace_an_error_in_the_status() -> None:
    """The poller asks AWS about each Secret with an error. A status about rollouts would hide the error from it."""
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.error = 2, SourceRefused("the role may not read it")
    await engine.notify()
    told = "SourceRefused: the role may not read it"
    assert status_of_secret(engine) == told
    read = await engine.secrets.read(DB)
    live = read.live
    (web,) = engine.restarter.consumers(DB)
    turn = Turn(halted_by=web, halt=f"{HALTED}: the restart of Deployment web has failed")
    engine.forget()
    fill, request = FillResult(live.record, (web,)), Request.now(Cause.CONSUMER)
    result = await engine.reporter.report(live, read.spec, request, fill, RolloutResult(turn=turn), filled=False)
    assert (result.error, engine.api.calls, engine.events.reasons) == (None, [], [])
    assert status_of_secret(engine) == told


def history_of(engine: Engine) -> Sequence[Change]:
    return read_history(engine.api.secret["metadata"]["annotations"].get("keyturn.dev/history"))


async def test_each_change_of_a_value_is_added_to_the_history_in_the_same_write() -> None:
    engine = Engine()
    await engine.start()
    (first,) = history_of(engine)
    assert first == Change("2026-11-28T00:00:00.000Z", "v1", cause="new", keys=1, due=1)
    for version in (2, 3):
        engine.stores.version, engine.stores.value = version, f'{{"password": "{version}"}}'
        moved_at = int(WRITTEN.timestamp()) - version
        await engine.queue.submit(
            DB, Request.now(Cause.NOTIFICATION, {f"v{version}"}, event_id=f"event-{version}", moved_at=moved_at)
        )
    assert history_of(engine) == (
        Change("2026-11-28T00:00:00.000Z", "v3", "v2", "2026-11-27T23:59:57Z", "notification", "event-3", 1, 1),
        Change("2026-11-28T00:00:00.000Z", "v2", "v1", "2026-11-27T23:59:58Z", "notification", "event-2", 1, 1),
        first,
    )


async def test_write_that_changes_no_value_keeps_the_history() -> None:
    engine = Engine()
    await engine.start()
    before = history_of(engine)
    engine.stores.version = 2  # with the same value
    engine.forget()
    assert (await engine.notify()).filled
    assert engine.api.calls.count(("PATCH", "secrets")) == 1
    assert history_of(engine) == before
    engine.stores.version, engine.stores.value = 3, '{"password": "y"}'
    await engine.notify()
    assert [(change.version, change.was) for change in history_of(engine)] == [("v3", "v2"), ("v1", "")]


async def test_history_that_a_replica_does_not_remember_is_read_before_the_write() -> None:
    engine = Engine()
    await engine.start()
    for number in range(MAX_HISTORIES):  # other Secrets of the namespace push this Secret's history out of the memory
        other = replace(engine.cache.live(engine.cache.get(DB)), uid=f"other-{number}")
        engine.secrets.histories.keep(other, "1", "")
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    assert engine.api.calls == [("GET", "secrets"), *ROTATION]
    assert [change.version for change in history_of(engine)] == ["v2", "v1"]


async def test_history_that_somebody_edits_decides_nothing_and_begins_again() -> None:
    engine = Engine()
    await engine.start()
    metadata = engine.api.secret["metadata"]
    metadata["annotations"] = {**metadata["annotations"], "keyturn.dev/history": "x" * 100_000}
    metadata["resourceVersion"] = "70"
    engine.api.show()
    await engine.settle()
    assert engine.api.calls == []
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    assert [change.version for change in history_of(engine)] == ["v2"]


async def test_state_label_is_written_with_the_status_and_never_alone() -> None:
    engine = Engine()
    await engine.start()
    assert engine.api.secret["metadata"]["labels"]["keyturn.dev/state"] == "ok"
    engine.stores.version, engine.stores.value = 2, '{"password": '
    await engine.notify()
    assert engine.api.secret["metadata"]["labels"]["keyturn.dev/state"] == "InvalidValue"
    assert engine.api.calls.count(("PATCH", "secrets")) == 1
    engine.stores.value = '{"password": "y"}'
    await engine.reconciler.reconcile(DB, Request.now(Cause.POLL))
    assert engine.api.secret["metadata"]["labels"]["keyturn.dev/state"] == "ok"
    assert engine.api.calls.count(("PATCH", "secrets")) == 2


async def test_state_label_that_somebody_removes_is_written_again_without_a_restart() -> None:
    engine = Engine()
    await engine.start()
    del engine.api.secret["metadata"]["labels"]["keyturn.dev/state"]
    engine.api.secret["metadata"]["resourceVersion"] = "70"
    engine.api.show()
    await engine.settle()
    assert engine.api.secret["metadata"]["labels"]["keyturn.dev/state"] == "ok"
    assert engine.api.calls.count(("PATCH", "secrets")) == 1
    assert ("PATCH", "deployments") not in engine.api.calls


async def test_request_to_reconcile_is_served_once_and_restarts_nobody() -> None:
    engine = Engine()
    await engine.start()
    for value in ("now", "again"):
        engine.forget()
        metadata = engine.api.secret["metadata"]
        metadata["annotations"] = {**metadata["annotations"], "keyturn.dev/reconcile": value}
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 10)
        engine.api.show()
        await engine.settle()
        await engine.settle()
        assert engine.stores.reads == 1
        assert engine.api.secret["metadata"]["annotations"]["keyturn.dev/reconciled"] == value
        assert engine.api.calls.count(("PATCH", "secrets")) == 1
        assert ("PATCH", "deployments") not in engine.api.calls


async def test_request_to_reconcile_a_binding_in_error_is_recorded_with_the_error() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.value = '{"password": '
    metadata = engine.api.secret["metadata"]
    metadata["annotations"] = {**metadata["annotations"], "keyturn.dev/reconcile": "now"}
    metadata["resourceVersion"] = "70"
    engine.api.show()
    await engine.settle()
    await engine.settle()
    record = engine.cache.get(DB).record
    assert (record.has_reason("InvalidValue"), record.reconciled) == (True, "now")
    assert engine.api.calls.count(("PATCH", "secrets")) == 1


async def test_namespace_is_read_once_for_each_secret_that_is_made() -> None:
    engine = Engine()
    await engine.start()
    for number in range(2):
        engine.forget()
        made = {**bound_object("db", version=90 + 10 * number), "type": "Opaque", "data": {}}
        made["metadata"]["uid"] = f"anew-{number}"
        engine.api.secret = made
        engine.api.show()
        await engine.settle()
        await asyncio.sleep(0.1)
        assert engine.cache.get(DB).record.was_written
        engine.stores.version, engine.stores.value = 10 + number, f'{{"password": "{number}"}}'
        await engine.notify()
        assert engine.api.calls.count(("GET", "namespaces")) == 1


@pytest.mark.parametrize(("age_of_pod", "restarts"), [(1, ["web"]), (0, []), (None, [])])
async def test_consumer_that_no_watch_showed_is_restarted_if_a_pod_is_older_than_the_value(
    age_of_pod: int | None, restarts: list[str]
) -> None:
    engine = Engine()
    engine.api.hide_workload()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    await engine.settle()
    engine.api.make_pods(age_of_pod)
    engine.forget()
    engine.api.show_workload(created=-1)
    await engine.settle()
    annotations = engine.api.workload["spec"]["template"]["metadata"]["annotations"]
    assert bool(annotations) is bool(restarts)
    assert engine.events.reasons == ["Applied"] * len(restarts)
    reads = [("GET", "secrets"), ("GET", "deployments"), ("GET", "pods")]
    assert engine.api.calls == [*reads, ("PATCH", "deployments")]  # and no call after the mark of the consumer
    assert engine.stores.reads == 0


async def test_consumer_that_is_younger_than_the_value_costs_no_read_of_its_pods() -> None:
    engine = Engine()
    engine.api.hide_workload()
    await engine.start()
    engine.api.show_workload(created=0)
    await engine.settle()
    assert engine.api.calls == [("GET", "secrets"), ("PATCH", "deployments")]
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == {}


@pytest.mark.parametrize("age_of_pod", [-20, 10], ids=["new pod", "adopted pod"])
async def test_workload_that_is_created_again_waits_only_if_it_has_adopted_an_old_pod(age_of_pod: int) -> None:
    """Its window is closed. If its pods are new, it needs no restart, and so no window."""
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    await engine.settle()
    engine.api.hide_workload()
    engine.api.workload = {**deployment(), "status": {"replicas": 1}}
    engine.api.workload["metadata"] |= {
        "uid": "again",
        "annotations": {"keyturn.dev/rollout-window": "0 3 29 2 * for 1h"},
    }
    engine.api.make_pods(age_of_pod)
    engine.forget()
    engine.api.show_workload(created=20)
    await engine.settle()
    await asyncio.sleep(1)
    own = engine.api.workload["metadata"]["annotations"]
    of_template = engine.api.workload["spec"]["template"]["metadata"]["annotations"]
    assert ("revision.keyturn.dev/db" in own, of_template) == (age_of_pod < 0, {})
    assert engine.reasons_of_waits() == ([] if age_of_pod < 0 else [WaitReason.WINDOW])
    reads = [("GET", "secrets"), ("GET", "deployments"), ("GET", "pods")]
    assert engine.api.calls[:3] == reads


async def create_again(engine: Engine, **annotations: str) -> None:
    """Create the workload again, without a mark. It adopts the pod of the former one, which is older than the value."""
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    await engine.settle()
    engine.api.hide_workload()
    engine.api.workload = {**deployment(), "status": {"replicas": 1}}
    engine.api.workload["metadata"] |= {"uid": "again", "annotations": annotations}
    engine.api.make_pods(10)
    engine.forget()
    engine.api.show_workload(created=20)


async def test_adopted_old_pod_is_replaced_when_the_window_opens() -> None:
    """The window is closed when the pod is found. Nothing is written then, so no watch shows a change later."""
    start = datetime(2026, 11, 28, 10, 0, tzinfo=UTC).timestamp() - time.monotonic()
    engine = Engine(wall=lambda: start + time.monotonic())
    await engine.start()
    await create_again(engine, **{"keyturn.dev/rollout-window": "30 * * * * for 10m"})
    await asyncio.sleep(25 * 60)
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == {}
    await asyncio.sleep(10 * 60)
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"]


async def test_adopted_old_pod_is_replaced_though_the_list_of_the_pods_takes_longer_than_the_restarts_may() -> None:
    engine = Engine()
    await engine.start()
    engine.api.slow_pods = MARK_SECONDS + 0.5
    await create_again(engine)
    await asyncio.sleep(60)
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"]
    assert engine.api.calls.count(("GET", "pods")) <= 2


@pytest.mark.parametrize("pause", [10, 120])
async def test_workload_that_is_created_again_with_its_old_mark_waits_for_its_window(pause: int) -> None:
    """Somebody has saved its manifest, with Keyturn's mark in it, while it waited for its window."""
    engine = Engine()
    engine.api.workload["metadata"]["generation"] = 1
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    await engine.settle()
    metadata = engine.api.workload["metadata"]
    metadata["annotations"] |= {"keyturn.dev/rollout-window": "0 3 29 2 * for 1h"}
    metadata["resourceVersion"] = "77"
    engine.api.show()
    engine.api.make_pods(10)
    engine.stores.version, engine.stores.value = 3, '{"password": "z"}'
    await engine.notify()
    await engine.settle()
    assert engine.reasons_of_waits() == [WaitReason.WINDOW]
    await asyncio.sleep(pause)
    saved = engine.api.workload["spec"]["template"]["metadata"]["annotations"]
    assert saved
    engine.api.hide_workload()
    engine.api.workload = {**deployment(), "status": {"replicas": 1}}
    annotations = dict(metadata["annotations"])
    engine.api.workload["metadata"] |= {"uid": "again", "generation": 1, "annotations": annotations}
    engine.api.workload["spec"]["template"]["metadata"]["annotations"] = dict(saved)
    engine.api.pods[0]["metadata"]["annotations"] = dict(saved)
    engine.forget()
    engine.api.show_workload(created=20)
    await engine.settle()
    await asyncio.sleep(1)
    assert engine.reasons_of_waits() == [WaitReason.WINDOW]
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == saved
    assert engine.api.workload["metadata"]["annotations"] == metadata["annotations"]


@pytest.mark.parametrize("owner", ["strips", "keeps its own"])
async def test_fight_about_a_mark_slows_down_and_a_new_rotation_is_carried_at_once(owner: str) -> None:
    engine = Engine()
    await engine.start()
    metadata, template = engine.api.workload["metadata"], engine.api.workload["spec"]["template"]["metadata"]
    theirs = {} if owner == "strips" else {"revision.keyturn.dev/db": "theirs"}
    writes: list[float] = []

    def revert(method: str, resource: str) -> None:
        if (method, resource) == ("PATCH", "deployments"):
            writes.append(time.monotonic())
            asyncio.get_running_loop().call_later(0.01, reverted)

    def reverted() -> None:
        metadata["annotations"], template["annotations"] = dict(theirs), dict(theirs)
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        engine.api.show()

    engine.api.refuse = revert
    started = time.monotonic()
    reverted()
    await asyncio.sleep(60)
    assert 2 <= len(writes) <= 6
    (fight,) = engine.fights
    assert (fight.consumer.ref.name, fight.mark) == ("web", "revision.keyturn.dev/db")
    assert fight.removed is (owner == "strips")
    assert len({round(at - started) for at in writes}) >= 2  # the writes go on
    before = len(writes)
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    result = await engine.notify()
    assert result.error is None
    assert len(writes) > before
    await asyncio.sleep(3600)
    assert len(writes) <= before + 20
    assert len(engine.fights) == 1


async def test_reverted_restart_of_old_pods_is_told_in_the_status_and_ends_with_the_rollout() -> None:
    engine = Engine()
    engine.api.show_workload(created=-60)
    await engine.start()
    metadata, template = engine.api.workload["metadata"], engine.api.workload["spec"]["template"]["metadata"]
    engine.api.make_pods(age=60)

    def revert(method: str, resource: str) -> None:
        if (method, resource) == ("PATCH", "deployments"):
            asyncio.get_running_loop().call_later(0.01, reverted)

    def reverted() -> None:
        template["annotations"] = {}
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        engine.api.show()

    engine.api.refuse = revert
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    assert (await engine.notify()).error is None
    await asyncio.sleep(1800)
    annotations, labels = (engine.api.secret["metadata"][field] for field in ("annotations", "labels"))
    assert annotations["keyturn.dev/status"].startswith("RestartReverted: another writer keeps reverting ")
    assert labels["keyturn.dev/state"] == "RestartReverted"
    assert engine.api.calls.count(("PATCH", "secrets")) == 2  # the rotation and the status
    assert engine.cache.get(DB).record.status == "ok"

    engine.api.refuse = lambda method, resource: None
    await asyncio.sleep(400)
    engine.api.workload["status"] = dict.fromkeys(
        ("observedGeneration", "replicas", "updatedReplicas", "availableReplicas"), 1
    )
    metadata |= {"generation": 1, "resourceVersion": str(int(metadata["resourceVersion"]) + 1)}
    engine.api.show()
    await asyncio.sleep(5)
    assert engine.api.secret["metadata"]["annotations"]["keyturn.dev/status"] == "ok"
    assert engine.api.calls.count(("PATCH", "secrets")) == 3
    before = len(engine.api.calls)
    await asyncio.sleep(3600)
    assert len(engine.api.calls) == before


async def test_secret_that_is_created_again_and_again_restarts_nobody_unless_its_binding_is_another() -> None:
    engine = Engine()
    engine.stores.value = '{"password": "x", "user": "app"}'
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y", "user": "app"}'
    assert (await engine.notify()).restarted
    revisions = engine.cache.get(DB).record.revisions
    assert revisions == {"password": "v2", "user": "v1"}
    for uid in ("second", "third"):
        engine.forget()
        engine.cache.delete(engine.api.secret)
        made = bound_object("db", version=int(engine.api.secret["metadata"]["resourceVersion"]) + 1)
        made["metadata"] |= {"uid": uid, "annotations": {SECRET_ID: "prod/db"}}
        engine.api.secret = {**made, "type": "Opaque", "data": {}}
        conflicts = [Conflict("changed")]
        engine.api.refuse = lambda method, resource, left=conflicts: (
            left.pop() if (method, resource) == ("PATCH", "secrets") and left else None
        )
        engine.api.show()
        await asyncio.sleep(5)
        await engine.settle()
        bound = engine.cache.get(DB)
        assert (bound.uid, bound.record.revisions, conflicts) == (uid, revisions, [])
        assert ("PATCH", "deployments") not in engine.api.calls
    engine.forget()
    engine.cache.delete(engine.api.secret)
    made["metadata"] |= {"uid": "guess", "annotations": {SECRET_ID: "prod/db", DATA: "user: \"'app'\""}}
    engine.api.secret = {**made, "type": "Opaque", "data": {}}
    engine.api.show()
    await asyncio.sleep(5)
    await engine.settle()
    (revision,) = engine.cache.get(DB).record.revisions.values()
    assert revision.startswith("v2.")


async def test_edit_during_a_run_is_repaired_after_it() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    await engine.notify()
    metadata = engine.api.secret["metadata"]
    metadata["managedFields"], metadata["resourceVersion"] = [], "70"  # another writer now owns the fields
    engine.api.secret["data"] = {"password": "aGFuZA=="}
    engine.api.show()
    await engine.settle()
    await asyncio.sleep(0.1)
    assert [request.causes for request in engine.requests] == [{Cause.NOTIFICATION}, {Cause.DRIFT}]
    assert engine.api.secret["data"] == {"password": "eQ=="}


async def test_conflict_is_retried_at_once_and_told_to_nobody() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    conflicts = iter([Conflict("changed")] * 3)
    engine.api.refuse = lambda method, resource: next(conflicts, None) if method == "PATCH" else None
    result = await engine.notify()
    assert (result.error, result.changed, engine.events.reasons) == (None, True, ["Applied"])


async def test_conflict_without_end_becomes_a_temporary_failure() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    engine.api.refuse = lambda method, resource: Conflict("changed") if method == "PATCH" else None
    result = await engine.reconciler.reconcile(DB, Request.now(Cause.NOTIFICATION, {"v2"}))
    assert isinstance(result.error, Conflict)
    assert not isinstance(result.error, Contended)  # nobody edits the Secret, so this is the API server's fault
    assert engine.api.calls.count(("PATCH", "secrets")) == CONFLICT_RETRIES + 1
    assert engine.events.reasons == []


async def test_secret_that_its_owner_keeps_editing_is_contended() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'

    def edit_first(method: str, resource: str) -> None:
        if (method, resource) == ("PATCH", "secrets"):
            metadata = engine.api.secret["metadata"]
            metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    engine.api.refuse = edit_first
    result = await engine.reconciler.reconcile(DB, Request.now(Cause.NOTIFICATION, {"v2"}))
    assert isinstance(result.error, Contended)
    assert "Secret team/db keeps changing" in str(result.error)


async def test_workload_that_its_owner_keeps_editing_is_contended() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'

    def edit_first(method: str, resource: str) -> None:
        if (method, resource) == ("PATCH", "deployments"):
            metadata = engine.api.workload["metadata"]
            metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    engine.api.refuse = edit_first
    result = await engine.reconciler.reconcile(DB, Request.now(Cause.NOTIFICATION, {"v2"}))
    assert isinstance(result.error, Contended)
    assert "Deployment/team/web keeps changing" in str(result.error)
    assert engine.api.secret["data"] == {"password": "eQ=="}


@pytest.mark.parametrize("failure", [InvalidValue, SourceUnavailable])
@pytest.mark.parametrize("cause", [Cause.DRIFT, Cause.NOTIFICATION])
async def test_failures_of_one_namespace_are_slowed_down_unless_aws_has_brought_them(
    cause: Cause, failure: type[KeyturnError]
) -> None:
    engine = Engine()
    await engine.start()
    if failure is InvalidValue:
        engine.stores.value = '{"password": "cut'
    else:
        engine.stores.error = failure("the region does not answer")
    begun = time.monotonic()
    for number in range(FAILURE_BURST + 20):
        engine.stores.version = number + 2
        result = await engine.reconciler.reconcile(DB, Request.now(cause))
        assert isinstance(result.error, failure)
    seconds = time.monotonic() - begun
    assert seconds > 0.7 if cause is Cause.DRIFT else seconds < 0.7


async def test_failed_fill_still_restarts_consumers_that_are_behind() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    engine.api.refuse = lambda method, resource: ClusterUnavailable("gone") if resource == "deployments" else None
    assert isinstance((await engine.notify()).error, ClusterUnavailable)
    engine.api.refuse = lambda method, resource: None
    engine.stores.error = SourceUnavailable("AWS is gone")
    result = await engine.reconciler.reconcile(DB, Request.now(Cause.POLL))
    assert isinstance(result.error, SourceUnavailable)
    assert [ref.name for ref in result.restarted] == ["web"]
    await engine.queue.close(0)


@pytest.mark.parametrize("suffix", ["", "~1"])
async def test_value_that_returns_changes_a_template_that_still_has_its_mark(suffix: str) -> None:
    """The workload waited for its restart when its owner made all its pods anew, so the mark was settled. The template
    has kept the mark of the value that returns now."""
    engine, name = Engine(), "revision.keyturn.dev/db"
    await engine.start()
    marks = {}
    for version in (2, 3):
        engine.stores.version, engine.stores.value = version, f'{{"password": "{version}"}}'
        assert (await engine.notify()).restarted
        marks[version] = without_suffix(engine.api.workload["spec"]["template"]["metadata"]["annotations"][name])
        await engine.settle()
    engine.api.workload["metadata"] |= {"resourceVersion": "100", "annotations": {name: marks[3]}}
    engine.api.workload["spec"]["template"]["metadata"]["annotations"] = {name: marks[2] + suffix}
    engine.api.show()
    await engine.settle()
    engine.stores.version, engine.stores.value = 2, '{"password": "2"}'
    assert (await engine.notify()).restarted
    mark = engine.api.workload["spec"]["template"]["metadata"]["annotations"][name]
    assert re.fullmatch(rf"{marks[2]}~\d{{2,}}", mark)
    await engine.settle()
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == {name: mark}


async def test_settled_mark_that_its_owner_restores_during_the_rollout_makes_no_further_template() -> None:
    """The old pods are replaced by the rollout anyway. So the mark on the template stays as it is."""
    engine, name = Engine(), "revision.keyturn.dev/db"
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    assert (await engine.notify()).restarted
    await engine.settle()
    template = dict(engine.api.workload["spec"]["template"]["metadata"]["annotations"])
    engine.api.make_pods(age=60)
    for number in range(2):
        version = str(100 + 10 * number)
        engine.api.workload["metadata"] |= {"resourceVersion": version, "annotations": {name: "of-an-older-value"}}
        engine.api.show()
        await engine.settle()
        assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == template
        assert engine.api.workload["metadata"]["annotations"] == {}


@pytest.mark.parametrize("updated", [0, 1])
async def test_restart_in_the_middle_of_a_rollout_makes_a_template_that_no_pod_has(updated: int) -> None:
    """If the value has returned, Kubernetes would go back to a former template, and keep its pods."""
    engine, name = Engine(), "revision.keyturn.dev/db"
    await engine.start()
    engine.api.workload["metadata"] |= {"resourceVersion": "100", "generation": 1}
    engine.api.workload["status"] = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": updated}
    engine.api.show()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    assert (await engine.notify()).restarted
    mark = engine.api.workload["spec"]["template"]["metadata"]["annotations"][name]
    assert ("~" in mark) is (not updated)
    assert ("GET", "pods") not in engine.api.calls
    await engine.settle()
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == {name: mark}


@pytest.mark.parametrize("age_of_pod", [1, -1])
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_consumer_that_waits_is_restarted_without_a_look_at_its_pods_unless_its_template_has_changed(
    is_replaced: bool, age_of_pod: int
) -> None:
    """While the restart is left to do, a `kubectl rollout restart` may replace the pods."""
    engine = Engine()
    metadata, template = engine.api.workload["metadata"], engine.api.workload["spec"]["template"]["metadata"]
    engine.api.counts_generations = True
    await engine.start()
    for version in (2, 3):
        engine.stores.version, engine.stores.value = version, f'{{"password": "{version}"}}'
        if version == 3:
            engine.api.refuse = lambda method, resource: (
                ClusterUnavailable("gone") if (method, resource) == ("PATCH", "deployments") else None
            )
        await engine.notify()
    annotations = dict(template["annotations"])
    assert engine.cache.get(DB).record.revisions == {"password": "v3"}

    engine.api.make_pods(age_of_pod)
    if is_replaced:
        template["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now"
        metadata |= {"generation": metadata["generation"] + 1, "resourceVersion": "100"}
    engine.api.refuse = lambda method, resource: None
    engine.api.show()
    await asyncio.sleep(30)
    mark = "revision.keyturn.dev/db"
    is_restarted = template["annotations"][mark] != annotations[mark]
    assert is_restarted is (not is_replaced or age_of_pod > 0)
    assert engine.api.calls.count(("GET", "pods")) == is_replaced
    assert (mark in metadata["annotations"]) is not is_restarted


@pytest.mark.parametrize(("age_of_pod", "restarts"), [(1, ["web"]), (-1, [])])
async def test_template_that_is_reverted_is_decided_by_the_pods(age_of_pod: int, restarts: list[str]) -> None:
    """An owner replaces the template after a restart. If the rollout was complete before, the pods are newer than the
    value."""
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "y"}'
    assert (await engine.notify()).restarted
    template = engine.api.workload["spec"]["template"]["metadata"]
    assert list(template["annotations"]) == ["revision.keyturn.dev/db"]
    assert engine.api.workload["metadata"]["annotations"] == {}
    assert ("GET", "pods") not in engine.api.calls  # a rotation looks at no pod
    await engine.settle()
    engine.api.workload["metadata"] |= {"resourceVersion": "100", "creationTimestamp": engine.api.written_at(-100)}
    engine.api.workload["spec"] = {"template": {"metadata": {"annotations": {}}, "spec": deployment_spec()}}
    engine.api.make_pods(age_of_pod)
    engine.api.show()
    await engine.settle()
    await asyncio.sleep(2)
    assert engine.api.calls.count(("GET", "pods")) == 1
    template = engine.api.workload["spec"]["template"]["metadata"]
    assert bool(template["annotations"]) is bool(restarts)
    assert bool(engine.api.workload["metadata"]["annotations"]) is not bool(restarts)


def deployment_spec() -> Any:
    return deployment()["spec"]["template"]["spec"]


async def test_permanent_failure_writes_status_and_event_once() -> None:
    engine = Engine()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "cut'
    results = [await engine.notify() for _ in range(2)]
    assert all(isinstance(result.error, InvalidValue) for result in results)
    await engine.settle()
    assert engine.api.calls.count(("PATCH", "secrets")) == 1
    assert engine.cache.get(DB).record.has_reason("InvalidValue")
    assert engine.queue.gave_up_on(DB, engine.cache.get(DB).resource_version)
    assert engine.queue.failing() == 1
    assert len(engine.requests) == 2  # drift detection does not retry an error that only a person can fix


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ((InvalidValue("fill"), ClusterUnavailable("restart")), "restart"),
        ((SourceUnavailable("fill"), ClusterUnavailable("restart")), "fill"),
        ((InvalidValue("fill"), ClusterRefused("restart")), "fill"),
        ((None, ClusterRefused("restart")), "restart"),
        ((None, None), None),
    ],
)
def test_first_retryable_error_decides_or_else_the_first(
    errors: tuple[KeyturnError | None, ...], first: str | None
) -> None:
    error = first_retryable(*errors)
    assert (str(error) if error else None) == first


def reader(name: str, *keys: str, optional: bool = False) -> dict[str, Any]:
    """Return a Deployment that reads these keys of the Secret."""
    workload = deployment()
    refs = [{"secretKeyRef": {"name": "db", "key": key, "optional": optional}} for key in keys]
    env = [{"name": f"E{number}", "valueFrom": ref} for number, ref in enumerate(refs)]
    workload["metadata"] |= {"name": name, "uid": name}
    workload["spec"]["template"]["spec"]["containers"] = [{"name": "app", "env": env}]
    return workload


def key_events(engine: Engine) -> list[tuple[str, str]]:
    return [(about, told) for about, reason, told in engine.events.about_workloads if reason == "KeyMissing"]


async def test_key_that_a_workload_waits_for_is_told_on_it_once_and_costs_no_call() -> None:
    engine = Engine()
    engine.api.secret["metadata"]["annotations"]["keyturn.dev/data"] = "password: password"
    engine.api.secret["metadata"]["resourceVersion"] = "70"
    engine.api.show()
    engine.consumers.update(engine.consumers.transform(reader("waiting", "PASSWORD")))
    engine.consumers.update(engine.consumers.transform(reader("patient", "PASSWORD", optional=True)))
    await engine.settle()
    assert key_events(engine) == []  # nothing is filled yet

    engine.drift.start()
    await asyncio.sleep(0.05)
    await engine.settle()
    assert engine.cache.get(DB).record.was_written
    told = (
        "Deployment team/waiting",
        "Secret db: it reads the key PASSWORD, which the Secret does not have; it has password: correct the name in the"
        " pod template, or fill the key with keyturn.dev/data; its pods are not restarted for this Secret until then",
    )
    assert key_events(engine) == [told]

    for version in (2, 3):
        engine.stores.version, engine.stores.value = version, f'{{"password": "{version}"}}'
        await engine.notify()
        await engine.settle()
    assert key_events(engine) == [told]

    engine.forget()
    engine.consumers.update(engine.consumers.transform(reader("late", "passwrd")))
    await engine.settle()
    assert [about for about, _ in key_events(engine)] == ["Deployment team/late"]
    assert engine.api.calls == []


async def keep_pods_without_the_password(engine: Engine, user: str) -> None:
    """Rotate to a value without a password, and check that the only reader keeps its pods."""
    engine.api.workload = reader("web", "user", "password")
    engine.stores.value = '{"user": "1", "password": "1"}'
    await engine.start()
    engine.api.make_pods(age=10)
    engine.stores.version, engine.stores.value = 2, json.dumps({"user": user})
    assert (await engine.notify()).restarted == ()
    await engine.settle()
    assert engine.api.secret["data"].keys() == {"user"}
    assert ("GET", "pods") not in engine.api.calls
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] == {}
    (event,) = key_events(engine)
    assert "it reads the key password, which the Secret does not have" in event[1]
    engine.forget()


@pytest.mark.parametrize("user", ["1", "2"], ids=["one goes", "one goes and one changes"])
async def test_workload_keeps_its_pods_while_one_of_its_required_keys_is_gone(user: str) -> None:
    engine = Engine()
    await keep_pods_without_the_password(engine, user)
    engine.stores.version, engine.stores.value = 3, json.dumps({"user": user, "password": "2"})
    result = await engine.notify()
    assert [ref.name for ref in result.restarted] == ["web"]
    await engine.settle()
    assert key_events(engine) == []


@pytest.mark.parametrize("restarts", [False, True])
async def test_roll_back_to_the_version_with_the_key_keeps_the_pods_that_never_changed(restarts: bool) -> None:
    engine = Engine()
    await keep_pods_without_the_password(engine, "1")
    if restarts:  # a pod was created while the key was gone, so one of its containers may have started
        engine.api.make_pods(age=0)
    engine.stores.version, engine.stores.value = 1, '{"user": "1", "password": "1"}'
    result = await engine.notify()
    assert [ref.name for ref in result.restarted] == ["web"] * restarts
    await engine.settle()
    engine.forget()
    engine.drift.check(DB)
    await engine.settle()
    assert engine.api.calls == []


async def test_required_key_of_another_writer_does_not_hold_back_a_restart() -> None:
    engine = Engine()
    engine.api.secret["data"]["ca.crt"] = "eA=="
    engine.api.workload = reader("web", "password", "ca.crt")
    engine.stores.value = '{"user": "1", "password": "1"}'
    engine.api.show()
    await engine.start()
    engine.stores.version, engine.stores.value = 2, '{"password": "2"}'
    assert [ref.name for ref in (await engine.notify()).restarted] == ["web"]
    # A restart that the pods decide reads the record again, without the Secret's data.
    engine.api.workload["spec"]["template"]["metadata"]["annotations"] = {}
    engine.api.make_pods(age=10)
    engine.api.show_workload(-10)
    await engine.settle()
    assert engine.api.workload["spec"]["template"]["metadata"]["annotations"] != {}
    assert ("GET", "pods") in engine.api.calls


async def test_keys_that_another_writer_adds_are_not_missing() -> None:
    engine = Engine()
    engine.api.secret["data"]["ca.crt"] = "eA=="
    engine.api.show()
    engine.consumers.update(engine.consumers.transform(reader("web-2", "ca.crt", "password")))
    engine.drift.start()
    await asyncio.sleep(0.05)
    await engine.settle()
    assert engine.cache.get(DB).record.was_written
    assert key_events(engine) == []


@pytest.mark.parametrize(
    "end", ["the workload is gone", "it reads another Secret", "it reads another key", "the Secret is gone"]
)
async def test_notice_of_a_missing_key_ends_with_what_it_is_about(end: str) -> None:
    engine = Engine()
    engine.consumers.update(engine.consumers.transform(reader("waiting", "PASSWORD")))
    engine.drift.start()
    await asyncio.sleep(0.05)
    await engine.settle()
    assert [about for about, _ in key_events(engine)] == ["Deployment team/waiting"]
    if end == "the workload is gone":
        engine.consumers.delete(reader("waiting", "PASSWORD"))
    elif end == "it reads another Secret":
        elsewhere = reader("waiting", "PASSWORD")
        env = elsewhere["spec"]["template"]["spec"]["containers"][0]["env"]
        env[0]["valueFrom"]["secretKeyRef"]["name"] = "other"
        engine.consumers.update(engine.consumers.transform(elsewhere))
    elif end == "it reads another key":
        engine.consumers.update(engine.consumers.transform(reader("waiting", "password")))
    else:
        engine.cache.delete(engine.api.secret)
    await engine.settle()
    engine.events.about_workloads.clear()
    engine.notices.on_started_leading()
    assert key_events(engine) == []


async def test_missing_key_is_told_on_a_bounded_number_of_workloads() -> None:
    engine = Engine()
    for number in range(40):
        engine.consumers.update(engine.consumers.transform(reader(f"web-{number}", "missing")))
    engine.drift.start()
    await asyncio.sleep(0.05)
    await engine.settle()
    await engine.settle()
    events = key_events(engine)
    assert len(events) == MAX_CONSUMER_EVENTS
    assert {told for _, told in events} == {
        "Secret db: it reads the key missing, which the Secret does not have; it has 1 key: correct the name in the pod"
        " template, or fill the key with keyturn.dev/data; its pods are not restarted for this Secret until then"
    }
