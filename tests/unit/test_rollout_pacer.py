"""Rollout pacer: which rollouts and evictions take a slot of the pace, and who holds the order."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import RESUME, Target, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import rollout
from keyturn_receiver.core.rollout_halt import change_of
from keyturn_receiver.core.rollout_hold import PAUSED
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_schedule import WaitReason
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.rollout_turn import Turn
from keyturn_receiver.core.write_times import WriteTime
from keyturn_receiver.errors import ClusterRefused, NotFound
from keyturn_receiver.reconcile.pod_evictor import RECHECK, PodEvictor
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
DB, MARK = Target("team", "db"), "revision.keyturn.dev/db"
MARKED_AT = 1000
RECORD = Record(revisions={"a": "v2"}, write_times={"a": WriteTime(MARKED_AT)})
COMPLETE = RolloutProgress(RolloutState.COMPLETE, 1, 1, 1)
UNFINISHED = RolloutProgress(RolloutState.UNFINISHED, 1, 1, 0, marked_at=MARKED_AT, deadline=600)
AFTER_DEADLINE = MARKED_AT + 601.0


def consumer(name: str, kind: str = "Deployment", mark: str = "older", **more: Any) -> Consumer:
    made = Consumer(
        WorkloadRef(kind, "team", name), "1", {"db": Reads(whole=True)}, {}, {MARK: mark}, Switch.UNSET, uid=name
    )
    return replace(made, created=1, **{"progress": COMPLETE, **more})


class Ports:
    """The ports of the evictor. Each look at the pods of a workload waits until ``answer`` is set, and raises the error
    in it."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def inspect(self, ref: WorkloadRef, annotation: str) -> Any:
        raise await asyncio.shield(self.answer)

    async def read(self, ref: WorkloadRef) -> None:
        return None

    def event(self, *_: object, **__: object) -> None:
        pass


class Replica:
    """A pacer of a replica that leads, with its evictor and the consumers of one Secret."""

    def __init__(self, *consumers: Consumer, now: float = MARKED_AT + 1.0, limits: PaceLimits | None = None) -> None:
        self.consumers = consumers
        self.ports = Ports()
        ports: Any = self.ports
        self.index = ConsumerIndex()
        self.woken: list[Target] = []
        self.index.add_handler(self.woken.append)
        for each in consumers:
            self.index.add(each)
        self.fights = fights = RolloutFights()
        self.evictor = PodEvictor(ports, ports, ports, fights, lambda: True)
        self.leads = True
        self.now = now
        self.pacer = RolloutPacer(
            self.index,
            NamespaceCache(),
            fights,
            self.evictor,
            limits or PaceLimits(),
            lambda: self.leads,
            lambda: self.now,
        )

    def turn(self, **settings: str) -> Turn:
        return self.pacer.turn(DB, read_spec(settings), self.consumers, RECORD)

    def evict(self, each: Consumer) -> None:
        assert self.evictor.start(DB, each, lambda _: True, lambda _: None)


def started(turn: Turn) -> list[str]:
    return [each.ref.name for each in turn.start]


def waits(turn: Turn) -> Mapping[str, WaitReason]:
    return {each.ref.name: wait.reason for each, wait in turn.waits}


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
@pytest.mark.parametrize(
    "limits", [PaceLimits(1), PaceLimits(10, 1), PaceLimits(10, None, 1)], ids=["secret", "namespace", "cluster"]
)
async def test_rollout_whose_deadline_is_over_takes_no_slot(kind: str, limits: PaceLimits) -> None:
    """The controllers of these kinds do not report a failed rollout, so it would take its slot for ever."""
    stuck = consumer("stuck", kind, RECORD.digest, progress=UNFINISHED)
    replica = Replica(stuck, consumer("web"), now=AFTER_DEADLINE - 2, limits=limits)
    assert waits(replica.turn()) == {"web": WaitReason.PACE}
    replica.now = AFTER_DEADLINE
    assert waits(replica.turn()) == {"web": WaitReason.HALT}
    assert started(replica.turn(**{RESUME: change_of(RECORD)})) == ["web"]


async def test_remedy_reaches_those_behind_a_stuck_rollout_when_its_deadline_is_over() -> None:
    """The stuck workload is due again, too, and it comes last in the order. Until its turn, its unfinished rollout must
    not hold the only slot beyond its deadline."""
    first, stuck = consumer("first", order=1), consumer("stuck", "StatefulSet", order=2, progress=UNFINISHED)
    replica = Replica(first, stuck, limits=PaceLimits(1))
    assert waits(replica.turn()) == {"first": WaitReason.PACE, "stuck": WaitReason.ORDER}
    assert replica.pacer.look_again_in(DB) == 599  # seconds until the deadline
    replica.now = AFTER_DEADLINE
    assert started(replica.turn()) == ["first"]


