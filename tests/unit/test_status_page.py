"""The status page without a network: whom its guard refuses, its streams, the ring of rotations, and the views."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import replace
from random import Random
from typing import Any

import anyio
import msgspec
import pytest
from starlette.types import Message, Receive, Scope, Send

from keyturn_contract.message import EventType, Notification, NotificationData, Outcome, Result
from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.history import Change
from keyturn_receiver.core.integrity import Integrity
from keyturn_receiver.core.revision import RECORD_HASH, digest, unkeyed_data_hash
from keyturn_receiver.core.rollout_hold import PAUSED, RolloutHold
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.errors import ClusterUnavailable, InvalidValue, KeyturnError, Temporary
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.status import views
from keyturn_receiver.status.binding_states import BindingState, BindingStates
from keyturn_receiver.status.binding_view import binding_view, consumer_views
from keyturn_receiver.status.fault_barrier import FAILED as NOT_RECORDED
from keyturn_receiver.status.guard import CROSS_SITE, NOT_GET, WRONG_HOST, Guard
from keyturn_receiver.status.health import NO_LEADER, Polling, health, span
from keyturn_receiver.status.page_data import MAX_PAGE, Cluster, PageData
from keyturn_receiver.status.rotation import MAX_CONSUMERS, MAX_ROLLOUTS, MAX_SECRETS, Rotation
from keyturn_receiver.status.rotation_log import RotationLog
from keyturn_receiver.status.rotation_recorder import RotationRecorder
from keyturn_receiver.status.rotation_ring import MAX_ALL_ROLLOUTS, MAX_ROTATIONS, RotationRing
from keyturn_receiver.status.streams import (
    INTERVAL,
    MAX_PENDING,
    MAX_STREAMS,
    QUIET,
    SEND_TIMEOUT,
    StreamResponse,
    Streams,
)
from keyturn_receiver.status_page import FAILED as NOT_SERVED
from keyturn_receiver.status_page import Recorder, StatusPage
from keyturn_receiver.telemetry.legs import Leg
from keyturn_receiver.telemetry.metrics import Metrics
from support.bindings import ARN, KEYED, bound_object

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
T0 = 1_800_000_000.0
DB = Target("team", "db")
WEB = WorkloadRef("Deployment", "team", "web")
UNFINISHED = RolloutProgress(RolloutState.UNFINISHED, 3, 1, 3, marked_at=int(T0))
COMPLETE = RolloutProgress(RolloutState.COMPLETE, 3, 3, 3, finished_at=int(T0) + 9, marked_at=int(T0))


def bind(
    secrets: SecretCache, name: str, version: str | None, status: str = "ok", number: int = 1, **more: str
) -> None:
    secrets.update(secrets.transform(bound_object(name, version, status, number, **more)))


def consumer(
    progress: RolloutProgress | None, version: str | None, ref: WorkloadRef = WEB, hold: RolloutHold | None = None
) -> Consumer:
    """Return a consumer of `db` whose pod template has the mark of a version, or no mark."""
    revisions = {"value": version or ""}
    marks = {mark_name("db"): digest(revisions, revisions)} if version else {}
    return Consumer(ref, "1", {"db": Reads(whole=True)}, {}, marks, Switch.UNSET, hold, progress=progress)


def event(number: int = 1, name: str = "prod/db", version: str = "v2") -> Notification:
    data = NotificationData("SecretLabelUpdated", "1", "eu-west-1", name, version, "AWSCURRENT")
    return Notification(f"event-{number}", "aws", EventType.CHANGED, ARN.format("db"), "2027-01-15T08:00:00Z", data)


class Engine:
    """The ports of the ring: a cache, an index, a clock, a handler of notifications and a reconcile."""

    def __init__(self) -> None:
        self.now = T0
        self.secrets, self.consumers = SecretCache(KEYED), ConsumerIndex()
        self.log = RotationLog(self.secrets, self.consumers, lambda: self.now)
        self.consumers.add_progress_handler(self.log.on_progress)
        self.consumers.add_unread_handler(self.log.on_unread)
        self.secrets.add_handler(self.log.on_secret)
        self.told: list[str] = []
        self.log.add_handler(lambda _, kind: self.told.append(kind))
        self.result = ReconcileResult(True, changed=True, version_ids=frozenset({"v2"}))
        self.targets = [DB]
        self.on_apply: Callable[[], None] = lambda: None
        self.outcome = Outcome.APPLIED
        self.recorder = RotationRecorder(self.log)
        self.reconcile = self.recorder.recorded(self._reconcile)
        self.handler = self.recorder.handling(self)
        self.span = self.recorder.traced(lambda *_, **__: nullcontext())

    async def _reconcile(self, target: Target, request: Request) -> ReconcileResult:
        for leg in (Leg.FETCH, Leg.APPLY):
            with self.span(leg):
                self.now += 0.1
        self.on_apply()
        return self.result

    async def handle(
        self, notification: Notification, deadline: Callable[[], float], keeps_running: Callable[[], bool] = bool
    ) -> Result:
        for target in self.targets:
            await self.reconcile(target, Request.now(Cause.NOTIFICATION, ["v2"], notification.id))
        return Result(notification.id, self.outcome)

    async def deliver(self, notification: Notification) -> None:
        await self.handler.handle(notification, lambda: 0.0)

    def see(self, after: Consumer) -> None:
        before = self.consumers.get(after.ref, DB)
        if before:
            self.consumers.discard(before)
        self.consumers.add(after)
        self.consumers.report_progress(before, after)

    @property
    def rotations(self) -> list[Rotation]:
        return list(self.log.ring.newest_first())


@pytest.fixture
def engine() -> Engine:
    made = Engine()
    bind(made.secrets, "db", "v2")
    return made


async def test_rotation_has_the_time_of_each_leg_until_its_last_pod_is_live(engine: Engine) -> None:
    await engine.deliver(event())
    (rotation,) = engine.rotations
    (fill,) = rotation.fills.values()
    assert (rotation.told_at, rotation.received_at) == (T0, T0)
    assert (fill.fetched_at, fill.applied_at, rotation.answered_at) == pytest.approx((T0 + 0.1, T0 + 0.2, T0 + 0.2))
    assert not rotation.is_open
    engine.now = T0 + 1
    engine.see(consumer(UNFINISHED, "v2"))
    assert rotation.is_open
    assert rotation.live_at() is None
    engine.now = T0 + 9
    engine.see(consumer(COMPLETE, "v2"))
    assert (rotation.is_open, rotation.live_at()) == (False, T0 + 9)
    assert engine.told == ["delivery", "applied", "delivery", "rollout", "rollout"]
    found = views.propagation(engine.rotations)
    assert (found.count, found.median, found.p95) == (1, 9.0, 9.0)


async def test_mark_that_is_seen_before_its_secret_is_followed_when_the_secret_comes(engine: Engine) -> None:
    bind(engine.secrets, "db", "v1", number=2)
    await engine.deliver(event())
    engine.see(consumer(UNFINISHED, "v2"))
    assert not list(engine.rotations[0].consumers())
    bind(engine.secrets, "db", "v2", number=3)
    assert [each.ref for each in engine.rotations[0].consumers()] == [WEB]


async def test_mark_of_an_earlier_change_is_not_counted_to_a_later_rotation(engine: Engine) -> None:
    engine.now = T0 + 500
    await engine.deliver(event())
    engine.see(consumer(COMPLETE, "v2"))
    assert not list(engine.rotations[0].consumers())


async def test_later_rotation_takes_the_place_of_one_that_still_rolls(engine: Engine) -> None:
    await engine.deliver(event(1))
    engine.see(consumer(UNFINISHED, "v2"))
    await engine.deliver(event(2))
    later, earlier = engine.rotations
    assert [each.leg for each in earlier.consumers()] == ["superseded"]
    assert not earlier.is_open
    assert later.id == "event-2"


@pytest.mark.parametrize(
    ("after", "leg"),
    [
        (consumer(UNFINISHED, "v2", hold=PAUSED), "held"),
        (consumer(RolloutProgress(RolloutState.FAILED, 3, 1, 2, reason="Timed", marked_at=int(T0)), "v2"), "failed"),
    ],
)
async def test_rollout_that_does_not_end_by_itself_is_not_running(engine: Engine, after: Consumer, leg: str) -> None:
    await engine.deliver(event())
    engine.see(after)
    (rollout,) = engine.rotations[0].consumers()
    assert (rollout.leg, engine.rotations[0].is_open) == (leg, False)
    assert rollout.note


async def test_workload_that_is_gone_ends_its_rollout(engine: Engine) -> None:
    await engine.deliver(event())
    engine.see(consumer(UNFINISHED, "v2"))
    engine.consumers.report_unread(WEB, ["db"])
    assert [each.leg for each in engine.rotations[0].consumers()] == ["gone"]


async def test_secret_that_is_gone_ends_its_retry_and_its_rollouts(engine: Engine) -> None:
    """The retry of a Secret that is deleted or no longer bound is dropped, so no reconcile ends the rotation."""
    await engine.deliver(event())
    engine.see(consumer(UNFINISHED, "v2"))
    engine.result = ReconcileResult(True, error=ClusterUnavailable("the API server is away: trying again"))
    await engine.deliver(event(2))
    retried, rolled = engine.rotations
    engine.see(consumer(UNFINISHED, "v2", WorkloadRef("Deployment", "team", "late")))
    assert retried.is_open
    told = len(engine.told)
    engine.secrets.delete(bound_object("db"))
    assert (retried.is_open, rolled.is_open) == (False, False)
    assert [each.leg for each in retried.consumers()] == ["gone"]
    assert retried.fills[DB].error == "the API server is away: trying again"
    assert engine.told[told:] == ["applied"]
    engine.see(consumer(COMPLETE, "v2"))
    assert not retried.is_open


@pytest.mark.parametrize("error", [None, ClusterUnavailable("the API server is away: trying again")])
async def test_secret_that_goes_during_its_reconcile_leaves_nothing_open(
    engine: Engine, error: KeyturnError | None
) -> None:
    engine.see(consumer(UNFINISHED, "v2"))
    engine.on_apply = lambda: engine.secrets.delete(bound_object("db"))
    engine.result = ReconcileResult(True, changed=True, error=error, restarted=(WEB,))
    await engine.deliver(event())
    (rotation,) = engine.rotations
    assert not rotation.is_open


async def test_second_attempt_of_a_notification_is_the_same_rotation(engine: Engine) -> None:
    engine.result = ReconcileResult(True, error=ClusterUnavailable("the API server is away: trying again"))
    engine.outcome = Outcome.FAILED
    await engine.deliver(event())
    (rotation,) = engine.rotations
    assert (rotation.is_open, rotation.outcome) == (True, "failed")
    assert rotation.fills[DB].error == "the API server is away: trying again"
    engine.result, engine.outcome = ReconcileResult(True, changed=True), Outcome.APPLIED
    await engine.deliver(event())
    assert (len(engine.rotations), rotation.attempts, rotation.is_open, rotation.fills[DB].error) == (1, 2, False, "")


async def test_permanent_error_ends_a_rotation_and_is_shown(engine: Engine) -> None:
    engine.result = ReconcileResult(True, error=InvalidValue("key A: no property 'a' in prod/db"))
    await engine.deliver(event())
    fill = engine.rotations[0].fills[DB]
    assert (fill.reason, fill.error) == ("InvalidValue", "key A: no property 'a' in prod/db")
    assert not engine.rotations[0].is_open


async def test_what_concerns_no_binding_is_not_kept(engine: Engine) -> None:
    engine.targets = []
    for number in range(3):
        await engine.deliver(event(number))
    heartbeat = Notification("h", "keyturn", EventType.HEARTBEAT, "", "2027-01-15T08:00:00Z", event().data)
    await engine.deliver(heartbeat)
    assert engine.rotations == []
    assert engine.log.ring.total == 0


async def test_change_that_the_poller_finds_is_a_rotation_and_a_first_fill_is_none(engine: Engine) -> None:
    await engine.reconcile(DB, Request.now(Cause.NEW))
    assert engine.rotations == []
    await engine.reconcile(DB, Request.now(Cause.POLL, ["v2"], moved_at=int(T0) - 60))
    (rotation,) = engine.rotations
    assert (rotation.cause, rotation.secret, rotation.version, rotation.told_at) == ("poll", "prod/db", "v2", T0 - 60)


async def test_rotation_that_another_replica_applies_is_shown_with_its_pods(engine: Engine) -> None:
    bind(engine.secrets, "db", "v3", number=2)
    (rotation,) = engine.rotations
    assert (rotation.cause, rotation.secret, rotation.version) == ("replica", "prod/db", "v3")
    assert rotation.applied_at() == T0
    engine.see(consumer(UNFINISHED, "v3"))
    assert rotation.is_open
    bind(engine.secrets, "db", "v3", number=3)
    engine.secrets.delete(bound_object("db"))
    bind(engine.secrets, "db", "v4", number=4)
    assert engine.rotations == [rotation]  # a repetition, a deletion and a first fill are no rotations


async def test_own_write_is_not_taken_for_one_of_another_replica_before_or_after_its_reconcile_ends(
    engine: Engine,
) -> None:
    engine.on_apply = lambda: bind(engine.secrets, "db", "v3", number=2)
    await engine.deliver(event(version="v3"))
    engine.on_apply = lambda: None
    await engine.deliver(event(2, version="v4"))
    bind(engine.secrets, "db", "v4", number=3)
    assert [each.id for each in engine.rotations] == ["event-2", "event-1"]
    await asyncio.sleep(10)
    bind(engine.secrets, "db", "v5", number=4)
    assert [each.cause for each in engine.rotations] == ["replica", "event", "event"]


async def test_ring_is_bounded_in_every_direction(engine: Engine) -> None:
    for number in range(MAX_ROTATIONS + 10):
        await engine.deliver(event(number))
    assert len(engine.rotations) == MAX_ROTATIONS
    assert engine.log.ring.total == MAX_ROTATIONS + 10
    engine.targets = [Target("team", f"db-{number}") for number in range(MAX_SECRETS + 5)]
    await engine.deliver(event(9999))
    newest = engine.rotations[0]
    assert len(newest.fills) == MAX_SECRETS
    assert newest.has_more
    engine.targets, engine.now = [DB], T0
    await engine.deliver(event(10_000))
    for number in range(MAX_CONSUMERS + 5):
        engine.see(consumer(UNFINISHED, "v2", WorkloadRef("Deployment", "team", f"web-{number}")))
    fill = engine.rotations[0].fills[DB]
    assert (len(fill.consumers), fill.has_more) == (MAX_CONSUMERS, True)
    for number in range(MAX_ROTATIONS):
        await engine.deliver(event(20_000 + number))
    assert set(engine.log.ring._latest) == {DB}  # what left the ring is not held elsewhere


def restarted(name: str, number: int = MAX_CONSUMERS) -> ReconcileResult:
    """Return the result of a reconcile that has restarted many workloads."""
    refs = tuple(WorkloadRef("Deployment", "team", f"{name}-{each}") for each in range(number))
    return ReconcileResult(True, changed=True, restarted=refs)


async def test_rotation_keeps_a_bounded_number_of_rollouts_of_all_its_secrets(engine: Engine) -> None:
    for number in range(4):
        engine.targets, engine.result = [Target("team", f"db-{number}")], restarted(f"web-{number}")
        await engine.deliver(event())
    (rotation,) = engine.rotations
    assert (rotation.size, len(list(rotation.consumers()))) == (MAX_ROLLOUTS, MAX_ROLLOUTS)
    assert [fill.has_more for fill in rotation.fills.values()] == [False, False, True, True]


async def test_oldest_rotations_leave_the_ring_when_it_has_many_rollouts(engine: Engine) -> None:
    engine.result = restarted("web")
    count = MAX_ALL_ROLLOUTS // MAX_CONSUMERS
    for number in range(count + 3):
        await engine.deliver(event(number))
    assert [each.id for each in reversed(engine.rotations)] == [f"event-{number}" for number in range(3, count + 3)]
    engine.targets = [Target("team", "other")]
    await engine.deliver(event(3))  # the oldest rotation grows: it stays, and the next oldest leaves to make room
    assert sum(each.size for each in engine.rotations) == MAX_ALL_ROLLOUTS
    assert [each.id for each in reversed(engine.rotations)][:2] == ["event-3", "event-5"]
    for number in range(MAX_ROTATIONS):
        engine.result = restarted("web", 0)
        await engine.deliver(event(1000 + number))
    assert (engine.log.ring._rollouts, set(engine.log.ring._latest)) == (0, {Target("team", "other")})


async def test_snapshot_lists_the_consumers_of_open_rotations_and_counts_those_of_all(engine: Engine) -> None:
    await engine.deliver(event())
    engine.see(consumer(UNFINISHED, "v2"))
    (rotation,) = engine.rotations
    shown = views.snapshot_view(rotation)
    assert [each.name for each in shown.fills[0].consumers] == ["web"]
    assert shown.rollouts == {"rolling": 1}
    engine.see(consumer(COMPLETE, "v2"))
    shown = views.snapshot_view(rotation)
    assert (shown.fills[0].consumers, shown.rollouts) == ((), {"live": 1})
    assert [each.name for each in views.rotation_view(rotation).fills[0].consumers] == ["web"]


def forge(secrets: SecretCache, name: str, version: str, number: int, is_unkeyed: bool = False) -> None:
    """Edit the version ids of a Secret, as a tenant can who does not have the record key."""
    obj = bound_object(name, "v2", version=number)
    annotations = obj["metadata"]["annotations"]
    annotations["keyturn.dev/version-ids"] = annotations["keyturn.dev/version-ids"].replace("v2", version)
    if is_unkeyed:
        del annotations[RECORD_HASH]
        annotations["keyturn.dev/data-hash"] = unkeyed_data_hash({"value": b"v2"})
    found = secrets.transform(obj)
    assert isinstance(found, BoundSecret)
    assert found.integrity is (Integrity.UNKEYED if is_unkeyed else Integrity.BROKEN)
    secrets.update(found)


@pytest.mark.parametrize("is_unkeyed", [False, True])
async def test_forged_version_ids_are_no_rotation_and_do_not_hide_the_next_one(
    engine: Engine, is_unkeyed: bool
) -> None:
    engine.result = ReconcileResult(True)
    await engine.deliver(event(version="v7"))
    for number in range(MAX_SECRETS):
        bind(engine.secrets, f"a-{number}", "v2")
        forge(engine.secrets, f"a-{number}", "v7", 2, is_unkeyed)
    forge(engine.secrets, "db", "v9", 3, is_unkeyed)
    (rotation,) = engine.rotations
    assert set(rotation.fills) == {DB}
    bind(engine.secrets, "db", "v9", number=4)
    assert [each.cause for each in engine.rotations] == ["replica", "event"]
    bind(engine.secrets, "a-1", "v2", number=5)  # Keyturn has reverted the edit
    assert len(engine.rotations) == 2


class BrokenClock:
    """A clock that fails as soon as ``is_broken`` is true."""

    def __init__(self) -> None:
        self.is_broken = False

    def __call__(self) -> float:
        if self.is_broken:
            raise RuntimeError("the page has a bug")
        return T0


@pytest.mark.parametrize("bug", ["clock", "handler"])
async def test_bug_of_the_page_fails_no_delivery_and_no_informer(bug: str, caplog: pytest.LogCaptureFixture) -> None:
    clock, engine = BrokenClock(), Engine()

    def fail(*_: object) -> None:
        if bug == "handler":
            raise RuntimeError("the page has a bug")

    secrets, consumers = SecretCache(KEYED), ConsumerIndex()
    recorder = Recorder(secrets, consumers, clock)
    recorder.log.add_handler(fail)
    recorder.states.add_handler(fail)
    clock.is_broken = bug == "clock"
    hooks = recorder.hooks()
    engine.span, engine.reconcile = hooks.span(lambda *_, **__: nullcontext()), hooks.reconcile(engine._reconcile)
    handler = hooks.handler(engine)
    for number in range(3):
        result = await handler.handle(event(number), lambda: 0.0)
        assert result.outcome is Outcome.APPLIED
        bind(secrets, "db", "v2", "InvalidValue: no property 'a'", number=number)
    engine.result = ReconcileResult(True, error=Temporary("AWS is slow: trying again"))
    assert (await engine.reconcile(DB, Request.now(Cause.POLL))).error is engine.result.error
    consumers.report_progress(None, consumer(UNFINISHED, "v2"))
    consumers.report_unread(WEB, ["db"])
    assert NOT_RECORDED in caplog.text
    parts = [record.exc_info[2] for record in caplog.records if record.exc_info]
    assert 0 < len(parts) < 8  # each part is logged once, and not each time


async def test_error_of_the_engine_passes_the_page(engine: Engine) -> None:
    async def fail(target: Target, request: Request) -> ReconcileResult:
        raise ClusterUnavailable("the API server is away")

    with pytest.raises(ClusterUnavailable):
        await engine.recorder.recorded(fail)(DB, Request.now(Cause.POLL))


async def test_bindings_with_trouble_are_counted_as_they_change() -> None:
    now, changes = [T0], []
    secrets = SecretCache(KEYED)
    states = BindingStates(secrets, lambda: now[0])
    secrets.add_handler(states.on_secret)
    states.add_handler(lambda: changes.append(now[0]))
    bind(secrets, "a", "v1")
    bind(secrets, "b", "v1", "InvalidValue: no property 'pasword'")
    bind(secrets, "c", None, "")
    assert [states.counts()[each] for each in BindingState] == [1, 1, 0, 0, 0, 1]
    (trouble,) = states.needing_somebody()
    assert (trouble.target.name, trouble.reason, trouble.text) == ("b", "InvalidValue", "no property 'pasword'")
    now[0] += 60
    bind(secrets, "b", "v2", "InvalidValue: no property 'paswort'", 2)
    assert states.of(Target("team", "b")).since == T0  # type: ignore[union-attr]  # it has trouble
    bind(secrets, "b", "v2", "ok", 3)
    bind(secrets, "c", "v1", "RolloutHalted: Deployment web has failed", 2)
    assert [states.counts()[each] for each in BindingState] == [2, 0, 1, 0, 0, 0]
    bind(secrets, "c", "v1", "RestartReverted: another writer keeps reverting Deployment web", 3)
    assert [states.counts()[each] for each in BindingState] == [2, 0, 0, 1, 0, 0]
    assert [trouble.reason for trouble in states.needing_somebody()] == ["RestartReverted"]
    secrets.delete(bound_object("c"))
    assert [states.counts()[each] for each in BindingState] == [2, 0, 0, 0, 0, 0]
    assert len(changes) >= 6


async def test_counts_are_those_of_all_bindings_after_any_changes() -> None:
    """The counts follow each change, so they would stay wrong after a change that is missed."""
    chance, names = Random(1), [f"db-{number}" for number in range(12)]  # noqa: S311 - not for security
    secrets = SecretCache(KEYED)
    states = BindingStates(secrets, lambda: T0)
    secrets.add_handler(states.on_secret)
    errors: list[KeyturnError | None] = [None, Temporary("AWS is slow: trying again"), InvalidValue("no property")]

    async def reconcile(target: Target, request: Request) -> ReconcileResult:
        return ReconcileResult(True, error=chance.choice(errors))

    run = states.recorded(reconcile)
    for step in range(2000):
        name = chance.choice(names)
        match chance.randrange(4):
            case 0:
                secrets.delete(bound_object(name))
            case 1:
                await run(Target("team", name), Request.now(Cause.POLL))
            case _:
                status = chance.choice(["", "ok", "InvalidValue: no property", "RolloutHalted: web has failed"])
                bind(secrets, name, "v1", status, step + 2)
        shown = Counter(states.state(each.target) for each in secrets.all())
        assert [states.counts()[each] for each in BindingState] == [shown[each] for each in BindingState]
        assert sum(1 for _ in states.needing_somebody()) == shown[BindingState.FAILING] + shown[BindingState.HALTED]


async def test_error_that_is_retried_is_trouble_until_the_next_success() -> None:
    secrets = SecretCache(KEYED)
    states = BindingStates(secrets, lambda: T0)
    secrets.add_handler(states.on_secret)
    bind(secrets, "db", "v1")
    errors: list[KeyturnError | None] = [Temporary("AWS is slow: trying again"), None]

    async def reconcile(target: Target, request: Request) -> ReconcileResult:
        return ReconcileResult(True, error=errors.pop(0))

    run = states.recorded(reconcile)
    await run(DB, Request.now(Cause.POLL))
    assert (states.state(DB), states.counts()[BindingState.OK]) == (BindingState.RETRYING, 0)
    await run(DB, Request.now(Cause.POLL))
    assert (states.state(DB), states.counts()[BindingState.OK]) == (BindingState.OK, 1)


def view(secrets: SecretCache, consumers: list[Consumer], stuck: set[WorkloadRef] | None = None) -> dict[str, Any]:
    bound = secrets.get(DB)
    assert bound
    permitted = {each.ref for each in consumers if not each.faults}
    shown = consumer_views(bound, consumers, permitted, stuck or set())
    changes = [Change("2027-01-15T08:00:01.000Z", "v2", "v1", keys=1, due=2)]
    found: dict[str, Any] = json.loads(msgspec.json.encode(binding_view(bound, None, shown, [], changes, "")))
    return found


@pytest.mark.parametrize(
    ("after", "state", "text"),
    [
        (consumer(COMPLETE, "v2"), "live", "3 of 3 pods ready"),
        (consumer(UNFINISHED, "v2"), "rolling", "1 of 3 pods ready"),
        (consumer(UNFINISHED, "v2", hold=PAUSED), "held", "kubectl rollout resume"),
        (consumer(COMPLETE, "v1"), "due", "due"),
    ],
)
async def test_consumer_is_shown_with_its_state(after: Consumer, state: str, text: str) -> None:
    secrets = SecretCache(KEYED)
    bind(secrets, "db", "v2")
    (found,) = view(secrets, [after])["consumers"]
    assert found["state"] == state
    assert text in found["text"]
    (stuck,) = view(secrets, [after], {WEB})["consumers"]
    assert (stuck["state"] == "failed") is (state in ("live", "rolling", "held"))


async def test_consumer_that_waits_for_a_required_key_is_shown_as_held() -> None:
    secrets = SecretCache(KEYED)
    bind(secrets, "db", "v2")
    revisions = {"value": "v1", "gone": "v1"}
    marks = {mark_name("db"): digest(revisions, revisions)}
    reader = Consumer(WEB, "1", {"db": Reads(keys=frozenset(revisions))}, {}, marks, Switch.UNSET)
    (found,) = view(secrets, [reader])["consumers"]
    assert (found["state"], found["text"]) == (
        "held",
        "its pods keep the old values: the Secret lacks a key that they need",
    )


async def test_view_names_only_keys_that_the_binding_names() -> None:
    secrets = SecretCache(KEYED)
    bind(secrets, "db", "v2")  # the key "value" comes from AWS
    reader = Consumer(WEB, "1", {"db": Reads(keys=frozenset({"value"}))}, {}, {}, Switch.UNSET)
    found = view(secrets, [reader])
    assert (found["keys"], found["otherKeys"], found["consumers"][0]["reads"]) == ([], 1, "1 key")
    bind(secrets, "db", "v2", number=2, **{"keyturn.dev/data": "value: '@'"})
    found = view(secrets, [reader])
    assert (found["keys"], found["otherKeys"], found["consumers"][0]["reads"]) == (["value"], 0, "value")
    assert found["history"][0]["version"] == "v2"


class Parts:
    """The parts that the receiver depends on, all of them well."""

    path: tuple[bool, float | None] = (True, 21.0)
    sweep = Polling(True, 130.0)
    hung = 0.0
    error: str | None = None
    missing: tuple[str, ...] = ()
    on = True

    def deliveries(self) -> bool:
        return self.on

    def event_path(self) -> tuple[bool, float | None]:
        return self.path

    def hung_for(self) -> float:
        return self.hung

    def poller(self) -> Polling:
        return self.sweep

    def credentials_error(self) -> str | None:
        return self.error

    def missing_lists(self) -> tuple[str, ...]:
        return self.missing


@pytest.mark.parametrize(
    ("fault", "title", "state", "text"),
    [
        ({}, "Event path", "ok", "heartbeat 21 s ago"),
        ({"path": (False, 720.0)}, "Event path", "bad", "no heartbeat for 12 min: run `keyturn doctor`"),
        ({"path": (True, None)}, "Event path", "off", "no heartbeats are expected"),
        ({"on": False}, "Event path", "off", "deliveries are off: the poller alone carries changes"),
        ({}, "Poller", "ok", "here, swept 2 min ago"),
        ({"sweep": Polling(True)}, "Poller", "ok", "here, no sweep has succeeded yet"),
        (
            {"sweep": Polling(True, 3 * 86_400.0, 3 * 86_400.0, "ListSecrets was throttled", True)},
            "Poller",
            "bad",
            "here, no sweep has succeeded for 3 days: ListSecrets was throttled",
        ),
        ({"sweep": Polling(True, None, 960.0)}, "Poller", "bad", "here, no sweep has succeeded for 16 min"),
        ({"sweep": Polling(False, 5.0, unrenewed=NO_LEADER)}, "Poller", "ok", "another replica polls"),
        (
            {"sweep": Polling(False, unrenewed=NO_LEADER + 15)},
            "Poller",
            "bad",
            "no replica polls: this one has seen no renewal of the Lease for 45 s",
        ),
        ({}, "AWS", "ok", "credentials work"),
        ({"error": "no credentials"}, "AWS", "bad", "no credentials"),
        ({"hung": 50.0}, "AWS", "bad", "calls that do not end have occupied every thread for 50 s"),
        (
            {"sweep": Polling(True, 960.0, 960.0, "ListSecrets was throttled", True)},
            "AWS",
            "bad",
            "no sweep had its answers for 16 min: ListSecrets was throttled",
        ),
        ({"sweep": Polling(True, 9.0, None, "ListSecrets was throttled", True)}, "AWS", "ok", "credentials work"),
        ({"sweep": Polling(True, 960.0, 960.0, "it is not allowed")}, "AWS", "ok", "credentials work"),
        ({"missing": tuple("abcde")}, "Kubernetes", "bad", "waits for a, b, c and 2 more"),
    ],
)
async def test_health_says_what_is_wrong(fault: dict[str, Any], title: str, state: str, text: str) -> None:
    parts = Parts()
    for name, value in fault.items():
        setattr(parts, name, value)
    lines = {each.title: (each.state, each.text) for each in health(parts)}
    assert lines[title] == (state, text)


def test_seconds_are_told_in_the_largest_unit() -> None:
    assert [span(each) for each in (0.4, 119, 120, 7199, 7200, 200_000)] == [
        "0 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h",
        "2 days",
    ]


async def asked(headers: dict[str, str], method: str = "GET") -> tuple[int, dict[str, str], Any]:
    """Send a request through the guard. Returns the status, the headers and the body of the answer."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await Guard(app, "default-src 'none'")({"type": "http", "method": method, "headers": lines}, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(sent[1]["body"])


