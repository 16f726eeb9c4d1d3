"""The engine of watched Secrets, in random histories and in virtual time. Only the API server is a fake.

Others change the Secret while receivers are killed at their writes, start, and are replaced. In the end each pod runs
the values that the Secret has. No workload was restarted more often than its keys have changed, except that a workload
that was created later may be restarted once more.
"""

import asyncio
import json
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceReader
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.field_owners import WATCH_MANAGER
from keyturn_receiver.core.rollout import START_SECONDS
from keyturn_receiver.core.rollout_order import ORDER
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.core.watched import WATCHED
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.core.write_times import parse_time
from keyturn_receiver.errors import ClusterRefused, ClusterUnavailable, Conflict, KeyturnError, NotFound
from keyturn_receiver.reconcile.change_brake import FREE_CHANGES, MAX_DELAY, ChangeBrake
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter, Restraints, RolloutResult
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.reconcile.watch_detector import WatchDetector
from keyturn_receiver.reconcile.watch_reconciler import WatchReconciler
from keyturn_receiver.reconcile.watch_reporter import WatchReporter
from keyturn_receiver.reconcile.work_queue import WorkQueue
from keyturn_receiver.telemetry.legs import LegTimer
from keyturn_receiver.telemetry.metrics import Metrics
from support.bindings import KEYED

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
DB = Target("team", "db")
DEPLOYMENT = WORKLOAD_KINDS["Deployment"]
EPOCH = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
SETTLED = 3 * MAX_DELAY  # seconds after which nothing more happens
HISTORIES = 50
METRICS = Metrics()  # shared by all receivers, because it takes milliseconds to make them


def wall() -> float:
    return EPOCH + time.monotonic()


