"""Evictions: which pod is next, what each step waits for, and who evicts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster.workload_client import Workload
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.write_times import WriteTime
from keyturn_receiver.errors import ClusterRefused, ClusterUnavailable, Conflict, DisruptionNotAllowed, NotFound
from keyturn_receiver.reconcile.pod_evictor import (
    FINISH_SECONDS,
    MAX_BLOCKED_PER_NAMESPACE,
    MAX_RUNS,
    MAX_RUNS_PER_NAMESPACE,
    RECHECK,
    REFUSED_SECONDS,
    STEP_SECONDS,
    TOLD_AFTER,
    WAITS,
    PodEvictor,
)
from keyturn_receiver.reconcile.rollout_fights import RolloutFights

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
DB = Target("team", "db")
REF = WorkloadRef("Deployment", "team", "web")
READS = {"db": Reads(whole=True)}
WRITTEN = 1_000
RECORD = Record(revisions={"a": "v2"}, write_times={"a": WriteTime(WRITTEN)})


def consumer(ref: WorkloadRef = REF, **more: Any) -> Consumer:
    made = Consumer(ref, "1", READS, {"revision.keyturn.dev/db": "older"}, {}, Switch.UNSET, uid="uid", created=1)
    return replace(made, evicts=True, **more)


def pod(name: str, created: int = 1, is_ready: bool = True) -> Pod:
    return Pod(READS, created, name=name, uid=name, is_ready=is_ready)


class Cluster:
    """A workload and its pods, behind the ports of the clients. An evicted pod is replaced by a new one, which is Ready
    after ``slowness`` seconds."""

    def __init__(self, *pods: Pod, slowness: int = 0) -> None:
        self.consumer: Consumer | None = consumer()
        self.listed = list(pods)
        self.replicas = len(pods)
        self.slowness = slowness
        self.evicted: list[str] = []
        self.begun: list[WorkloadRef] = []
        self.marks: list[RolloutAnnotation] = []
        self.refusals: list[Exception] = []
        self.told: list[tuple[str, str]] = []
        self.leads = self.may_begin = True
        self.looks = 0
        self.done: list[tuple[str | None, int, int | None]] = []
        self.record: Record | None = RECORD
        self.released: list[tuple[WorkloadRef, Target]] = []

    async def inspect(self, ref: WorkloadRef, annotation: str) -> Workload:
        if self.consumer is None:
            raise NotFound("gone")
        return Workload(ref, "uid", self.consumer, self.replicas, "app=web", (), None)

    async def pods(self, workload: Workload) -> AsyncIterator[Pod]:
        self.looks += 1
        for each in list(self.listed):
            yield each

    async def evict(self, ref: WorkloadRef, pod: Pod) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.evicted.append(pod.name)
        self.listed.remove(pod)
        new = Pod(READS, WRITTEN + 10, name=f"new-{pod.name}", uid=f"new-{pod.name}", is_ready=False)
        self.listed.append(new)
        asyncio.get_running_loop().call_later(self.slowness, self._make_ready, new)

    def _make_ready(self, new: Pod) -> None:
        now = int(asyncio.get_running_loop().time())
        self.listed[self.listed.index(new)] = replace(new, is_ready=True, ready_at=now)

    async def mark(self, consumer: Consumer, mark: RolloutAnnotation) -> Consumer:
        self.marks.append(mark)
        self.consumer = replace(consumer, resource_version="2", baseline={mark.name: mark.value})
        return self.consumer

    async def read(self, ref: WorkloadRef) -> Consumer | None:
        return (await self.inspect(ref, "")).consumer

    async def read_record(self, target: Target) -> Record:
        assert target == DB
        if self.record is None:
            raise NotFound("gone")
        return self.record

    def on_done(self, target: Target, consumer: Consumer, pods: int, ready_at: int | None) -> None:
        assert target == DB
        self.done.append((consumer.baseline.get("revision.keyturn.dev/db"), pods, ready_at))

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str, kind: str) -> None:
        assert (target, uid, warning, kind) == (Target("team", "web"), "uid", True, "Deployment")
        self.told.append((reason, message))


def evictor(cluster: Any) -> PodEvictor:
    loop = asyncio.get_running_loop()
    made = PodEvictor(cluster, cluster, cluster, RolloutFights(loop.time), lambda: cluster.leads, loop.time)
    made.add_begun_handler(lambda consumer: cluster.begun.append(consumer.ref))
    made.add_done_handler(cluster.on_done)
    made.add_release_handler(lambda ref, target: cluster.released.append((ref, target)))
    return made


async def run(cluster: Cluster, seconds: float, permitted: bool = True) -> PodEvictor:
    made = evictor(cluster)
    assert made.start(DB, consumer(), lambda _: permitted, lambda _: None if cluster.may_begin else WaitReason.WINDOW)
    await asyncio.sleep(seconds)
    return made


async def test_old_pods_that_a_workload_has_adopted_go() -> None:
    """The workload is younger than the value and has no mark, because it was created again over its old pods."""
    cluster = Cluster(pod("old", 1), pod("new", WRITTEN + 5))
    cluster.consumer = consumer(baseline={}, created=WRITTEN + 2)
    await run(cluster, 100)
    assert cluster.evicted == ["old"]
    assert len(cluster.marks) == 1


async def test_first_eviction_that_was_held_back_asks_the_schedule_again() -> None:
    """Meanwhile another workload may have failed with the new value, or the window may be over."""
    cluster = Cluster(pod("a", 1), pod("b", 2))
    cluster.refusals = [DisruptionNotAllowed("not now")] * 3
    made = await run(cluster, 2)
    cluster.may_begin = False
    await asyncio.sleep(100)
    assert cluster.evicted == []
    assert cluster.released[-1] == (REF, DB)
    assert not made.is_busy(consumer())


async def test_evictions_that_have_begun_go_on_whatever_the_schedule_says() -> None:
    cluster = Cluster(pod("a", 1), pod("b", 2))
    await run(cluster, 1)
    assert cluster.evicted == ["a"]
    cluster.may_begin = False
    await asyncio.sleep(100)
    assert cluster.evicted == ["a", "b"]


async def test_pods_that_are_behind_go_one_by_one_and_the_workload_is_settled() -> None:
    cluster = Cluster(pod("c", 3), pod("a", 1), pod("b", 2), pod("new", WRITTEN + 5))
    made = await run(cluster, 100)
    assert cluster.evicted == ["a", "b", "c"]
    assert cluster.begun == [REF]
    (mark,) = cluster.marks
    assert not mark.restart
    assert not made.is_busy(consumer())
    assert cluster.told == []


async def test_next_pod_waits_until_the_replacement_of_the_former_is_ready() -> None:
    cluster = Cluster(pod("a", 1), pod("b", 2), slowness=40)
    await run(cluster, 30)
    assert cluster.evicted == ["a"]
    await asyncio.sleep(60)
    assert cluster.evicted == ["a", "b"]


async def test_pod_that_is_not_ready_goes_first_and_waits_for_nobody() -> None:
    """Otherwise a pod that crashes because of its old password would keep all pods from being replaced."""
    cluster = Cluster(pod("a", 1), pod("b", 2, is_ready=False), pod("c", 3, is_ready=False), slowness=1000)
    await run(cluster, 100)
    assert cluster.evicted == ["b", "c"]
    assert [reason for reason, _ in cluster.told][:1] == [WAITS]
    assert "fewer of its pods are Ready" in cluster.told[0][1]


async def test_budget_is_waited_for_and_told_after_a_minute() -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [DisruptionNotAllowed("budget")] * 8
    await run(cluster, TOLD_AFTER - 5)
    assert (cluster.evicted, cluster.told) == ([], [])
    await asyncio.sleep(200)
    assert cluster.evicted == ["a"]
    assert cluster.told
    assert {reason for reason, _ in cluster.told} == {WAITS}
    assert "PodDisruptionBudget" in cluster.told[0][1]


async def test_missing_right_is_told_with_the_value_to_set() -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [ClusterRefused("forbidden")]
    await run(cluster, 10)
    ((reason, message),) = cluster.told
    assert (reason, cluster.evicted) == ("ClusterRefused", [])
    assert "rollouts.evict: true" in message
    await asyncio.sleep(REFUSED_SECONDS)
    assert cluster.evicted == ["a"]


async def test_refused_evictions_take_no_slot_until_they_go_on() -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [ClusterRefused("forbidden")] * 2
    made = await run(cluster, 2)
    assert (made.takes_slot(REF), made.slots("team"), made.is_busy(consumer())) == (False, set(), True)
    assert (cluster.released, cluster.begun) == ([(REF, DB)], [])
    cluster.slowness = 1000
    await asyncio.sleep(2 * REFUSED_SECONDS)
    assert (cluster.evicted, cluster.begun) == (["a"], [REF])
    assert (made.takes_slot(REF), made.slots("team")) == (True, {REF})
    assert cluster.released == [(REF, DB)] * 2  # the second try had a slot, too


async def test_next_change_is_left_to_the_pacer() -> None:
    """The windows, the order and the halts of the next change may keep these pods from restarting now."""
    cluster = Cluster(pod("a", 1), pod("b", 2), slowness=5)
    made = await run(cluster, 2)
    assert cluster.evicted == ["a"]
    cluster.record = Record(revisions={"a": "v3"}, write_times={"a": WriteTime(WRITTEN + 20)})
    await asyncio.sleep(100)
    assert (cluster.evicted, cluster.marks, made.is_busy(consumer())) == (["a"], [], False)
    assert cluster.released == [(REF, DB)]


async def test_evictions_without_progress_take_no_slot_after_ten_minutes() -> None:
    cluster = Cluster(pod("a", 1), pod("b", 2), slowness=int(2 * FINISH_SECONDS))
    made = await run(cluster, FINISH_SECONDS - 60)
    assert (cluster.evicted, made.takes_slot(REF), made.is_blocked(consumer(), DB)) == (["a"], True, False)
    await asyncio.sleep(120)
    assert (made.takes_slot(REF), made.is_blocked(consumer(), DB), cluster.released) == (False, True, [(REF, DB)])
    cluster.slowness = 500
    await asyncio.sleep(FINISH_SECONDS + 30)
    assert (cluster.evicted, made.takes_slot(REF), made.is_blocked(consumer(), DB)) == (["a", "b"], True, False)


async def test_try_that_is_refused_wakes_those_who_wait_for_its_slot() -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [DisruptionNotAllowed("budget")] * 1000
    made = await run(cluster, FINISH_SECONDS + 60)
    assert made.is_blocked(consumer(), DB)
    cluster.released.clear()
    await asyncio.sleep(31)
    assert (cluster.released, made.takes_slot(REF)) == ([(REF, DB)], False)


async def test_value_that_returns_is_not_reported_as_done() -> None:
    """The pods that have replaced evicted ones run the other value."""
    former = Record(revisions={"a": "v1"}, write_times={"a": WriteTime(WRITTEN + 20)})
    cluster = Cluster(pod("a", 1), pod("b", 2), slowness=5)
    cluster.consumer = consumer(baseline={"revision.keyturn.dev/db": former.digest})
    made = await run(cluster, 2)
    assert cluster.evicted == ["a"]
    cluster.record = former
    await asyncio.sleep(30)
    assert (cluster.evicted, cluster.done, made.is_busy(consumer())) == (["a"], [], False)


async def test_refused_mark_is_told_with_its_own_reason() -> None:
    class Guarded(Cluster):
        async def mark(self, consumer: Consumer, mark: RolloutAnnotation) -> Consumer:
            raise ClusterRefused("admission webhook said no")

    cluster = Guarded(pod("a"))
    await run(cluster, 30)
    assert cluster.evicted == ["a"]
    assert set(cluster.told) == {("ClusterRefused", "Secret db: admission webhook said no")}


async def test_evictions_end_with_the_secret() -> None:
    cluster = Cluster(pod("a", 1), pod("b", 2), slowness=5)
    made = await run(cluster, 2)
    cluster.record = None
    await asyncio.sleep(30)
    assert (cluster.evicted, made.is_busy(consumer())) == (["a"], False)


async def test_workload_counts_as_being_replaced_until_its_new_pods_are_ready() -> None:
    cluster = Cluster(pod("a"), slowness=60)
    made = await run(cluster, 30)
    assert (cluster.evicted, len(cluster.marks)) == (["a"], 1)
    assert made.is_replacing(consumer(), DB)
    assert not made.is_replacing(consumer(), Target("team", "other"))
    await asyncio.sleep(60)
    assert not made.is_replacing(consumer(), DB)


@pytest.mark.parametrize("error", [Conflict("another pod"), NotFound("gone"), ClusterUnavailable("500")])
async def test_failed_eviction_is_tried_again_with_what_is_there_then(error: Exception) -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [error]
    await run(cluster, 4 * STEP_SECONDS)
    assert cluster.evicted == ["a"]


async def test_only_the_leader_evicts_and_asks_again_if_it_does_not_lead() -> None:
    cluster = Cluster(pod("a"), pod("b"))
    cluster.leads = False
    made = evictor(cluster)
    assert not made.start(DB, consumer(), lambda _: True, lambda _: None)
    assert made.delay(consumer()) == RECHECK
    assert made.delay(replace(consumer(), evicts=False)) == 0
    cluster.leads = True
    assert made.delay(consumer()) == 0
    assert made.start(DB, consumer(), lambda _: True, lambda _: None)
    await asyncio.sleep(STEP_SECONDS / 2)
    cluster.leads = False  # another replica takes over
    await asyncio.sleep(100)
    assert len(cluster.evicted) == 1
    assert not made.is_busy(consumer())


async def test_nobody_is_evicted_who_may_not_be_restarted_or_no_longer_asks_for_it() -> None:
    cluster = Cluster(pod("a"))
    await run(cluster, 10, permitted=False)
    cluster.consumer = replace(consumer(), evicts=False)
    await run(cluster, 10)
    cluster.consumer = None
    made = await run(cluster, 10)
    assert (cluster.evicted, cluster.marks) == ([], [])
    assert not made.is_busy(consumer())


async def test_each_namespace_has_a_share_of_the_evictions() -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [DisruptionNotAllowed("budget")] * 1000
    made = evictor(cluster)

    def start(namespace: str, number: int) -> bool:
        return made.start(
            DB, consumer(WorkloadRef("Deployment", namespace, f"web-{number}")), lambda _: True, lambda _: None
        )

    assert [start("team", number) for number in range(MAX_RUNS_PER_NAMESPACE + 1)] == [True] * 5 + [False]
    assert not start("team", 0)  # its evictions run already
    assert sum(start(f"team-{number}", 0) for number in range(MAX_RUNS)) == MAX_RUNS - MAX_RUNS_PER_NAMESPACE


async def test_evictions_that_do_not_go_on_leave_room_for_others() -> None:
    cluster = Cluster(pod("a"))
    cluster.refusals = [DisruptionNotAllowed("budget")] * 100_000
    cluster.event = lambda *_, **__: None  # type: ignore[method-assign]
    made = evictor(cluster)

    def start(number: int) -> bool:
        each = consumer(WorkloadRef("Deployment", "team", f"web-{number}"))
        return made.start(DB, each, lambda _: True, lambda _: None)

    begun = 0
    while start(begun):
        begun += 1
        if begun % MAX_RUNS_PER_NAMESPACE == 0:
            assert not start(begun)
            await asyncio.sleep(2 * FINISH_SECONDS)
    assert begun == MAX_BLOCKED_PER_NAMESPACE


async def test_end_is_told_once_the_last_replacement_is_ready_with_the_time_of_the_last_pod() -> None:
    cluster = Cluster(pod("a", 1), pod("b", 2), slowness=20)
    begun = int(asyncio.get_running_loop().time())
    made = await run(cluster, 40)
    assert cluster.evicted == ["a", "b"]
    assert (cluster.done, len(cluster.marks)) == ([], 1)  # the workload is settled, but its last pod is not Ready yet
    await asyncio.sleep(60)
    ((mark, pods, ready_at),) = cluster.done
    assert (mark, pods) == (cluster.marks[0].value, 2)
    assert ready_at is not None
    assert 40 <= ready_at - begun <= 60
    assert not made.is_busy(consumer())


async def test_replacement_that_does_not_get_ready_is_told_and_makes_room_for_others() -> None:
    cluster = Cluster(pod("a"), slowness=10_000)
    made = await run(cluster, FINISH_SECONDS / 2)
    assert made.is_busy(consumer())
    assert {reason for reason, _ in cluster.told} == {WAITS}
    assert "with an old value are evicted, and fewer of the others are Ready" in cluster.told[0][1]
    await asyncio.sleep(FINISH_SECONDS)
    assert not made.is_busy(consumer())
    assert cluster.done == []


async def test_end_is_told_of_pods_that_a_former_leader_has_evicted_and_not_of_a_new_workload() -> None:
    cluster = Cluster(replace(pod("new", WRITTEN + 100), ready_at=WRITTEN + 102))
    await run(cluster, 30)
    assert (cluster.evicted, len(cluster.marks)) == ([], 1)
    assert cluster.done == [(cluster.marks[0].value, 1, WRITTEN + 102)]

    cluster = Cluster(pod("new", WRITTEN + 100))
    cluster.consumer = replace(consumer(), baseline={})
    await run(cluster, 30)
    assert (cluster.evicted, cluster.done, len(cluster.marks)) == ([], [], 1)


async def test_pod_that_replaces_an_evicted_one_is_new_although_no_time_of_the_write_is_known() -> None:
    """A Secret may have keys from release 0.2, which recorded no times. Then every pod without the mark seems to be
    behind, and the new pods of evictions have none."""
    cluster = Cluster(pod("a", 1), pod("b", 2))
    cluster.record = Record(revisions={"a": "v2", "b": "v1"})
    made = await run(cluster, 100)
    assert cluster.evicted == ["a", "b"]
    assert len(cluster.marks) == 1
    assert not made.is_busy(consumer())


async def test_loosened_budget_lets_no_more_workloads_evict_at_once_than_otherwise() -> None:
    """Each of many workloads has been held back for ten minutes, and has given its slot back."""

    class Team(Cluster):
        is_frozen = True

        async def inspect(self, ref: WorkloadRef, annotation: str) -> Workload:
            known = self.consumers.setdefault(ref, consumer(ref))
            return Workload(ref, "uid", known, 1, "app=web", (), None)

        async def pods(self, workload: Workload) -> AsyncIterator[Pod]:
            is_new = workload.ref.name in self.evicted
            yield pod("new", WRITTEN + 10) if is_new else pod("old")

        async def evict(self, ref: WorkloadRef, pod: Pod) -> None:
            await asyncio.sleep(0.1)
            if self.is_frozen:
                raise DisruptionNotAllowed("budget")
            self.evicted.append(ref.name)

        async def mark(self, consumer: Consumer, mark: RolloutAnnotation) -> Consumer:
            await asyncio.sleep(5)
            self.consumers[consumer.ref] = replace(consumer, baseline={mark.name: mark.value})
            return self.consumers[consumer.ref]

        def event(self, *_: Any, **__: Any) -> None:
            pass

        def on_done(self, *_: Any) -> None:
            pass

    cluster = Team()
    cluster.consumers = {}
    made = evictor(cluster)
    names = [f"web-{number}" for number in range(4 * MAX_RUNS_PER_NAMESPACE)]
    for number, name in enumerate(names):
        ref = WorkloadRef("Deployment", "team", name)
        assert made.start(DB, consumer(ref), lambda _: True, lambda _: None)
        if number % MAX_RUNS_PER_NAMESPACE == MAX_RUNS_PER_NAMESPACE - 1:
            await asyncio.sleep(2 * FINISH_SECONDS)
    assert made.slots("team") == set()
    cluster.is_frozen = False
    most = 0
    for _ in range(600):
        await asyncio.sleep(1)
        most = max(most, len(made.slots("team")))
    assert sorted(cluster.evicted) == sorted(names)
    assert 1 <= most <= MAX_RUNS_PER_NAMESPACE