@pytest.mark.parametrize("host", ["localhost", "localhost:9091", "LOCALHOST:1", "127.0.0.1:9091", "[::1]", "[::1]:80"])
@pytest.mark.parametrize("site", ["", "same-origin", "none"])
async def test_guard_lets_the_own_page_through(host: str, site: str) -> None:
    status, headers, _ = await asked({"Host": host, **({"Sec-Fetch-Site": site} if site else {})})
    assert status == 200
    assert headers["content-security-policy"] == "default-src 'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "method", "status", "sentence"),
    [
        ({}, "GET", 403, WRONG_HOST),
        ({"Host": ""}, "GET", 403, WRONG_HOST),
        ({"Host": "attacker.example"}, "GET", 403, WRONG_HOST),
        ({"Host": "localhost.attacker.example"}, "GET", 403, WRONG_HOST),
        ({"Host": "127.0.0.1.nip.io:9091"}, "GET", 403, WRONG_HOST),
        ({"Host": "localhost:"}, "GET", 403, WRONG_HOST),
        ({"Host": "localhost:99999999"}, "GET", 403, WRONG_HOST),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, "GET", 403, CROSS_SITE),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-site"}, "GET", 403, CROSS_SITE),
        ({"Host": "localhost"}, "POST", 405, NOT_GET),
        ({"Host": "localhost"}, "OPTIONS", 405, NOT_GET),
    ],
)
async def test_guard_refuses_others(headers: dict[str, str], method: str, status: int, sentence: str) -> None:
    found, answered, body = await asked(headers, method)
    assert (found, body) == (status, {"error": sentence})
    assert answered["content-security-policy"]
    assert ("allow" in answered) is (status == 405)