def now() -> str:
    """Return the API server's time, in whole seconds."""
    return datetime.fromtimestamp(int(wall()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reader(key: str | None) -> dict[str, Any]:
    """Return the spec of a pod that reads one key, which may be missing, or all keys."""
    if key is None:
        return {"containers": [{"name": "main", "envFrom": [{"secretRef": {"name": "db"}}]}]}
    ref = {"name": "db", "key": key, "optional": True}
    return {"containers": [{"name": "main", "env": [{"name": "X", "valueFrom": {"secretKeyRef": ref}}]}]}


class World:
    """A namespace with a Secret, and Deployments with one pod each. The Deployments' controller takes no time. A
    container starts ``START_SECONDS`` after its pod was created, or at once if its Deployment has a mark.

    ``kill_at`` is the number of writes that the receiver still survives. It dies at the next write: before the write,
    or after it if ``after`` is true. ``refuse`` returns the error of a write of an object, or None.
    """

    def __init__(self) -> None:
        self.version = 0
        self.secret: dict[str, Any] = {"metadata": {"namespace": "team", "name": "db", "uid": "db"}, "data": {}}
        self.workloads: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str | None] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.read: dict[str, Mapping[str, str]] = {}  # the values that each Deployment's pod runs with
        self.restarts: dict[str, int] = {}
        self.changes: dict[str, int] = {}  # the number of changes of the keys that each Deployment reads
        self.kill_at: int | None = None
        self.after = False
        self.writes: list[tuple[float, str]] = []
        self.refuse: Callable[[str], KeyturnError | None] = lambda name: None
        self.receivers: list[Receiver] = []
        self.hanging: list[Any] = []  # tasks of processes that are gone

    # --- what others do

    def write(self, data: Mapping[str, str], strip: bool = False) -> None:
        """Write the Secret's data, and remove Keyturn's annotation if ``strip``."""
        before, metadata = self.values(), self.secret["metadata"]
        entries = {each["manager"]: each for each in metadata.get("managedFields", [])}
        entries["theirs"] = {"manager": "theirs", "operation": "Update", "time": now(), "fieldsV1": {"f:data": {}}}
        annotations = {} if strip else metadata.get("annotations", {})
        if strip:
            entries.pop(WATCH_MANAGER, None)
        self.secret = {
            "metadata": {
                **metadata,
                "labels": {"keyturn.dev/watch": "true"},
                "annotations": annotations,
                "managedFields": list(entries.values()),
                "resourceVersion": self.next_version(),
            },
            "data": {key: b64encode(value.encode()).decode() for key, value in data.items()},
        }
        for name in self.workloads:
            self.changes[name] += self.seen_by(name, before) != self.seen_by(name, self.values())
            created = parse_time(self.pods[name]["metadata"]["creationTimestamp"])
            young = created is not None and int(wall()) - created < START_SECONDS
            if young and not self.is_marked(name):
                self.read[name] = self.seen_by(name, self.values())
        self.show()

    def is_marked(self, name: str) -> bool:
        workload = self.workloads[name]
        return bool(workload["metadata"]["annotations"] or workload["spec"]["template"]["metadata"]["annotations"])

    def create(self, name: str, key: str | None) -> None:
        metadata = {"namespace": "team", "name": name, "uid": name, "annotations": {}, "creationTimestamp": now()}
        template = {"metadata": {"annotations": {}}, "spec": reader(key)}
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
        self.workloads[name] = {"metadata": {**metadata, "resourceVersion": self.next_version()}, "spec": spec}
        self.keys[name], self.restarts[name], self.changes[name] = key, 0, 0
        self.roll(name)
        self.show()

    def roll(self, name: str) -> None:
        """Replace the pod of a Deployment."""
        template = self.workloads[name]["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": f"{name}-1"}
        metadata = {"name": f"{name}-1-x", "uid": self.next_version(), "creationTimestamp": now()}
        metadata["labels"] = {"pod-template-hash": "1"}
        metadata |= {"ownerReferences": [owner], "annotations": dict(template["metadata"]["annotations"])}
        self.pods[name] = {"metadata": metadata, "spec": template["spec"]}
        self.read[name] = self.seen_by(name, self.values())

    def annotate(self, **annotations: str) -> None:
        """Put annotations on the Secret. A name has no prefix, and underscores in place of hyphens."""
        metadata = self.secret["metadata"]
        named = {f"keyturn.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
        metadata = {**metadata, "annotations": {**metadata["annotations"], **named}}
        self.secret = {**self.secret, "metadata": {**metadata, "resourceVersion": self.next_version()}}
        self.show()

    def progress(self, name: str, reason: str, ready: int = 0) -> None:
        """Give a Deployment the status of its rollout."""
        workload = self.workloads[name]
        counts = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": ready}
        status = {**counts, "conditions": [{"type": "Progressing", "reason": reason}]}
        metadata = {**workload["metadata"], "generation": 1, "resourceVersion": self.next_version()}
        self.workloads[name] = {**workload, "metadata": metadata, "status": status}
        self.show()

    # --- the present state

    def values(self) -> Mapping[str, str]:
        return {key: b64decode(value).decode() for key, value in self.secret["data"].items()}

    def seen_by(self, name: str, values: Mapping[str, str]) -> Mapping[str, str]:
        key = self.keys[name]
        return dict(values) if key is None else {key: values[key]} if key in values else {}

    def stale(self) -> list[str]:
        return [name for name, read in self.read.items() if read != self.seen_by(name, self.values())]

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    def show(self) -> None:
        for each in self.receivers:
            each.show()

    # --- what receivers do

    def start(self) -> "Receiver":
        for each in self.receivers:
            each.end()
        self.kill_at = None
        self.receivers = [Receiver(self)]
        return self.receivers[0]

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        metadata = self.secret["metadata"]
        if body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise Conflict("changed")
        if error := self.refuse("db"):
            raise error
        assert "data" not in body
        assert set(body["metadata"]["annotations"]) == {WATCHED}
        entries = [each for each in metadata["managedFields"] if each["manager"] != WATCH_MANAGER]
        entries.append({"manager": WATCH_MANAGER, "operation": "Apply", "time": now(), "fieldsV1": {}})
        annotations = {**metadata["annotations"], **body["metadata"]["annotations"]}
        written = {"annotations": annotations, "managedFields": entries, "resourceVersion": self.next_version()}
        self.secret = {**self.secret, "metadata": {**metadata, **written}}
        return self.secret

    def mark(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        workload = json.loads(json.dumps(self.workloads[name]))
        metadata, template = workload["metadata"], workload["spec"]["template"]["metadata"]
        if body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise Conflict("changed")
        if error := self.refuse(name):
            raise error
        metadata["annotations"] |= body["metadata"].get("annotations") or {}
        metadata["annotations"] = {key: text for key, text in metadata["annotations"].items() if text is not None}
        metadata["resourceVersion"] = self.next_version()
        marks = body.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
        template["annotations"] |= marks
        self.workloads[name] = workload
        if marks:
            self.restarts[name] += 1
            self.roll(name)
        return workload


class Receiver:
    """The part of a receiver that follows watched Secrets, put together as the composition root does it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.dead = False
        index, namespaces, metrics = ConsumerIndex(), NamespaceCache(), METRICS
        self.cache, self._consumers = WatchedCache(KEYED), ConsumerCache(DEPLOYMENT, index, wall)
        api: Any = self
        self.events: list[tuple[str, str]] = []
        self.messages: list[str] = []
        events: Any = self
        fights, workloads = RolloutFights(time.monotonic), WorkloadClient(api)
        index.add_mark_handler(fights.observe)
        client = WatchedClient(api, self.cache, KEYED)
        policy = RolloutPolicy(namespaces, Switch.ENABLED)
        evictor = PodEvictor(workloads, client, events, fights, lambda: True)
        pacer = RolloutPacer(index, namespaces, fights, evictor, PaceLimits(), lambda: True, wall)
        index.add_progress_handler(pacer.on_progress)
        index.add_unread_handler(pacer.on_unread)
        restarter = ConsumerRestarter(
            index, workloads, client, LegTimer(metrics), Restraints(policy, fights, evictor, pacer)
        )
        self.reporter = reporter = WatchReporter(events, metrics)
        self.consumers = lambda: index.of(DB)
        reconciler = WatchReconciler(
            self.cache, client, restarter, reporter, NamespaceReader(api, namespaces), wall=wall
        )
        queue = WorkQueue(reconciler.reconcile, 4, metrics, now=time.monotonic)
        detector = WatchDetector(self.cache, restarter, queue, ChangeBrake(time.monotonic), lambda: True)
        detector.add_handler(reporter.on_braked)
        self.cache.add_handler(detector.check)
        self.cache.add_kept_handler(detector.on_kept)
        index.add_handler(detector.check)
        self.cache.replace([self.cache.transform(world.secret)])
        self._consumers.replace([self._consumers.transform(each) for each in world.workloads.values()])
        detector.start()

    def end(self) -> None:
        """End the process. Its cache becomes empty, so that its timers do nothing more."""
        self.dead = True
        self.cache.replace([])

    def show(self) -> None:
        """Show all objects to the caches, as the watches would do."""
        if not self.dead:
            self.cache.update(self.cache.transform(self._world.secret))
            for each in self._world.workloads.values():
                self._consumers.update(self._consumers.transform(each))

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str = "Secret") -> None:
        self.events.append((f"{kind} {target.name}", reason))
        self.messages.append(message)

    async def request(
        self, method: str, path: str, query: Any = None, body: Any = None, **options: Any
    ) -> dict[str, Any]:
        """Answer a call, as the API client does."""
        await self._alive()
        world, (resource, name) = self._world, path.split("/")[-2:]
        if path.endswith("/pods"):
            label = query["labelSelector"].partition("=")[2]
            return {"metadata": {}, "items": [json.dumps(world.pods[label])]}
        if resource == "namespaces":
            return {"metadata": {"name": "team", "uid": "team", "resourceVersion": "1"}}
        if method == "GET":
            return world.secret if resource == "secrets" else world.workloads[name]
        self._count(before=True)
        await self._alive()
        written = world.apply(body) if resource == "secrets" else world.mark(name, body)
        world.writes.append((time.monotonic(), name))
        self._count(before=False)
        world.show()
        await self._alive()
        return written

    def _count(self, before: bool) -> None:
        world = self._world
        if world.kill_at is None or before is world.after:
            return
        world.kill_at -= 1
        if world.kill_at < 0:
            world.kill_at, self.dead = None, True

    async def _alive(self) -> None:
        await asyncio.sleep(0.01)
        if self.dead:  # the call of a process that is gone never ends
            self._world.hanging.append(asyncio.current_task())
            await asyncio.Event().wait()


async def world(*names: str) -> World:
    """Return a world with consumers that have a mark, and a receiver that has seen all of it."""
    made = World()
    made.write({"a": "0", "b": "0"})
    for name in names:
        made.create(name, None if name == "all" else name)
    made.start()
    await asyncio.sleep(10)
    assert WATCHED in made.secret["metadata"]["annotations"]
    return made


class Kind(StrEnum):
    """What happens in a history besides changes, kills, starts, waits and pods that are replaced by hand. Nothing tells
    whether a consumer without a mark is behind if the annotation is missing, or if an optional key is removed. So each
    history has only one kind."""

    CREATE = "workloads are created"
    REMOVE = "keys are removed"
    STRIP = "the annotation is removed"


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_random_history_ends_with_the_present_values_and_no_needless_restart(seed: int, kind: Kind) -> None:
    choice = random.Random(seed)  # noqa: S311 - a seed for a test
    made = await world("a", "b", "all")
    for count in range(1, choice.randint(2, 13)):
        match choice.choice(["change", "change", "change", "kill", "start", "wait", "by hand", kind]):
            case "change":
                changed = choice.sample(["a", "b"], choice.randint(1, 2))
                data = {**made.values(), **dict.fromkeys(changed, str(count))}
                made.write(data)
            case Kind.STRIP:
                made.write({**made.values(), "a": str(count)}, strip=True)
            case Kind.REMOVE:
                made.write({"a": made.values()["a"]})
            case "kill":
                made.kill_at, made.after = choice.randint(0, 3), choice.random() < 0.5
            case "start":
                made.start()
            case "wait":
                await asyncio.sleep(choice.choice([0.005, 0.5, 5, 60, 900]))
            case "by hand":
                made.roll(choice.choice([*made.workloads]))
            case Kind.CREATE:
                # Kubernetes tells times in whole seconds, so they do not give the order of events within one second.
                await asyncio.sleep(1.1)
                made.create(f"late-{count}", choice.choice(["a", "b", None]))
                await asyncio.sleep(1.1)
        await asyncio.sleep(choice.choice([0, 0, 0.02, 2]))
    made.start()
    await asyncio.sleep(SETTLED)
    assert made.stale() == []
    for name, restarts in made.restarts.items():
        # Of several changes while no receiver runs, only the time of the last one is known. A workload that was created
        # between them, and that no receiver has seen, may be restarted for an earlier one.
        assert restarts <= made.changes[name] + name.startswith("late"), name
    writes = len(made.writes)
    made.start()
    await asyncio.sleep(SETTLED)
    assert len(made.writes) == writes


async def test_change_costs_one_write_of_the_secret_and_one_of_each_reader() -> None:
    made = await world("a", "b", "all")
    made.writes.clear()
    made.write({**made.values(), "a": "1"})
    await asyncio.sleep(5)
    assert sorted(name for _, name in made.writes) == ["a", "all", "db"]
    assert made.restarts == {"a": 1, "b": 0, "all": 1}
    assert ("Secret db", "Changed") in made.receivers[0].events
    assert ("Deployment a", "Restarted") in made.receivers[0].events


async def test_changes_without_end_are_followed_a_handful_of_times_in_a_minute_and_told_once() -> None:
    made = await world("all")
    for number in range(600):
        made.write({"a": str(number)})
        await asyncio.sleep(0.1)
    followed = made.restarts["all"]
    assert FREE_CHANGES <= followed <= FREE_CHANGES + 2
    await asyncio.sleep(SETTLED)
    assert made.stale() == []
    assert made.restarts["all"] == followed + 1
    assert made.receivers[0].events.count(("Secret db", "ChangesTooOften")) == 1


async def test_owner_that_removes_the_annotation_at_once_is_answered_more_and_more_rarely() -> None:
    made = await world("all")
    made.writes.clear()
    for _ in range(600):
        if WATCHED in made.secret["metadata"]["annotations"]:
            made.write({"a": "0", "b": "0"}, strip=True)
        await asyncio.sleep(0.1)
    assert len(made.writes) <= FREE_CHANGES + 2
    assert made.restarts["all"] == 0
    assert ("Secret db", "ChangesTooOften") in made.receivers[0].events


async def test_refused_annotation_is_told_and_the_readers_restart() -> None:
    made = await world("a")
    made.refuse = lambda name: ClusterRefused("denied by a webhook") if name == "db" else None
    made.write({"a": "1"})
    await asyncio.sleep(5)
    assert made.restarts == {"a": 1}
    assert ("Secret db", "ClusterRefused") in made.receivers[0].events
    calls = len(made.receivers[0].events)
    await asyncio.sleep(SETTLED)
    assert len(made.receivers[0].events) == calls


async def test_refused_restart_is_tried_again() -> None:
    """A watched Secret has no status, and the poller does not look at it."""
    made = await world("a", "b")
    made.refuse = lambda name: ClusterRefused("denied by a webhook") if name == "a" else None
    made.write({"a": "1", "b": "1"})
    await asyncio.sleep(600)
    assert made.restarts == {"a": 0, "b": 1}
    made.refuse = lambda name: None
    await asyncio.sleep(900)
    assert made.restarts == {"a": 1, "b": 1}
    assert made.stale() == []


async def test_change_that_the_watch_shows_late_restarts_only_pods_that_are_older() -> None:
    made = await world("a", "b")
    show, made.show = made.show, lambda: None  # type: ignore[method-assign]
    made.write({"a": "1", "b": "1"})
    await asyncio.sleep(30)
    made.roll("b")
    await asyncio.sleep(30)
    made.show = show  # type: ignore[method-assign]
    made.show()
    await asyncio.sleep(SETTLED)
    assert made.restarts == {"a": 1, "b": 0}
    assert made.stale() == []


async def test_refused_annotation_and_changes_without_end_are_slowed_down_too() -> None:
    made = await world("a")
    made.refuse = lambda name: ClusterRefused("denied by a webhook") if name == "db" else None
    for number in range(600):
        made.write({"a": str(number)})
        await asyncio.sleep(0.1)
    assert made.restarts["a"] <= FREE_CHANGES + 2
    await asyncio.sleep(SETTLED)
    assert made.stale() == []


async def test_secret_that_loses_its_label_restarts_nobody() -> None:
    made = await world("a")
    made.secret["metadata"]["labels"] = {}
    made.secret = {**made.secret, "data": {"a": "1"}}
    made.show()
    await asyncio.sleep(SETTLED)
    assert made.restarts == {"a": 0}


async def test_secret_that_is_gone_is_no_error() -> None:
    made = await world("a")

    def gone(name: str) -> KeyturnError:
        return NotFound("gone")

    made.refuse = gone
    made.write({"a": "1"})
    await asyncio.sleep(5)
    assert [reason for _, reason in made.receivers[0].events if reason == "NotFound"] == []


async def canary() -> World:
    """Return a world in which the Secret has changed, and Deployment b waits for the restart of a."""
    made = await world("a", "b")
    made.workloads["a"]["metadata"]["annotations"][ORDER] = "1"
    made.show()
    made.write({"a": "1", "b": "1"})
    await asyncio.sleep(10)
    assert made.restarts == {"a": 1, "b": 0}
    return made


async def test_failed_rollout_halts_the_others_and_is_told_once() -> None:
    """A watched Secret has no status, so the Events alone tell of a halt."""
    made = await canary()
    (receiver,) = made.receivers
    told = [event for event in receiver.events if event[1] == "RolloutHalted"]
    assert not told

    made.progress("a", "ProgressDeadlineExceeded")
    await asyncio.sleep(SETTLED)
    assert made.restarts == {"a": 1, "b": 0}
    told = [event for event in receiver.events if event[1] == "RolloutHalted"]
    assert told == [("Secret db", "RolloutHalted"), ("Deployment a", "RolloutHalted")]

    assert ("Secret db", "RolloutResumed") not in receiver.events
    made.progress("a", "NewReplicaSetAvailable", ready=1)
    await asyncio.sleep(10)
    assert made.restarts == {"a": 1, "b": 1}
    assert receiver.events.count(("Secret db", "RolloutResumed")) == 1


async def test_halt_ends_by_hand_with_the_command_of_its_event() -> None:
    made = await canary()
    made.progress("a", "ProgressDeadlineExceeded")
    await asyncio.sleep(SETTLED)
    assert made.restarts == {"a": 1, "b": 0}
    (receiver,) = made.receivers
    command = next(text for text in receiver.messages if "rollout-resume=" in text)
    made.annotate(rollout_resume=command.partition("rollout-resume=")[2])
    await asyncio.sleep(10)
    assert made.restarts == {"a": 1, "b": 1}


async def test_pace_on_a_watched_secret_counts() -> None:
    made = await world("a", "b")
    made.annotate(rollout_pace="1")
    await asyncio.sleep(10)
    made.write({"a": "1", "b": "1"})
    await asyncio.sleep(10)
    made.progress("a", "ReplicaSetUpdated")
    await asyncio.sleep(10)
    assert made.restarts == {"a": 1, "b": 0}
    made.progress("a", "NewReplicaSetAvailable", ready=1)
    await asyncio.sleep(10)
    assert made.restarts == {"a": 1, "b": 1}


async def test_end_of_a_halt_is_not_told_after_an_error() -> None:
    """After an error, a reconcile does not know who halts the others."""
    made = await world("a")
    (receiver,) = made.receivers
    secret, (halting,) = receiver.cache.get(DB), receiver.consumers()
    assert secret
    receiver.reporter.report(secret, False, RolloutResult(turn=Turn(halted_by=halting, halt="RolloutHalted: a")), None)
    error = ClusterUnavailable("gone")
    receiver.reporter.report(secret, False, RolloutResult(error=error), error)
    assert ("Secret db", "RolloutResumed") not in receiver.events
    for _ in range(2):
        receiver.reporter.report(secret, False, RolloutResult(), None)
    assert receiver.events.count(("Secret db", "RolloutResumed")) == 1
