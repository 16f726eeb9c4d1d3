"""Reports of rollouts: what is told once, and by whom, and which rollouts are not Keyturn's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.revision import Record, digest, read_record, write_record
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, PAUSED, RolloutHold
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.write_times import WriteTime
from keyturn_receiver.errors import ClusterUnavailable
from keyturn_receiver.reconcile.live_reporter import GRACE, MAX_ROLLOUTS, RECENT, TICK, LiveReporter
from keyturn_receiver.telemetry.metrics import Metrics

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
T0 = 1_800_000_000  # the time at which the mark is written, in seconds since 1970
DB = Target("team", "db")
REVISIONS = {"password": "v2"}
RECORD = Record({"arn#AWSCURRENT": "d0cf8060"}, REVISIONS, write_times={"password": WriteTime(T0 - 1)}, moved_at=T0 - 3)
MARK = digest(REVISIONS, REVISIONS)
UNFINISHED = RolloutProgress(RolloutState.UNFINISHED, 2, 0, 2, marked_at=T0)
COMPLETE = RolloutProgress(RolloutState.COMPLETE, 2, 2, 2, finished_at=T0 + 6, marked_at=T0)


class Bound:
    """A bound Secret, as far as the reporter looks at it."""

    def __init__(self, record: Record) -> None:
        self.target, self.uid, self.record, self.spec = DB, "uid-of-db", record, None


class Env:
    """The ports of a reporter: caches, restarter, client of workloads, recorder of Events. ``told`` are the Events that
    were created, and Events of the same name are not created twice."""

    def __init__(self) -> None:
        self.index, self.metrics = ConsumerIndex(), Metrics()
        self.bound: Bound | None = Bound(RECORD)
        self.others: dict[Target, Bound] = {}
        self.leads, self.up_to_date, self.now = True, True, float(T0)
        self.told: list[tuple[str, str, str]] = []
        self.names: set[tuple[Any, ...]] = set()
        self.trouble_text: str | None = "pod web-1: container main: ImagePullBackOff"
        self.reads = 0
        self.reporter = self.new_reporter()

    def new_reporter(self) -> LiveReporter:
        parts: Any = self
        return LiveReporter(parts, parts, parts, parts, self.metrics, lambda: self.leads, wall=lambda: self.now)

    def get(self, target: Target) -> Any:
        return self.bound if target == DB else self.others.get(target)

    def count(self, target: Target) -> int:
        return self.index.count(target)

    def consumers(self, target: Target) -> list[Consumer]:
        return self.index.of(target)

    def consumer(self, ref: WorkloadRef, target: Target) -> Consumer | None:
        return self.index.get(ref, target)

    def restartable(self, target: Target, spec: object) -> list[Consumer]:
        return self.index.of(target)

    def is_up_to_date(self, target: Target, consumers: list[Consumer], record: Record) -> bool:
        return self.up_to_date

    async def trouble(self, ref: WorkloadRef) -> str:
        self.reads += 1
        if self.trouble_text is None:
            raise ClusterUnavailable("gone")
        return self.trouble_text

    def event(
        self,
        target: Target,
        uid: str,
        warning: bool,
        reason: str,
        message: str,
        kind: str = "Secret",
        once_for: str = "",
        on_created: Callable[[], None] | None = None,
    ) -> None:
        assert once_for
        assert warning == (reason == "RolloutStuck")
        if (name := (uid, reason, once_for)) not in self.names:
            self.names.add(name)
            self.told.append((f"{kind} {target.name}", reason, message))
            if on_created:
                on_created()

    async def see(
        self,
        progress: RolloutProgress,
        name: str = "web",
        mark: str = MARK,
        hold: RolloutHold | None = None,
        other: str = "",
        settled: bool = False,
    ) -> None:
        """Show a Deployment in the watch, and let the reporter look at it. ``other`` is its mark of another Secret. If
        ``settled`` is true, this mark is on the Deployment itself."""
        ref = WorkloadRef("Deployment", "team", name)
        reads, marks = {"db": Reads(whole=True)}, {mark_name("db"): mark} if mark else {}
        if other:
            reads = {**reads, "cache": Reads(whole=True)}
        of_other = {mark_name("cache"): other} if other else {}
        own, marks = (of_other, marks) if settled else ({}, {**marks, **of_other})
        after = Consumer(ref, "1", reads, own, marks, Switch.UNSET, hold, uid=f"uid-of-{name}", progress=progress)
        before = self.index.get(ref, DB)
        if before:
            self.index.discard(before)
        self.index.add(after)
        self.reporter.on_progress(before, after)
        await asyncio.sleep(0.1)

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(2 * TICK)

    def reasons(self) -> list[tuple[str, str]]:
        return [(about, reason) for about, reason, _ in self.told]

    def observed(self) -> float:
        return self.metrics.registry.get_sample_value("keyturn_live_seconds_count", {"kind": "Deployment"}) or 0


@pytest.fixture
async def env() -> AsyncIterator[Env]:
    env = Env()
    running = asyncio.create_task(env.reporter.run())
    await asyncio.sleep(0)
    yield env
    running.cancel()


async def test_end_is_told_once_with_the_version_and_the_time_since_the_label_moved(env: Env) -> None:
    await env.see(UNFINISHED)
    assert not env.told
    await env.see(COMPLETE)
    await env.see(replace(COMPLETE, state=RolloutState.UNFINISHED, ready=1))  # a pod fails later
    await env.see(replace(COMPLETE, finished_at=T0 + 60))
    assert env.told == [
        ("Deployment web", "Live", "Secret db: all 2 pods run version d0cf8060, 9 s after the label moved"),
        ("Secret db", "Live", "Deployment web: all 2 pods run version d0cf8060, 9 s after the label moved"),
    ]
    assert env.metrics.registry.get_sample_value("keyturn_live_seconds_sum", {"kind": "Deployment"}) == 9


async def test_secret_is_live_with_its_last_consumer(env: Env) -> None:
    await env.see(UNFINISHED, "one")
    await env.see(UNFINISHED, "two")
    await env.see(COMPLETE, "one")
    env.up_to_date = False  # a third consumer is not marked yet
    await env.see(COMPLETE, "two")
    assert env.reasons() == [("Deployment one", "Live"), ("Deployment two", "Live")]
    env.up_to_date = True
    await env.see(UNFINISHED, "three")
    await env.see(COMPLETE, "three")
    about, _, message = env.told[-1]
    assert about == "Secret db"
    assert message.startswith("all pods of Deployment one, Deployment three, Deployment two run version d0cf8060, ")
    assert env.observed() == 3


async def test_new_leader_tells_what_the_former_one_has_not_and_counts_nothing_twice(env: Env) -> None:
    follower = Env()
    follower.leads, follower.names, follower.index = False, env.names, env.index
    follower.reporter = follower.new_reporter()
    running = asyncio.create_task(follower.reporter.run())
    for told_before in (True, False):
        name = f"web-{told_before}"
        for progress in (UNFINISHED, COMPLETE):
            env.leads = told_before
            await env.see(progress, name)
            consumer = env.index.get(WorkloadRef("Deployment", "team", name), DB)
            assert consumer
            follower.reporter.on_progress(None, consumer)
            await asyncio.sleep(0.1)
    assert not follower.told
    follower.leads = True
    follower.reporter.on_started_leading()
    await asyncio.sleep(0.1)
    assert [about for about, _, _ in follower.told if about.startswith("Deployment")] == ["Deployment web-False"]
    assert (env.observed(), follower.observed()) == (1, 1)
    running.cancel()


async def test_process_that_starts_tells_of_recent_rollouts_alone(env: Env) -> None:
    env.now = T0 + RECENT + 1
    await env.see(COMPLETE, "old")
    assert not env.told
    env.now = T0 + RECENT - 60
    await env.see(COMPLETE, "recent")
    assert ("Deployment recent", "Live") in env.reasons()


@pytest.mark.parametrize("mark", ["", "of-an-older-version"])
async def test_rollout_of_somebody_else_is_not_told(env: Env, mark: str) -> None:
    await env.see(UNFINISHED, mark=mark)
    await env.see(COMPLETE, mark=mark)
    await env.see(replace(COMPLETE, marked_at=None), "copied-from-git")
    assert not env.told


async def test_mark_that_is_seen_before_its_secret_is_told_when_the_secret_is_seen(env: Env) -> None:
    env.bound = None
    await env.see(COMPLETE)
    assert not env.told
    env.bound = Bound(RECORD)
    env.reporter.on_secret(DB)
    await asyncio.sleep(0.1)
    assert len(env.told) == 2


@pytest.mark.parametrize(
    ("moved_at", "written_at", "words"),
    [
        (None, T0 - 1, ", 7 s after the Secret was written"),
        (T0 + 1, T0 - 1, ", 7 s after the Secret was written"),  # the label moved for a later change of other keys
        (T0 - 3, None, ", 9 s after the label moved"),
        (T0 - 3, T0 - 1, ", 9 s after the label moved"),
    ],
)
async def test_time_counts_from_the_move_or_from_the_write(
    env: Env, moved_at: int | None, written_at: int | None, words: str
) -> None:
    times = {} if written_at is None else {"password": WriteTime(written_at)}
    env.bound = Bound(replace(RECORD, moved_at=moved_at, write_times=times))
    await env.see(UNFINISHED)
    await env.see(COMPLETE)
    assert env.told[0][2].endswith(words)


async def test_value_that_returns_within_the_hour_is_told_again(env: Env) -> None:
    """Its mark is that of the former time if nobody waited for the value in between."""
    for number in range(2):
        at = T0 + 600 * number
        env.now = at
        env.bound = Bound(replace(RECORD, write_times={"password": WriteTime(at - 1)}, moved_at=at - 3))
        await env.see(replace(UNFINISHED, marked_at=at))
        await env.see(replace(COMPLETE, marked_at=at, finished_at=at + 6))
        env.bound = Bound(replace(RECORD, revisions={"password": "v1"}))
        await env.see(replace(UNFINISHED, marked_at=at + 300), mark="of-the-value-in-between")
        target, evicted = DB, Consumer(WorkloadRef("Deployment", "team", "evicted"), "1", {}, {}, {}, Switch.UNSET)
        env.bound = Bound(replace(RECORD, write_times={"password": WriteTime(at - 1)}))
        evicted = replace(evicted, reads={"db": Reads(whole=True)}, baseline={mark_name("db"): MARK}, uid="evicted")
        env.reporter.on_evicted(target, evicted, 1, at + 9)
        env.reporter.on_evicted(target, evicted, 1, at + 9)  # a new leader reports the same end once more
    told = [about for about, reason in env.reasons() if reason == "Live"]
    assert told == ["Deployment web", "Secret db", "Deployment evicted", "Secret db"] * 2
    assert env.observed() == 4


async def test_deployment_that_has_failed_is_stuck_until_it_is_live(env: Env) -> None:
    failed = replace(UNFINISHED, state=RolloutState.FAILED, updated=1, reason="ProgressDeadlineExceeded")
    await env.see(failed)
    await env.wait(60)
    assert env.reasons() == [("Deployment web", "RolloutStuck"), ("Secret db", "RolloutStuck")]
    assert env.told[0][2].startswith(
        "Secret db: the rollout for version d0cf8060 goes no further: 1 of 2 pods are new, 2 ready"
        " (ProgressDeadlineExceeded; pod web-1: container main: ImagePullBackOff)"
    )
    assert (env.reads, env.reporter.stuck()) == (1, 1)
    env.leads = False
    assert env.reporter.stuck() == 0
    env.leads = True
    await env.see(replace(COMPLETE, finished_at=T0 + 900))
    assert env.reasons()[2:] == [("Deployment web", "Live"), ("Secret db", "Live")]
    assert env.reporter.stuck() == 0


async def test_rollout_without_a_condition_is_stuck_after_its_deadline_without_progress(env: Env) -> None:
    await env.see(UNFINISHED)
    await env.wait(500)
    await env.see(replace(UNFINISHED, updated=1))  # a new pod: the rollout goes on
    await env.wait(500)
    await env.see(replace(UNFINISHED, updated=1, ready=1))  # a pod fails: that is no progress
    assert not env.told
    env.trouble_text = None  # its pods cannot be read
    await env.wait(100 + GRACE)
    assert env.reasons() == [("Deployment web", "RolloutStuck"), ("Secret db", "RolloutStuck")]


@pytest.mark.parametrize("hold", [PAUSED, NO_REPLICAS])
async def test_held_rollout_is_not_stuck(env: Env, hold: RolloutHold) -> None:
    await env.see(UNFINISHED, hold=hold)
    await env.wait(10_000)
    assert not env.told
    await env.see(replace(COMPLETE, finished_at=T0 + 10_000))  # the hold and the rollout end hours later
    assert env.reasons()[0] == ("Deployment web", "Live")


async def test_workload_without_pods_is_not_live(env: Env) -> None:
    await env.see(RolloutProgress(RolloutState.COMPLETE, marked_at=T0), hold=NO_REPLICAS)
    assert not env.told


async def test_pods_that_a_partition_keeps_are_not_live(env: Env) -> None:
    hold = RolloutHold("keeps its first pod: lower the partition", every_pod=False)
    await env.see(replace(COMPLETE, updated=1), hold=hold)
    assert env.told == [
        (
            "Deployment web",
            "PartlyLive",
            "Secret db: version d0cf8060: 1 of 2 pods run it; keeps its first pod: lower the partition",
        )
    ]
    await env.wait(10_000)  # the rollout does not become stuck
    await env.see(replace(UNFINISHED, updated=1))
    assert len(env.told) == 1
    await env.see(replace(COMPLETE, finished_at=int(env.now)))
    assert env.reasons()[1:] == [("Deployment web", "Live"), ("Secret db", "Live")]


async def test_pod_that_fails_after_the_end_makes_no_rollout_stuck(env: Env) -> None:
    await env.see(UNFINISHED)
    await env.see(COMPLETE)
    await env.see(replace(UNFINISHED, updated=2, ready=1))
    await env.wait(2000)
    assert {reason for _, reason in env.reasons()} == {"Live"}


async def test_rollouts_that_are_followed_have_a_bound(env: Env) -> None:
    env.leads = False
    ref = WorkloadRef("Deployment", "team", "web")
    marks = {mark_name("db"): MARK}
    for number in range(MAX_ROLLOUTS + 100):
        each = WorkloadRef("Deployment", "team", f"web-{number}")
        consumer = Consumer(each, "1", {"db": Reads(whole=True)}, {}, marks, Switch.UNSET, progress=UNFINISHED)
        env.index.add(consumer)
        env.reporter.on_progress(None, consumer)
    for _ in range(600):
        if not env.reporter._consumers:
            break
        await asyncio.sleep(0.1)
    assert len(env.reporter._rollouts) == MAX_ROLLOUTS
    env.reporter.on_unread(ref, DB)
    for number in range(MAX_ROLLOUTS + 100):
        env.reporter.on_unread(WorkloadRef("Deployment", "team", f"web-{number}"), DB)
    assert len(env.reporter._rollouts) == 0


def test_time_of_the_labels_move_is_on_the_secret_and_no_part_of_what_is_compared() -> None:
    annotations = write_record(RECORD, "")
    assert annotations["keyturn.dev/label-moved-at"] == "2027-01-15T07:59:57Z"
    assert read_record(annotations).moved_at == RECORD.moved_at
    assert replace(RECORD, moved_at=None) == RECORD
    for garbled in ("", "yesterday", "9" * 5000):
        assert read_record({**annotations, "keyturn.dev/label-moved-at": garbled}).moved_at is None


async def test_end_of_evictions_is_told_once_on_workload_and_secret(env: Env) -> None:
    """Evictions put no mark on the template, so nothing else tells that the pods run the value."""
    await env.see(COMPLETE, mark="")
    assert not env.told
    seen = env.index.get(WorkloadRef("Deployment", "team", "web"), DB)
    assert seen
    settled = replace(seen, baseline={mark_name("db"): MARK}, evicts=True)
    for reporter in (env.reporter, env.new_reporter()):
        reporter.on_evicted(DB, settled, 2, T0 + 6)
    text = "all 2 pods run version d0cf8060, 9 s after the label moved"
    assert env.told == [
        ("Deployment web", "Live", f"Secret db: {text}"),
        ("Secret db", "Live", f"Deployment web: {text}"),
    ]
    assert env.observed() == 1


async def test_end_of_evictions_for_an_older_value_is_not_told(env: Env) -> None:
    await env.see(COMPLETE, mark="")
    seen = env.index.get(WorkloadRef("Deployment", "team", "web"), DB)
    assert seen
    env.reporter.on_evicted(DB, replace(seen, baseline={mark_name("db"): "older"}), 2, T0 + 6)
    env.bound = None
    env.reporter.on_evicted(DB, replace(seen, baseline={mark_name("db"): MARK}), 2, T0 + 6)
    assert not env.told


MONTH = 30 * 86_400
LATER = replace(UNFINISHED, marked_at=T0 + MONTH)
LATER_COMPLETE = replace(COMPLETE, marked_at=T0 + MONTH, finished_at=T0 + MONTH + 6)


@pytest.mark.parametrize("is_new", [False, True], ids=["same process", "new process"])
async def test_restart_for_another_secret_is_not_told_again_for_this_one(env: Env, is_new: bool) -> None:
    """The mark of each Secret stays on the template, and the API server keeps Events for an hour."""
    await env.see(COMPLETE, mark="older", other="c1")
    await env.see(UNFINISHED, other="c1")
    await env.see(COMPLETE, other="c1")
    assert len(env.told) == 2
    env.told.clear()
    env.names.clear()
    await env.wait(MONTH)
    if is_new:
        env.index = ConsumerIndex()  # so the reporter sees the Deployment for the first time
        env.reporter._rollouts.pop("team", (WorkloadRef("Deployment", "team", "web"), "db"))
        env.reporter._marked_at.pop("team", WorkloadRef("Deployment", "team", "web"))
    cache = Bound(replace(RECORD, revisions={"key": "c2"}, write_times={"key": WriteTime(T0 + MONTH - 5)}))
    cache.target = Target("team", "cache")
    env.others[cache.target] = cache
    await env.see(LATER, other=cache.record.digest)
    await env.see(LATER_COMPLETE, other=cache.record.digest)
    assert [told for told in env.told if "Secret db" in told[0] + told[2]] == []
    await env.see(LATER, other=cache.record.digest)
    await env.wait(UNFINISHED.deadline + GRACE + 60)
    assert not env.reporter.is_stuck(WorkloadRef("Deployment", "team", "web"), "db")


@pytest.mark.parametrize("is_new", [False, True], ids=["process that saw the write", "process that starts later"])
async def test_settled_mark_of_another_secret_does_not_tell_an_old_restart_again(env: Env, is_new: bool) -> None:
    """Keyturn writes the baseline of another Secret weeks after the restart. The status of the workload has changed
    shortly before, because a pod was replaced."""
    weeks_ago = T0 - 2_000_000
    env.bound = Bound(replace(RECORD, write_times={"password": WriteTime(weeks_ago)}, moved_at=weeks_ago - 3))
    if not is_new:
        await env.see(replace(COMPLETE, marked_at=weeks_ago, finished_at=weeks_ago + 6))
    await env.see(replace(COMPLETE, finished_at=T0 - 60), other="other", settled=True)
    await env.wait(1)
    assert env.reasons() == []
    assert env.observed() == 0


async def test_restart_that_is_not_over_is_followed_beside_a_settled_mark_of_another_secret(env: Env) -> None:
    """The restart had to wait for a window. Then the receivers are upgraded, while it is on its way."""
    env.bound = Bound(replace(RECORD, write_times={"password": WriteTime(T0 - 2 * RECENT)}))
    await env.see(replace(UNFINISHED, deadline=600), other="other", settled=True)
    await env.wait(600 + GRACE)
    assert env.reasons() == [("Deployment web", "RolloutStuck"), ("Secret db", "RolloutStuck")]


async def test_restart_that_had_to_wait_for_weeks_is_told(env: Env) -> None:
    """A restart may have to wait for weeks, such as for a rollout window."""
    await env.see(COMPLETE, mark="older", other="c1")
    await env.wait(MONTH)
    await env.see(LATER, other="c1")
    await env.see(LATER_COMPLETE, other="c1")
    assert env.reasons() == [("Deployment web", "Live"), ("Secret db", "Live")]


async def test_restart_that_had_to_wait_is_told_by_a_new_process_unless_another_secret_explains_it(env: Env) -> None:
    await env.wait(MONTH)
    await env.see(LATER, other="c1")
    await env.see(LATER_COMPLETE, other="c1")
    assert env.reasons() == [("Deployment web", "Live"), ("Secret db", "Live")]


async def test_restart_in_the_second_of_another_write_is_told(env: Env) -> None:
    """The other write may be the mark of another Secret, which was written just before."""
    await env.see(COMPLETE, mark="older", other="c1")
    await env.wait(MONTH)
    await env.see(LATER, mark="older", other="c2")
    await env.see(LATER, other="c2")
    await env.see(LATER_COMPLETE, other="c2")
    assert env.reasons() == [("Deployment web", "Live"), ("Secret db", "Live")]


async def test_restart_by_time_is_told_beside_old_marks_on_the_template(env: Env) -> None:
    ref, marks = WorkloadRef("Rollout", "team", "web"), {mark_name("db"): "older", mark_name("cache"): "c1"}
    reads = {name: Reads(whole=True) for name in ("db", "cache")}
    before = Consumer(ref, "1", reads, {}, marks, Switch.UNSET, uid="uid", by_time=True, progress=COMPLETE)
    marked = replace(before, baseline={mark_name("db"): MARK}, progress=LATER)
    await env.wait(MONTH)
    for former, each in ((None, before), (before, marked), (marked, replace(marked, progress=LATER_COMPLETE))):
        if former:
            env.index.discard(former)
        env.index.add(each)
        env.reporter.on_progress(former, each)
        await asyncio.sleep(0.1)
    assert env.reasons() == [("Rollout web", "Live"), ("Secret db", "Live")]


async def test_pod_that_fails_after_the_end_is_not_stuck_for_a_new_process(env: Env) -> None:
    await env.see(replace(UNFINISHED, updated=2, ready=1, has_ended=True))
    await env.wait(UNFINISHED.deadline + GRACE + 60)
    assert (env.told, env.reporter.stuck()) == ([], 0)


async def test_text_about_a_stuck_rollout_speaks_of_old_pods_only_if_pods_are_ready(env: Env) -> None:
    for number, (ready, words) in enumerate([(1, "pods of the old template go on"), (0, "no pod is ready")]):
        await env.see(replace(UNFINISHED, state=RolloutState.FAILED, ready=ready), f"web-{number}")
        await env.wait(1)
        assert words in env.told[-1][2]