class Publisher:
    """Streams whose snapshots are counted."""

    def __init__(self) -> None:
        self.made = 0
        self.streams = Streams(self._snapshot, lambda rotation: rotation.id.encode())

    def _snapshot(self) -> bytes:
        self.made += 1
        return str(self.made).encode()

    @contextmanager
    def read(self) -> Any:
        """Open a stream, and yield the list of the events that arrive."""
        stream = self.streams.open()
        assert stream
        events: list[tuple[str, str]] = []

        async def follow() -> None:
            async with aclosing(stream.events()) as each:
                async for event in each:
                    events.append((str(event.event), str(event.data)))

        task = asyncio.ensure_future(follow())
        try:
            yield events
        finally:
            task.cancel()
            stream.close()


def rotation(number: int) -> Rotation:
    return Rotation(f"event-{number}", "event", "prod/db", "v2", "", T0)


async def test_ninth_stream_is_refused_until_one_closes() -> None:
    streams = Streams(bytes, lambda _: b"")
    opened = [streams.open() for _ in range(MAX_STREAMS)]
    assert all(opened)
    assert streams.open() is None
    assert opened[0]
    opened[0].close()
    opened[0].close()
    assert streams.open()
    assert len(streams) == MAX_STREAMS


async def test_many_changes_are_told_twice_a_second_with_one_snapshot_for_all_streams() -> None:
    publisher = Publisher()
    with publisher.read() as one, publisher.read() as two:
        await asyncio.sleep(0.1)
        for step in range(200):
            publisher.streams.on_rotation(rotation(step % 3), "rollout")
            publisher.streams.on_change()
            await asyncio.sleep(0.01)
        await asyncio.sleep(INTERVAL)
        snapshots = [text for kind, text in one if kind == "snapshot"]
        assert 4 <= len(snapshots) <= 7
        assert one == two
        assert publisher.made == len(snapshots)
        assert {text for kind, text in one if kind == "rollout"} == {"event-0", "event-1", "event-2"}
        assert one[-1][0] == "snapshot"  # the last change is followed by a snapshot