@pytest.mark.parametrize("limits", [PaceLimits(1), PaceLimits(10, 1), PaceLimits(10, None, 1)])
async def test_running_evictions_take_a_slot(limits: PaceLimits) -> None:
    evicted, other = consumer("evicted", evicts=True), consumer("other", evicts=True)
    replica = Replica(evicted, other, limits=limits)
    replica.evict(evicted)
    assert waits(replica.turn()) == {"evicted": WaitReason.BACKOFF, "other": WaitReason.PACE}


async def test_refused_evictions_take_no_slot_and_wake_those_that_wait_for_it() -> None:
    evicted, other = consumer("evicted", evicts=True), consumer("other")
    replica = Replica(evicted, other, limits=PaceLimits(1))
    replica.evict(evicted)
    assert waits(replica.turn())["other"] is WaitReason.PACE
    replica.ports.answer.set_result(ClusterRefused("forbidden"))
    await asyncio.sleep(1)
    assert replica.woken == [DB]
    assert started(replica.turn()) == ["other"]


async def test_evictions_that_do_not_go_on_hold_no_order() -> None:
    evicted = consumer("evicted", evicts=True, order=1)
    replica = Replica(evicted, consumer("later"))
    replica.evict(evicted)
    assert waits(replica.turn())["later"] is WaitReason.ORDER
    replica.ports.answer.set_result(ClusterRefused("forbidden"))
    await asyncio.sleep(1)
    assert started(replica.turn()) == ["later"]


async def test_end_of_evictions_wakes_each_secret_that_the_workload_reads() -> None:
    evicted = consumer("evicted", evicts=True, reads={"db": Reads(whole=True), "cache": Reads(whole=True)})
    replica = Replica(evicted, consumer("web"), limits=PaceLimits(1))
    cache = Target("team", "cache")
    assert replica.evictor.start(cache, evicted, lambda _: True, lambda _: None)
    assert waits(replica.turn())["web"] is WaitReason.PACE
    replica.ports.answer.set_result(NotFound("gone"))
    await asyncio.sleep(1)
    assert set(replica.woken) == {DB, cache}


async def test_slot_of_a_workload_that_is_not_up_for_this_change_is_looked_at_when_its_deadline_is_over() -> None:
    """Nothing in the cluster changes at that time, so no event leads to a look."""
    other = consumer("other", "StatefulSet", "mark of another release", progress=UNFINISHED)
    replica = Replica(other, consumer("web"), limits=PaceLimits(1))
    turn = replica.pacer.turn(DB, read_spec({}), [replica.consumers[1]], RECORD)  # `other` may not be restarted
    assert waits(turn) == {"web": WaitReason.PACE}
    assert replica.pacer.look_again_in(DB) == 599


async def test_rollout_that_is_seen_to_have_ended_wakes_those_behind_it() -> None:
    """While a watch is interrupted, a rollout may become complete and one of its pods may fail."""
    before = consumer("first", mark=RECORD.digest, progress=UNFINISHED, order=1)
    replica = Replica(before, consumer("later"))
    assert waits(replica.turn()) == {"later": WaitReason.ORDER}
    replica.pacer.on_progress(before, replace(before, progress=replace(UNFINISHED, has_ended=True)))
    assert replica.woken == [DB]


async def test_blocked_evictions_for_one_secret_leave_the_workload_due_for_another() -> None:
    evicted = consumer("evicted", evicts=True, reads={"db": Reads(whole=True), "cache": Reads(whole=True)})
    replica = Replica(evicted)
    assert replica.evictor.start(Target("team", "cache"), evicted, lambda _: True, lambda _: None)
    replica.ports.answer.set_result(ClusterRefused("forbidden"))
    await asyncio.sleep(1)
    assert waits(replica.turn()) == {"evicted": WaitReason.BACKOFF}
    assert replica.pacer.look_again_in(DB) == RECHECK


async def test_order_waits_until_evicted_pods_are_replaced() -> None:
    """The mark of a workload whose pods are evicted is written when no pod is behind, before the new pods are Ready."""
    first = consumer("first", evicts=True, order=1, marks={}, baseline={MARK: RECORD.digest})
    replica = Replica(first, consumer("later"))
    replica.evict(first)
    assert waits(replica.turn()) == {"later": WaitReason.ORDER}
    replica.ports.answer.set_result(NotFound("gone"))
    await asyncio.sleep(1)
    assert replica.woken == [DB]
    assert started(replica.turn()) == ["later"]


