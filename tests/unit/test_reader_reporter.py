"""The reporter of readers that are not restarted: when it lists, how much, and what a failure does."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.object_pages import PAGE_SIZE
from keyturn_receiver.cluster.reader_client import ReaderClient
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.template_borrowers import Borrower, Borrowers
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.errors import ClusterRefused, KeyturnError
from keyturn_receiver.reconcile.reader_reporter import DELAY, INTERVAL, MAX_EVENTS, MAX_PODS, REST, ReaderReporter
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from support.bindings import KEYED, bound_object

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
OWNERS = [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "controller": True}]


class Api:
    """A fake Kubernetes client that lists pods and CronJobs. ``seconds`` is how long a page takes."""

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []
        self.cron_jobs: list[dict[str, Any]] = []
        self.pages: list[tuple[str, float]] = []  # path and time of each request
        self.seconds = 0.0
        self.refuse: Callable[[str], KeyturnError | None] = lambda path: None
        self.queries: list[dict[str, str]] = []

    async def request(
        self, method: str, path: str, query: Any = None, max_bytes: float = 0, decoder: Any = None
    ) -> dict[str, Any]:
        assert method == "GET"
        self.pages.append((path, time.monotonic()))
        self.queries.append(dict(query))
        await asyncio.sleep(self.seconds)
        if error := self.refuse(path):
            raise error
        objects = self.pods if path.endswith("/pods") else self.cron_jobs
        first, limit = int(query.get("continue", 0)), int(query["limit"])
        page = objects[first : first + limit]
        following = {"continue": str(first + limit)} if first + limit < len(objects) else {}
        return {"metadata": following, "items": [json.dumps(each).encode() for each in page]}

    def lists(self, resource: str = "/pods") -> list[float]:
        """Return the times of all requests about a resource."""
        return [at for path, at in self.pages if path.endswith(resource)]


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, bool, str, str]] = []

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str = "Secret") -> None:
        self.events.append((f"{kind} {target.name}", warning, reason, message))


class Setting:
    def __init__(self, default: Switch = Switch.ENABLED) -> None:
        self.api, self.recorder = Api(), Recorder()
        self.secrets, self.consumers, self.borrowers = SecretCache(KEYED), ConsumerIndex(), Borrowers()
        api: Any = self.api
        recorder: Any = self.recorder
        self.reporter = ReaderReporter(
            ReaderClient(api),
            self.secrets,
            self.consumers,
            RolloutPolicy(NamespaceCache(), default),
            recorder,
            lambda: time.monotonic(),
            self.borrowers,
        )

    def write(self, name: str = "db", version: str = "v2", shown: bool = True, **annotations: str) -> None:
        """Write a Secret, and show it to the cache, too, if ``shown``."""
        made = bound_object(name, version, version=int(version.removeprefix("v")), **annotations)
        made["metadata"]["annotations"]["keyturn.dev/changed-at"] = json.dumps({"2026-11-25T00:00:00Z": ["*"]})
        if shown:
            self.secrets.update(self.secrets.transform(made))
        before = LiveSecret(Target("team", name), "u", "1", "Opaque", False, Record(revisions={"value": "v1"}), {})
        self.reporter.on_written(before, Record(revisions={"value": version}))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reporter.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def pod(name: str, owners: list[dict[str, Any]] | None = None, of: str = "db") -> dict[str, Any]:
    metadata = {"name": name, "uid": name, "creationTimestamp": "2026-11-24T00:00:00Z", "ownerReferences": owners}
    spec = {"containers": [{"envFrom": [{"secretRef": {"name": of}}]}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


async def test_nothing_is_listed_without_a_change() -> None:
    setting = Setting()
    setting.api.pods = [pod("bare")]
    async with setting.running():
        await asyncio.sleep(3600)
    assert setting.api.pages == []


async def test_write_that_changes_no_key_lists_nothing() -> None:
    setting = Setting()
    async with setting.running():
        setting.write(version="v1")
        await asyncio.sleep(3600)
    assert setting.api.pages == []


async def test_change_is_reported_once_some_seconds_later() -> None:
    setting = Setting()
    setting.api.pods = [pod("bare"), pod("restarted", OWNERS), pod("other", of="cache")]
    async with setting.running():
        begun = time.monotonic()
        setting.write()
        await asyncio.sleep(3600)
    (listed,) = setting.api.lists()
    assert listed - begun >= DELAY
    assert [(name, warning, reason) for name, warning, reason, _ in setting.recorder.events] == [
        ("Secret db", True, "NotRestarted"),
        ("Pod bare", True, "NotRestarted"),
    ]


@pytest.mark.parametrize("lends", [True, False])
async def test_pods_of_a_rollout_whose_template_is_lent_are_restarted(lends: bool) -> None:
    setting = Setting()
    reads = {"db": Reads(whole=True)}
    lender = Consumer(WorkloadRef("Deployment", "team", "lender"), "1", reads, {}, {}, Switch.UNSET)
    setting.consumers.add(lender)
    if lends:
        ref = WorkloadRef("Rollout", "team", "web")
        setting.borrowers.put(ref, Borrower(ref, lender.ref))
    made = pod("web-5d-x", [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "controller": True}])
    made["metadata"]["labels"] = {"rollouts-pod-template-hash": "5d"}
    setting.api.pods = [made]
    async with setting.running():
        setting.write()
        await asyncio.sleep(3600)
    assert bool(setting.recorder.events) is not lends


async def test_changes_of_one_namespace_share_a_list() -> None:
    setting = Setting()
    setting.api.pods = [pod(f"of-s{number}", of=f"s{number}") for number in range(100)]
    async with setting.running():
        for number in range(100):
            setting.write(f"s{number}")
        await asyncio.sleep(3600)
    assert len(setting.api.lists()) == 100 / PAGE_SIZE
    assert len(setting.api.lists("/cronjobs")) == 1
    told = Counter(name.split()[0] for name, *_ in setting.recorder.events)
    assert told == {"Secret": 100, "Pod": 100}


async def test_secret_that_changes_all_the_time_is_listed_rarely() -> None:
    setting = Setting()
    setting.api.pods, setting.api.seconds = [pod("bare")], 2.0
    async with setting.running():
        for number in range(2000):
            setting.write(version=f"v{number + 2}")
            await asyncio.sleep(1)
    times = setting.api.lists("/cronjobs")
    pauses = [after - before for before, after in pairwise(times)]
    assert min(pauses) >= REST * 2 * setting.api.seconds > INTERVAL
    assert len(pauses) > 10


async def test_large_namespace_is_looked_at_in_part_and_the_event_says_so() -> None:
    setting = Setting()
    setting.api.pods = [pod(f"p{number}") for number in range(2 * MAX_PODS)]
    async with setting.running():
        setting.write()
        await asyncio.sleep(3600)
    assert len(setting.api.lists()) == MAX_PODS / PAGE_SIZE + 1
    assert {int(query["limit"]) for query in setting.api.queries} == {PAGE_SIZE}
    about_secret, *others = setting.recorder.events
    assert about_secret[3].endswith("; not all pods of this namespace were looked at")
    assert len(others) <= MAX_EVENTS


async def test_slow_list_is_ended_and_what_was_found_is_told() -> None:
    setting = Setting()
    setting.api.pods, setting.api.seconds = [pod(f"p{number}") for number in range(MAX_PODS)], 1.5
    async with setting.running():
        setting.write()
        await asyncio.sleep(600)
    assert len(setting.api.lists()) < 20
    assert setting.recorder.events[0][3].endswith("; not all pods of this namespace were looked at")


async def test_failure_is_logged_once_and_the_other_kind_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    setting.api.pods = [pod("bare")]
    refusal = ClusterRefused("the receiver's role forbids it")
    setting.api.refuse = lambda path: refusal if path.endswith("cronjobs") else None
    with caplog.at_level(logging.WARNING):
        async with setting.running():
            for number in range(10):
                setting.write(version=f"v{number + 2}")
                await asyncio.sleep(60)
    assert [record.message for record in caplog.records] == [
        "cronjobs could not be listed (ClusterRefused): readers that are not restarted may not be told"
    ]
    assert len(setting.api.lists("/pods")) == 10
    assert setting.recorder.events[1][0] == "Pod bare"


async def test_bug_in_one_report_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    setting.api.pods = [pod("bare")]

    def fail(path: str) -> None:
        raise ZeroDivisionError

    setting.api.refuse = fail
    async with setting.running():
        setting.write()
        await asyncio.sleep(60)
        setting.api.refuse = lambda path: None
        setting.write(version="v3")
        await asyncio.sleep(60)
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert len(setting.recorder.events) == 2


async def test_watch_that_is_late_is_waited_for() -> None:
    setting = Setting()
    setting.api.pods = [pod("bare")]
    setting.write(version="v2", shown=False)
    async with setting.running():
        await asyncio.sleep(DELAY + 2)
        assert setting.api.pages == []  # the Secret is not in the cache at all, so it is gone
        setting.write(version="v1")  # the watch shows v1, but not the newer v2, which is written next
        setting.write(version="v2", shown=False)
        await asyncio.sleep(DELAY + 2)
        assert setting.api.pages == []
        setting.write(version="v2")
        await asyncio.sleep(2 * INTERVAL)
    assert len(setting.api.lists()) == 1
    assert len(setting.recorder.events) == 2


async def test_watch_that_stays_late_is_not_waited_for_for_long() -> None:
    setting = Setting()
    setting.api.pods = [pod("bare")]
    setting.write(version="v1")
    setting.write(version="v2", shown=False)
    async with setting.running():
        await asyncio.sleep(10 * INTERVAL)
    assert len(setting.api.lists()) == 1


@pytest.mark.parametrize("where", ["chart", "Secret"])
async def test_reader_is_not_told_where_restarts_are_off(where: str) -> None:
    setting = Setting(Switch.DISABLED if where == "chart" else Switch.ENABLED)
    setting.api.pods = [pod("bare")]
    async with setting.running():
        setting.write(**({"keyturn.dev/rollout": "disabled"} if where == "Secret" else {}))
        await asyncio.sleep(60)
    assert len(setting.api.lists()) == 1
    assert setting.recorder.events == []