async def test_quiet_stream_gets_a_snapshot_now_and_then_and_nothing_is_made_without_streams() -> None:
    publisher = Publisher()
    publisher.streams.on_rotation(rotation(1), "delivery")
    await asyncio.sleep(2 * QUIET)
    assert publisher.made == 0
    with publisher.read() as events:
        await asyncio.sleep(2 * QUIET + 1)
        assert len(events) == 3


async def test_stalled_stream_holds_a_bounded_number_of_the_newest_changes() -> None:
    streams = Streams(lambda: b"{}", lambda each: each.id.encode())
    stream = streams.open()
    assert stream
    for number in range(3 * MAX_PENDING):
        streams.on_rotation(rotation(number), "delivery")
        streams.on_rotation(rotation(number), "rollout")
    assert len(stream.pending) == MAX_PENDING
    assert [kind for kind, _ in stream.pending.values()] == ["rollout"] * MAX_PENDING
    assert list(stream.pending)[-1] == f"event-{3 * MAX_PENDING - 1}"
    events = stream.events()
    told = [str((await anext(events)).event) for _ in range(MAX_PENDING + 1)]
    assert told[-1] == "snapshot"


async def test_stream_of_a_page_that_reads_nothing_ends_and_frees_its_place() -> None:
    streams = Streams(lambda: b"{}", lambda _: b"")
    stream = streams.open()
    assert stream

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()

    response = StreamResponse(stream)
    async with asyncio.timeout(2 * SEND_TIMEOUT):
        await response({"type": "http", "method": "GET"}, receive, send)
    assert len(streams) == 0


