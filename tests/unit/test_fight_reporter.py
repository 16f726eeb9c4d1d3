"""Reports of fights: once, by the leader, on the workload, and with the writer that owns the annotation then."""

import asyncio
from typing import Any

import pytest

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.errors import ClusterUnavailable
from keyturn_receiver.reconcile.fight_reporter import MAX_REPORTS, READ_AFTER, REASON, FightReporter
from keyturn_receiver.reconcile.rollout_fights import FIGHT_BACKOFF, Fight
from keyturn_receiver.telemetry.metrics import Metrics

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
MARK = "revision.keyturn.dev/db"
REF = WorkloadRef("Deployment", "team", "web")
FIGHT = Fight(Consumer(REF, "1", {}, {}, {}, switch=Switch.UNSET, uid="uid"), MARK, removed=False)


class Workloads:
    """The client of workloads, which reads who the other writer is now."""

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

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str) -> None:
        self.told.append((target, uid, warning, reason, kind, message))


def reporter(workloads: Any, events: Any, leads: bool = True) -> FightReporter:
    return FightReporter(workloads, events, Metrics(), lambda: leads)


async def test_writer_that_answers_later_is_named() -> None:
    workloads, events = Workloads(), Events()
    reporter(workloads, events).on_fight(FIGHT)
    await asyncio.sleep(2)
    workloads.writer = "argocd-controller"  # it reverts the annotation only now
    await asyncio.sleep(READ_AFTER)
    ((target, uid, warning, reason, kind, message),) = events.told
    assert (target, uid, warning, reason, kind) == (Target("team", "web"), "uid", True, REASON, "Deployment")
    assert '"argocd-controller"' in message
    assert FIGHT_BACKOFF.base > READ_AFTER  # our next write would take the annotation back


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


async def test_reports_that_are_made_at_the_same_time_are_bounded() -> None:
    events = Events()
    made = reporter(Workloads(), events)
    for _ in range(3 * MAX_REPORTS):
        made.on_fight(FIGHT)
    await asyncio.sleep(READ_AFTER + 1)
    assert len(events.told) == MAX_REPORTS
