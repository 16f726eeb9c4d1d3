"""Reports of fights: the leader reports each fight once, on the workload, and names the writer that owns the annotation
when the report is made."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_lookup import SecretLookup
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.revision import REVERTED
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.errors import ClusterUnavailable
from keyturn_receiver.reconcile.fight_reporter import (
    MAX_REPORTS,
    MAX_REPORTS_PER_NAMESPACE,
    READ_AFTER,
    FightReporter,
)
from keyturn_receiver.reconcile.rollout_fights import FIGHT_BACKOFF, Fight
from keyturn_receiver.telemetry.metrics import Metrics
from support.bindings import KEYED, bound_object

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
MARK = "revision.keyturn.dev/db"
REF = WorkloadRef("Deployment", "team", "web")
NO_SECRETS = SecretLookup(SecretCache(KEYED), WatchedCache(KEYED))
WATCHED = {
    "metadata": {
        "namespace": "team",
        "name": "db",
        "uid": "uid-db",
        "resourceVersion": "1",
        "labels": {"keyturn.dev/watch": "true"},
    },
    "data": {"a": "MQ=="},
}
FIGHT = Fight(Consumer(REF, "1", {}, {}, {}, switch=Switch.UNSET, uid="uid"), MARK, removed=False)


class Workloads:
    """A fake client of workloads. ``writer`` is the other writer at present."""

    def __init__(self) -> None:
        self.writer: str | None = None
        self.fails = False

    async def other_writer(self, ref: WorkloadRef, annotation: str, removed: bool) -> str | None:
        assert (ref, annotation, removed) == (REF, MARK, False)
        if self.fails:
            raise ClusterUnavailable("gone")
        return self.writer


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str = "Secret") -> None:
        self.told.append((target, uid, warning, reason, kind, message))


def reporter(workloads: Any, events: Any, leads: bool = True) -> FightReporter:
    return FightReporter(workloads, NO_SECRETS, events, Metrics(), lambda: leads)


async def test_writer_that_answers_later_is_named() -> None:
    workloads, events = Workloads(), Events()
    reporter(workloads, events).on_fight(FIGHT)
    await asyncio.sleep(2)
    workloads.writer = "argocd-controller"  # it reverts the annotation only now
    await asyncio.sleep(READ_AFTER)
    ((target, uid, warning, reason, kind, message),) = events.told
    assert (target, uid, warning, reason, kind) == (Target("team", "web"), "uid", True, REVERTED, "Deployment")
    assert '"argocd-controller"' in message
    assert FIGHT_BACKOFF.base > READ_AFTER  # otherwise Keyturn's next write would take the annotation back first


@pytest.mark.parametrize("is_watched", [False, True])
async def test_fight_is_told_on_a_secret_of_each_sort(is_watched: bool) -> None:
    bound, watched = SecretCache(KEYED), WatchedCache(KEYED)
    if is_watched:
        watched.update(watched.transform(WATCHED))
    else:
        bound.update(bound.transform(bound_object("db", "v1")))
    workloads: Any = Workloads()
    events: Any = Events()
    made = FightReporter(workloads, SecretLookup(bound, watched), events, Metrics(), lambda: True)
    consumer = replace(FIGHT.consumer, reads={"db": Reads(whole=True), "other": Reads(whole=True)})
    made.on_fight(replace(FIGHT, consumer=consumer))
    await asyncio.sleep(READ_AFTER + 1)
    assert [(told[0].name, told[1], told[4]) for told in events.told] == [
        ("web", "uid", "Deployment"),
        ("db", "uid-db", "Secret"),
    ]


async def test_workload_that_cannot_be_read_is_reported_without_a_writer() -> None:
    workloads, events = Workloads(), Events()
    workloads.fails = True
    reporter(workloads, events).on_fight(FIGHT)
    await asyncio.sleep(READ_AFTER + 1)
    assert len(events.told) == 1


async def test_replica_that_does_not_lead_leaves_the_report_to_the_leader() -> None:
    events = Events()
    reporter(Workloads(), events, leads=False).on_fight(FIGHT)
    await asyncio.sleep(READ_AFTER + 1)
    assert events.told == []


def fights(namespace: str, workloads: int, marks: int = 1) -> list[Fight]:
    refs = [WorkloadRef("Deployment", namespace, f"web-{number}") for number in range(workloads)]
    consumers = [Consumer(ref, "1", {}, {}, {}, switch=Switch.UNSET, uid="uid") for ref in refs]
    return [Fight(each, f"{MARK}-{number}", removed=False) for each in consumers for number in range(marks)]


class AnyWorkloads:
    async def other_writer(self, ref: WorkloadRef, annotation: str, removed: bool) -> str | None:
        return None


async def test_fights_about_all_marks_of_a_workload_are_one_report(caplog: pytest.LogCaptureFixture) -> None:
    events, metrics = Events(), Metrics()
    workloads: Any = AnyWorkloads()
    recorder: Any = events
    made = FightReporter(workloads, NO_SECRETS, recorder, metrics, lambda: True)
    for fight in fights("team", workloads=2, marks=100):
        made.on_fight(fight)
    await asyncio.sleep(READ_AFTER + 1)
    assert (len(events.told), len(caplog.messages)) == (2, 2)
    assert metrics.registry.get_sample_value("keyturn_rollout_fights_total", {"kind": "Deployment"}) == 200
    made.on_fight(fights("team", workloads=1)[0])  # a later fight is told again
    await asyncio.sleep(READ_AFTER + 1)
    assert len(events.told) == 3


async def test_fights_of_one_namespace_drop_no_report_of_another() -> None:
    events = Events()
    made = reporter(AnyWorkloads(), events)
    namespaces = MAX_REPORTS // MAX_REPORTS_PER_NAMESPACE
    for number in range(namespaces):
        for fight in fights(f"hostile-{number}", workloads=3 * MAX_REPORTS_PER_NAMESPACE):
            made.on_fight(fight)
    made.on_fight(fights("team", workloads=1)[0])
    await asyncio.sleep(READ_AFTER + 1)
    told = Counter(target.namespace for target, *_ in events.told)
    assert told.total() == MAX_REPORTS
    assert told["team"] == 1
    assert sorted(told.values())[1:] == [MAX_REPORTS_PER_NAMESPACE - 1] + (namespaces - 1) * [MAX_REPORTS_PER_NAMESPACE]
