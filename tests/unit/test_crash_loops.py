"""Detector of crash loops: when pods are read, and what the pacer makes of the result, on the leader and on other
replicas."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import RESUME, Target, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.crash_loop import as_failed
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_halt import change_of, halt_of
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.errors import ClusterRefused, ClusterUnavailable, KeyturnError
from keyturn_receiver.reconcile.crash_loops import CHECK_SECONDS, LOOK_BACKOFF, MAX_ROLLOUTS, QUIET_SECONDS, CrashLoops
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
DB, MARK = Target("team", "db"), mark_name("db")
RECORD = Record(revisions={"password": "v2"}, version_ids={"arn#AWSCURRENT": "v2"})
CRASH, NOTHING = "CrashLoopBackOff", ""
START = 1_800_000_000  # seconds since 1970
MINUTE = 60.0


def wall() -> float:
    return START + time.monotonic()


class Replica:
    """One receiver: its caches, its detector and its pacer. ``answer`` is what a look at the pods finds. ``looks`` are
    the times of the looks, in seconds since the mark."""

    def __init__(self, leads: bool = True, limits: PaceLimits | None = None, began: float = 0.0) -> None:
        self.leads, self.answer = leads, NOTHING
        self.error: KeyturnError | None = None
        self.looks: list[float] = []
        self.known: list[bool] = []
        self.notified: list[Target] = []
        self.index = ConsumerIndex()
        self.index.add_handler(self.notified.append)
        ports: Any = self
        evictor = PodEvictor(ports, ports, ports, RolloutFights(), lambda: self.leads)
        self.crashes = CrashLoops(self.index, ports, lambda: self.leads, wall)
        self.index.add_progress_handler(self.crashes.on_progress)
        self.pacer = RolloutPacer(
            self.index,
            NamespaceCache(),
            RolloutFights(),
            evictor,
            limits or PaceLimits(),
            lambda: self.leads,
            wall,
        )
        self.pacer.set_crash_loops(self.crashes)
        self.marked_at = int(wall() - began)
        self.web = self.consumer("web", RECORD.digest)
        self.show(self.web)
        self.show(self.consumer("later", "older"))
        self.task = asyncio.create_task(self.crashes.run())

    def consumer(self, name: str, mark: str) -> Consumer:
        state = RolloutState.UNFINISHED if mark == RECORD.digest else RolloutState.COMPLETE
        progress = RolloutProgress(state, 2, 0, 2, marked_at=self.marked_at)
        ref, reads = WorkloadRef("Deployment", "team", name), {"db": Reads(whole=True)}
        return Consumer(ref, "1", reads, {}, {MARK: mark}, Switch.UNSET, created=1, uid=name, progress=progress)

    def show(self, after: Consumer) -> None:
        """Show a workload, as its watch does."""
        before = self.index.get(after.ref, DB)
        if before:
            self.index.discard(before)
        self.index.add(after)
        self.index.report_progress(before, after)

    def progress(self, **fields: Any) -> None:
        """Show the workload that was restarted, with other progress."""
        assert self.web.progress
        self.web = replace(self.web, progress=replace(self.web.progress, **fields))
        self.show(self.web)

    async def crash_reason(self, consumer: Consumer, now: float, is_known: bool) -> str | None:
        self.looks.append(now - self.marked_at)
        self.known.append(is_known)
        if self.error:
            raise self.error
        return self.answer

    def turn(self, record: Record = RECORD, **annotations: str) -> Turn:
        return self.pacer.turn(DB, read_spec(annotations), self.index.of(DB), record)

    def started(self, record: Record = RECORD) -> list[str]:
        return [each.ref.name for each in self.turn(record).start]


@pytest.fixture
async def made() -> AsyncIterator[list[Replica]]:
    replicas: list[Replica] = []
    yield replicas
    for each in replicas:
        each.task.cancel()


def new(made: list[Replica], **arguments: Any) -> Replica:
    made.append(Replica(**arguments))
    return made[-1]


def told() -> Record:
    """Return the record of a Secret whose status says that the new pods of `web` crash."""
    progress = RolloutProgress(RolloutState.UNFINISHED)
    web = Consumer(WorkloadRef("Deployment", "team", "web"), "1", {}, {}, {}, Switch.UNSET, progress=progress)
    return replace(RECORD, notice=halt_of(as_failed(web, CRASH, 0), DB, RECORD))


async def test_new_pods_that_crash_halt_the_others_within_half_a_minute(made: list[Replica]) -> None:
    replica = new(made)
    replica.answer = CRASH
    assert replica.started() == ["later"]
    await asyncio.sleep(QUIET_SECONDS + 2 * CHECK_SECONDS)
    assert replica.known == [False]
    assert replica.notified == [DB]
    turn = replica.turn()
    assert not turn.start
    assert turn.halted_by
    assert turn.halt == told().notice
    assert "Deployment web has failed (CrashLoopBackOff)" in turn.halt
    assert replica.pacer.halted() == 1
    assert replica.pacer.judged(replica.web).progress != replica.web.progress


async def test_rollout_that_makes_progress_is_not_looked_at(made: list[Replica]) -> None:
    replica = new(made)
    for ready in range(3, 10):
        await asyncio.sleep(QUIET_SECONDS - CHECK_SECONDS)
        replica.progress(ready=ready)
    assert replica.looks == []
    replica.progress(state=RolloutState.COMPLETE)
    await asyncio.sleep(10 * MINUTE)
    assert replica.looks == []
    assert replica.started() == ["later"]


async def test_looks_become_rarer_and_end_with_the_rollout(made: list[Replica]) -> None:
    replica = new(made)
    await asyncio.sleep(30 * MINUTE)
    pauses = [after - before for before, after in zip(replica.looks, replica.looks[1:], strict=False)]
    assert pauses[0] < 30
    assert all(0 <= each - LOOK_BACKOFF.delay(number) <= 2 * CHECK_SECONDS for number, each in enumerate(pauses, 1))
    assert len(replica.looks) < 15
    assert replica.started() == ["later"]  # the rollout is slow, but its pods do not crash
    count = len(replica.looks)
    replica.progress(state=RolloutState.FAILED, reason="ProgressDeadlineExceeded")
    await asyncio.sleep(30 * MINUTE)
    assert len(replica.looks) == count
    assert "ProgressDeadlineExceeded" in replica.turn().halt


async def test_later_look_that_finds_no_crash_keeps_the_halt_until_the_rollout_is_complete(made: list[Replica]) -> None:
    replica = new(made)
    replica.answer = CRASH
    await asyncio.sleep(MINUTE)
    assert replica.turn().halted_by
    replica.answer = NOTHING
    await asyncio.sleep(5 * MINUTE)
    assert replica.pacer.judged(replica.web) is replica.web
    assert replica.started() == []
    assert replica.turn(told()).halt == told().halt
    replica.progress(state=RolloutState.COMPLETE)
    assert replica.started() == ["later"]
    assert replica.turn(told()).halt == ""


async def test_rollout_that_becomes_complete_resumes_at_once(made: list[Replica]) -> None:
    replica = new(made)
    replica.answer = CRASH
    await asyncio.sleep(MINUTE)
    replica.progress(state=RolloutState.COMPLETE)
    assert replica.started() == ["later"]


async def test_progress_of_a_crashing_rollout_makes_the_next_look_earlier(made: list[Replica]) -> None:
    replica = new(made)
    replica.answer = CRASH
    await asyncio.sleep(6 * MINUTE)
    count = len(replica.looks)
    replica.progress(updated=2)
    assert replica.turn().halted_by
    replica.answer = NOTHING
    await asyncio.sleep(2 * CHECK_SECONDS)
    assert len(replica.looks) == count + 1
    assert replica.pacer.judged(replica.web) is replica.web


async def test_next_change_of_the_secret_is_not_halted(made: list[Replica]) -> None:
    replica = new(made)
    replica.answer = CRASH
    await asyncio.sleep(MINUTE)
    newer = replace(RECORD, revisions={"password": "v3"})
    assert sorted(replica.started(newer)) == ["later", "web"]
    assert replica.turn(newer).halt == ""


async def test_halt_ends_by_hand_though_the_pace_is_one(made: list[Replica]) -> None:
    """A workload whose pods crash takes no slot, because its rollout may never end."""
    limits = PaceLimits(per_secret=1, per_namespace=1, per_cluster=1)
    replica = new(made, limits=limits)
    replica.answer = CRASH
    await asyncio.sleep(MINUTE)
    assert replica.turn().halted_by
    turn = replica.turn(told(), **{RESUME: change_of(RECORD)})
    assert [each.ref.name for each in turn.start] == ["later"]
    assert turn.halt == ""


async def test_new_leader_starts_nobody_until_it_has_looked(made: list[Replica]) -> None:
    """A replica that starts during the rollout knows only the time of the mark. So its first look also counts a
    restarted container that happens to run at that time, as if a crash loop were known already."""
    replica = new(made, began=MINUTE)
    replica.answer = CRASH
    assert replica.started() == []
    assert replica.turn().halt == ""
    assert replica.turn(told()).halt == told().notice
    await asyncio.sleep(1)
    assert replica.known == [True]
    assert replica.turn().halt == told().notice


async def test_new_leader_whose_look_finds_no_crash_goes_on_unless_the_status_tells_of_a_halt(
    made: list[Replica],
) -> None:
    replica = new(made, began=MINUTE)
    assert replica.started() == []
    await asyncio.sleep(1)
    assert replica.notified == [DB]
    assert replica.started() == ["later"]
    assert replica.started(told()) == []
    replica.progress(state=RolloutState.COMPLETE)
    assert replica.started(told()) == ["later"]


async def test_other_replica_reads_no_pods_and_starts_nobody_while_a_rollout_is_quiet(made: list[Replica]) -> None:
    replica = new(made, leads=False)
    assert replica.started() == ["later"]
    await asyncio.sleep(QUIET_SECONDS)
    assert replica.started() == []
    assert replica.turn(told()).halt == told().notice
    replica.progress(ready=3)
    assert replica.started() == []
    await asyncio.sleep(10 * MINUTE)
    assert replica.looks == []
    assert [each.ref.name for each in replica.turn(**{RESUME: change_of(RECORD)}).start] == ["later"]
    replica.progress(state=RolloutState.COMPLETE)
    assert replica.started() == ["later"]


async def test_replica_that_becomes_the_leader_looks_at_once(made: list[Replica]) -> None:
    replica = new(made, leads=False)
    replica.answer = CRASH
    await asyncio.sleep(5 * MINUTE)
    replica.leads = True
    replica.crashes.on_started_leading()
    assert replica.started() == []
    await asyncio.sleep(1)
    assert replica.turn().halted_by
    replica.leads = False
    assert replica.pacer.judged(replica.web) is replica.web
    replica.leads = True
    replica.answer = NOTHING
    replica.crashes.on_started_leading()
    assert replica.started() == []
    await asyncio.sleep(1)
    assert replica.pacer.judged(replica.web) is replica.web


async def test_leader_that_could_not_renew_its_lease_still_knows_that_there_was_no_crash_loop(
    made: list[Replica],
) -> None:
    """Otherwise pods that crashed while they waited for another service, and now start, would count as failed."""
    replica = new(made, began=MINUTE)
    await asyncio.sleep(1)
    assert replica.started() == ["later"]
    replica.leads = False
    await asyncio.sleep(15)
    replica.leads, replica.known[:] = True, []
    replica.crashes.on_started_leading()
    await asyncio.sleep(1)
    assert replica.known == [False]


async def test_failed_look_is_repeated_and_changes_nothing(made: list[Replica]) -> None:
    replica = new(made, began=MINUTE)
    replica.error = ClusterUnavailable("gone")
    await asyncio.sleep(1)
    assert replica.looks
    assert replica.started() == []
    replica.error, replica.answer = None, CRASH
    await asyncio.sleep(MINUTE)
    assert replica.turn().halted_by
    replica.error = ClusterUnavailable("gone")
    await asyncio.sleep(10 * MINUTE)
    assert replica.turn().halted_by


async def test_receiver_that_may_not_read_pods_leaves_it_to_the_deadline(made: list[Replica]) -> None:
    replica = new(made)
    replica.error = ClusterRefused("forbidden")
    await asyncio.sleep(MINUTE)
    assert replica.started() == ["later"]


async def test_workload_that_is_gone_is_forgotten(made: list[Replica]) -> None:
    replica = new(made)
    replica.index.discard(replica.web)
    await asyncio.sleep(10 * MINUTE)
    assert replica.looks == []


async def test_many_rollouts_are_bounded(made: list[Replica]) -> None:
    replica = new(made, began=MINUTE)
    consumers = [replica.consumer(f"w{number}", RECORD.digest) for number in range(MAX_ROLLOUTS + 10)]
    for consumer in consumers:
        replica.crashes.on_progress(None, consumer)
    assert sum(map(replica.crashes.is_unsure, consumers)) == MAX_ROLLOUTS