async def test_eviction_that_was_blocked_needs_a_slot_again() -> None:
    evicted = consumer("evicted", evicts=True)
    unfinished = consumer("unfinished", mark=RECORD.digest, progress=UNFINISHED)
    replica = Replica(evicted, unfinished, limits=PaceLimits(1))
    replica.evict(evicted)
    spec = read_spec({})
    assert replica.pacer.held_up_by(DB, spec, replica.consumers, RECORD, evicted.ref) is None
    replica.ports.answer.set_exception(ClusterRefused("blocks the evictions"))
    await asyncio.sleep(0.1)
    assert replica.pacer.held_up_by(DB, spec, replica.consumers, RECORD, evicted.ref) is WaitReason.PACE
    replica = Replica(evicted, unfinished, limits=PaceLimits(2))
    replica.evict(evicted)
    replica.ports.answer.set_exception(ClusterRefused("blocks the evictions"))
    await asyncio.sleep(0.1)
    assert replica.pacer.held_up_by(DB, spec, replica.consumers, RECORD, evicted.ref) is None


async def test_first_eviction_that_was_held_back_respects_window_order_and_halt() -> None:
    evicted = consumer("evicted", evicts=True, order=2)
    failed = consumer("failed", mark=RECORD.digest, progress=replace(UNFINISHED, state=RolloutState.FAILED))
    canary = consumer("canary", mark=RECORD.digest, progress=UNFINISHED, order=1)
    closed = replace(evicted, window="0 3 29 2 * for 1h")
    for others, each, settings, expected in (
        ((), evicted, {}, True),
        ((failed,), evicted, {}, False),
        ((failed,), evicted, {RESUME: change_of(RECORD)}, True),
        ((canary,), evicted, {}, False),
        ((), closed, {}, False),
    ):
        replica = Replica(each, *others, limits=PaceLimits(1))
        replica.evict(each)
        spec = read_spec(settings)
        reason = replica.pacer.held_up_by(DB, spec, replica.consumers, RECORD, each.ref)
        assert (reason is None) is expected, (others, settings)
        replica.ports.answer.set_exception(ClusterRefused("blocks the evictions"))
        await asyncio.sleep(0.1)
        assert replica.evictor.is_blocked(each, DB)
        reason = replica.pacer.held_up_by(DB, spec, replica.consumers, RECORD, each.ref)
        assert (reason is None) is expected, (others, settings)


async def test_resume_also_ends_the_order_of_a_workload_that_was_paused_after_its_failure() -> None:
    failed = consumer("failed", mark=RECORD.digest, progress=replace(UNFINISHED, state=RolloutState.FAILED), order=1)
    later = consumer("later", order=2)
    replica = Replica(failed, later)
    assert waits(replica.turn()) == {"later": WaitReason.HALT}
    replica.consumers = (replace(failed, progress=UNFINISHED, hold=PAUSED), later)
    for each in replica.consumers:
        replica.index.add(each)
    assert waits(replica.turn()) == {"later": WaitReason.HALT}
    assert started(replica.turn(**{RESUME: change_of(RECORD)})) == ["later"]


async def test_leader_alone_restarts_beside_evictions() -> None:
    """Another replica does not know whose pods are being evicted."""
    replica = Replica(consumer("evicted", evicts=True), consumer("later"))
    replica.leads = False
    assert started(replica.turn()) == []
    assert not Replica(consumer("web")).pacer.needs_leader(DB, read_spec({}))


@pytest.mark.parametrize("now", [MARKED_AT + 1.0, AFTER_DEADLINE])
@pytest.mark.parametrize("limits", [PaceLimits(1), PaceLimits(10, 1)])
@pytest.mark.parametrize("state", [RolloutState.UNFINISHED, RolloutState.FAILED])
async def test_pods_that_fail_after_the_rollout_has_ended_take_no_slot_and_halt_nobody(
    limits: PaceLimits, now: float, state: RolloutState
) -> None:
    failing = replace(UNFINISHED, state=state, has_ended=True)
    ended = consumer("ended", "StatefulSet", RECORD.digest, progress=failing, order=1)
    replica = Replica(ended, consumer("web"), now=now, limits=limits)
    assert started(replica.turn()) == ["web"]


async def test_canary_whose_settled_mark_is_stripped_does_not_hold_the_order() -> None:
    """Once its pods are known to have the value, its mark is not written any more, and it no longer holds the order."""
    canary = consumer("canary", order=1)
    bare = replace(canary, marks={})
    replica = Replica(bare, consumer("later", order=2))
    mark = rollout(bare, "db", RECORD)
    assert mark
    for number in range(4):
        settled = replace(bare, baseline={MARK: mark.value}, resource_version=f"settled-{number}")
        replica.fights.observe(bare, settled)
        replica.fights.observe(settled, replace(bare, resource_version=f"bare-{number}"))
    assert replica.fights.is_fought(bare, MARK)
    assert waits(replica.turn()) == {"canary": WaitReason.BACKOFF, "later": WaitReason.ORDER}
    replica.fights.note_pods(bare, replace(mark, restart=True))
    assert waits(replica.turn()) == {"canary": WaitReason.BACKOFF, "later": WaitReason.ORDER}
    replica.fights.note_pods(bare, mark)
    assert (started(replica.turn()), waits(replica.turn())) == (["later"], {})