async def test_error_of_the_server_does_not_end_the_receiver(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    no_port = 70_000  # it is refused with OverflowError, which is no OSError
    page = StatusPage(app, Streams(bytes, lambda _: b""), no_port, Metrics())
    running = asyncio.ensure_future(page.run())
    await asyncio.sleep(100)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert [record.getMessage() for record in caplog.records] == [NOT_SERVED]


async def test_streams_end_with_the_process() -> None:
    publisher = Publisher()
    stream = publisher.streams.open()
    assert stream
    kinds: list[str] = []

    async def follow(events: AsyncIterator[Any]) -> None:
        async for each in events:
            kinds.append(str(each.event))

    task = asyncio.ensure_future(follow(stream.events()))
    await asyncio.sleep(0.1)
    publisher.streams.end()
    await asyncio.wait_for(task, 1)
    assert kinds == ["snapshot"]


async def test_ten_thousand_bindings_are_paged_and_searched() -> None:
    secrets, many = SecretCache(KEYED), 10_000
    states = BindingStates(secrets)
    secrets.add_handler(states.on_secret)
    kinds = [
        secrets.transform(bound_object("app", "v1", status))
        for status in ("InvalidValue: no property 'a'", *["ok"] * 99)
    ]
    for number in range(many):
        bound = kinds[number % 100]
        assert isinstance(bound, BoundSecret)
        name = f"app-{number:05}"
        secrets.update(replace(bound, target=Target("team", name), uid=name, names=(f"prod/{name}",)))
    parts: Any = Parts()
    consumers = ConsumerIndex()
    unused: Any = None
    cluster = Cluster(secrets, consumers, unused, unused, unused)
    replica = views.Replica("0", "", "keyturn/keyturn", "a", T0)
    data = PageData(replica, cluster, states, RotationRing(), parts)
    page = await data.bindings("", False, many - 50, 50)
    assert (page.total, page.bindings[0].name, page.bindings[-1].name) == (many, "app-09950", "app-09999")
    failing = await data.bindings("", True, 0, 1000)
    assert (failing.total, len(failing.bindings)) == (100, 100)
    assert (await data.bindings("app-0123", False, 0, 50)).total == 10
    assert (await data.bindings("prod/app-01234", False, 0, 50)).total == 1
    assert (await data.bindings("none", False, 0, 50)).bindings == ()
    assert (await data.bindings("", False, many, 50)).bindings == ()
    assert (await data.bindings("", False, 0, 9999)).bindings[-1].name == f"app-{MAX_PAGE - 1:05}"
