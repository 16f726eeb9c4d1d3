"""Random histories of paced rollouts, played against the real engine and checked against what a cluster shows.

The API client and its watches are fakes: a cluster of Deployments whose rollouts end or fail, or whose new pods crash,
when a rule says so, and two replicas of the receiver whose watches lag behind as rules say. Everything in between is
the receiver's own code.
"""

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.binding import RESUME, Target, read_spec
from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.core.revision import Record, digest, read_record
from keyturn_receiver.core.rollout_halt import change_of, is_halt_of
from keyturn_receiver.core.rollout_order import ORDER
from keyturn_receiver.core.rollout_switch import ROLLOUT, Switch
from keyturn_receiver.core.rollout_window import WINDOW
from keyturn_receiver.core.unsettled import without_suffix
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.core.write_times import rfc3339
from keyturn_receiver.errors import NotFound
from keyturn_receiver.reconcile.consumer_restarter import ConsumerRestarter, Restraints
from keyturn_receiver.reconcile.crash_loops import CrashLoops
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from keyturn_receiver.telemetry.legs import LegTimer
from keyturn_receiver.telemetry.metrics import Metrics
from support.bindings import KEYED, bound_object
from support.fake_objects import copied, patch

DEPLOYMENT = WORKLOAD_KINDS["Deployment"]
PER_SECRET, PER_CLUSTER = 2, 3
SECRETS = ("db", "cache")
READS = {  # the Secrets that each Deployment reads
    **dict.fromkeys(("canary", "early", "next", "w0", "w1", "w2", "windowed"), ("db",)),
    "both": ("db", "cache"),
    **dict.fromkeys(("c0", "c1", "c2"), ("cache",)),
}
ORDERS = {"canary": 1, "early": 1, "next": 2}
WINDOW_TEXT = "0 0 * * * for 12h"  # the first half of each day, UTC
DAY = 24 * 3600
MARK = "revision.keyturn.dev/{}"
LEGS = LegTimer(Metrics())
COMPLETE, UNFINISHED, FAILED = "complete", "unfinished", "failed"
CRASHING = {"containerStatuses": [{"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}


def is_open_at(now: int) -> bool:
    return now % DAY < DAY // 2


def secret_object(name: str, version: int) -> dict[str, Any]:
    return bound_object(name, f"v{version}", version=version)


@functools.cache
def record_of(name: str, version: int) -> Record:
    return read_record(secret_object(name, version)["metadata"]["annotations"])


def mark_of(secret: str, version: int) -> str:
    revisions = record_of(secret, version).revisions
    return digest(revisions, revisions)


class Cluster:
    """The API server and the Deployment controller, behind the port of the API client. ``history`` has the states of
    all Deployments, as watches deliver them. ``crashing`` are the Deployments whose new pods crash, and ``noticed``
    those of them that a leader has found."""

    def __init__(self) -> None:
        self.now = 20_000 * DAY
        self.versions = dict.fromkeys(SECRETS, 1)
        self.resumed = dict.fromkeys(SECRETS, "")
        self.halts = dict.fromkeys(SECRETS, "")  # the text about a halt in the status of each Secret
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.state = dict.fromkeys(READS, COMPLETE)
        self.crashing: set[str] = set()
        self.returned: set[str] = set()  # workloads whose rollout freed its slot by a crash loop, and then went on
        self.noticed: set[str] = set()
        self.opened_for: dict[str, str] = {}
        self.pod_marks: dict[str, dict[str, str]] = {name: {} for name in READS}
        self.pods_created = dict.fromkeys(READS, "2020-01-01T00:00:00Z")
        self.restarts: set[tuple[str, str, str]] = set()
        self.is_synced = False  # whether the replica that writes has seen everything
        for name, secrets in READS.items():
            annotations = {ORDER: str(ORDERS[name])} if name in ORDERS else {}
            if name == "windowed":
                annotations[WINDOW] = WINDOW_TEXT
            annotations |= {MARK.format(each): self.mark_of(each) for each in secrets}
            container = {"name": "main", "envFrom": [{"secretRef": {"name": each}} for each in secrets]}
            self.objects[name] = {
                "metadata": {
                    "namespace": "team",
                    "name": name,
                    "uid": name,
                    "resourceVersion": "1",
                    "generation": 1,
                    "annotations": annotations,
                    "creationTimestamp": "2020-01-01T00:00:00Z",
                },
                "spec": {
                    "replicas": 1,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"annotations": {}}, "spec": {"containers": [container]}},
                },
            }
            self.show(name)

    def record(self, secret: str) -> Record:
        return record_of(secret, self.versions[secret])

    def mark_of(self, secret: str) -> str:
        return mark_of(secret, self.versions[secret])

    def secret(self, name: str) -> dict[str, Any]:
        return secret_object(name, self.versions[name])

    def template_mark(self, name: str, secret: str) -> str | None:
        mark = self.objects[name]["spec"]["template"]["metadata"]["annotations"].get(MARK.format(secret))
        return mark and without_suffix(mark)

    def is_current(self, name: str, secret: str) -> bool:
        settled = self.objects[name]["metadata"]["annotations"].get(MARK.format(secret))
        return (settled or self.template_mark(name, secret)) == self.mark_of(secret)

    def is_enabled(self, name: str) -> bool:
        return ROLLOUT not in self.objects[name]["metadata"]["annotations"]

    def is_scaled(self, name: str) -> bool:
        return bool(self.objects[name]["spec"]["replicas"])

    def is_paused(self, name: str) -> bool:
        return "paused" in self.objects[name]["spec"]

    def halting(self, secret: str) -> list[str]:
        """Return the Deployments whose failure halts the others, as the status of the Secret says. One that people have
        rolled back or paused still counts. One that is complete with the present value does not."""
        target, record = Target("team", secret), self.record(secret)
        return [
            name
            for name in READS
            if is_halt_of(self.halts[secret], WorkloadRef("Deployment", "team", name), target, record)
            and self.is_enabled(name)
            and self.is_scaled(name)
            and not (self.state[name] == COMPLETE and self.is_current(name, secret))
        ]

    def open_rollouts(self, secret: str = "") -> set[str]:
        names = {name for name, state in self.state.items() if state == UNFINISHED and self.is_scaled(name)}
        names = {name for name in names if not self.is_paused(name)}
        return {name for name in names - self.noticed if secret in ("", self.opened_for.get(name))}

    def show(self, name: str) -> None:
        """Give a Deployment the status of its rollout, and show it to the watches."""
        obj, state = self.objects[name], self.state[name]
        done = int(state == COMPLETE)
        reason = "ProgressDeadlineExceeded" if state == FAILED else "ReplicaSetUpdated"
        obj["status"] = {
            "observedGeneration": obj["metadata"]["generation"],
            "replicas": 2 - done,
            "updatedReplicas": 1,
            "availableReplicas": done,
            "conditions": [{"type": "Progressing", "reason": reason}],
        }
        entry = {"manager": "controller", "subresource": "status", "time": rfc3339(self.now)}
        others = [each for each in obj["metadata"].get("managedFields", ()) if "subresource" not in each]
        obj["metadata"]["managedFields"] = [*others, entry]
        self.history.append(copied(obj))

    def change(self, name: str) -> None:
        metadata = self.objects[name]["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        self.show(name)

    async def request(self, method: str, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        *_, resource, name = path.split("/")
        if resource == "secrets":
            return self.secret(name)
        if name == "pods":
            query = args[0]
            return {"metadata": {}, "items": list(map(json.dumps, self.pods(query["labelSelector"].partition("=")[2])))}
        if name not in self.objects:
            raise NotFound("gone")
        obj = self.objects[name]
        if method == "PATCH":
            before = {each: self.template_mark(name, each) for each in READS[name]}
            patch(obj, args[1], None)
            entry = {"manager": "keyturn", "operation": "Update", "time": rfc3339(self.now)}
            obj["metadata"]["managedFields"] = [entry]
            changed = [each for each in READS[name] if self.template_mark(name, each) != before[each]]
            for secret in changed:
                self.on_restart(name, secret)
            answer = copied(obj)  # the controller has not seen the write yet
            self.show(name)
            return answer
        return copied(obj)

    def pods(self, name: str) -> list[dict[str, Any]]:
        owner = {"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": f"{name}-1"}
        metadata = {"name": name, "creationTimestamp": self.pods_created[name], "ownerReferences": [owner]}
        metadata["labels"] = {"pod-template-hash": "1"}
        template = self.objects[name]["spec"]["template"]
        pods = [{"metadata": {**metadata, "annotations": self.pod_marks[name]}, "spec": template["spec"]}]
        if name in self.crashing:
            annotations = template["metadata"]["annotations"]
            metadata = {**metadata, "creationTimestamp": rfc3339(self.now), "annotations": annotations}
            new = {"metadata": metadata, "spec": template["spec"], "status": CRASHING}
            pods.append(new)
        return pods

    def on_restart(self, name: str, secret: str) -> None:
        """Check the restart that was just written to a Deployment."""
        self.objects[name]["metadata"]["generation"] += 1
        if name not in self.open_rollouts():  # if its rollout is open already, this restart opens no further one
            self.opened_for[name] = secret
        self.state[name] = UNFINISHED
        self.forget_crash(name)
        restart = (name, secret, self.mark_of(secret))
        assert self.template_mark(name, secret) == self.mark_of(secret), f"{name} was restarted backwards"
        assert restart not in self.restarts, f"{name} was restarted twice for one revision"
        self.restarts.add(restart)
        assert self.is_enabled(name) or not self.is_synced, f"{name} was restarted though it is disabled"
        assert name != "windowed" or is_open_at(self.now), "restarted outside its window"
        order = ORDERS.get(name, 99)
        for other in READS:
            if secret in READS[other] and ORDERS.get(other, 99) < order and self.is_enabled(other):
                assert self.is_current(other, secret), f"{name} went before {other}"
                assert other not in self.open_rollouts(secret), f"{name} did not wait for {other}"
        failed = [
            other
            for other, state in self.state.items()
            if (state == FAILED or other in self.noticed)
            and not self.is_paused(other)
            and self.opened_for[other] == secret
            and self.is_current(other, secret)
        ]
        if self.is_synced and self.resumed[secret] != change_of(self.record(secret)):
            assert not [each for each in failed if self.is_enabled(each) and self.is_scaled(each)], "halted"
            assert not [each for each in self.halting(secret) if each != name], f"{name} was restarted during a halt"

    def forget_crash(self, name: str) -> None:
        if name in self.noticed:
            self.returned.add(name)
        self.crashing.discard(name)
        self.noticed.discard(name)


class Replica:
    """One receiver: its caches, which are filled as far as its watch has come, and its engine."""

    def __init__(self, cluster: Cluster, is_leader: Any, per_cluster: int | None = PER_CLUSTER) -> None:
        self.cluster, self.seen, self.is_leader = cluster, len(cluster.history), is_leader
        index, namespaces = ConsumerIndex(), NamespaceCache()
        self.cache = ConsumerCache(DEPLOYMENT, index, lambda: cluster.now)
        api: Any = cluster
        events: Any = None
        fights = RolloutFights(lambda: cluster.now)
        workloads, secrets = WorkloadClient(api), SecretClient(api, lambda value: value, KEYED, lambda: None)  # type: ignore[arg-type, return-value]
        evictor = PodEvictor(workloads, secrets, events, fights, is_leader)
        limits = PaceLimits(PER_SECRET, None, per_cluster)
        self.pacer = RolloutPacer(index, namespaces, fights, evictor, limits, is_leader, lambda: cluster.now)
        self.crashes = CrashLoops(index, workloads, is_leader, lambda: cluster.now)
        index.add_progress_handler(self.crashes.on_progress)
        self.pacer.set_crash_loops(self.crashes)
        self.cache.replace([self.cache.transform(each) for each in map(copied, cluster.objects.values())])
        policy = RolloutPolicy(namespaces, Switch.ENABLED)
        self.restarter = ConsumerRestarter(
            index, workloads, secrets, LEGS, Restraints(policy, fights, evictor, self.pacer)
        )

    def deliver(self, count: int) -> None:
        for each in self.cluster.history[self.seen : self.seen + count]:
            self.cache.update(self.cache.transform(each))
            self.seen += 1

    def look(self) -> None:
        """Look at the pods of rollouts that make no progress, if this replica leads."""
        asyncio.run(self.crashes.check())
        if self.is_leader():
            self.cluster.noticed |= {ref.name for ref in self.crashes.failed("team")} & self.cluster.crashing

    def reconcile(self, secret: str) -> None:
        target = Target("team", secret)
        spec = read_spec({RESUME: self.cluster.resumed[secret]})
        self.cluster.is_synced = self.seen == len(self.cluster.history)
        record = replace(self.cluster.record(secret), notice=self.cluster.halts[secret])
        consumers = self.restarter.restartable(target, spec)
        result = asyncio.run(self.restarter.restart(target, spec, consumers, record, None))
        if not result.turn.is_left_to_leader and not result.error:
            self.cluster.halts[secret] = result.turn.halt


NAMES, WHICH = st.sampled_from(sorted(READS)), st.integers(0, 1)


class Pacing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.leader = 0
        self.per_cluster: int | None = PER_CLUSTER

    def start(self, number: int) -> Replica:
        return Replica(self.cluster, lambda: self.leader == number, self.per_cluster)

    @initialize(per_cluster=st.sampled_from([PER_CLUSTER, None]))
    def begin(self, per_cluster: int | None) -> None:
        """Start the replicas. Without a limit for the cluster, both of them restart consumers."""
        self.per_cluster = per_cluster
        self.replicas = [self.start(0), self.start(1)]
        for secret in SECRETS:
            self.cluster.versions[secret] += 1

    @rule(secret=st.sampled_from(SECRETS))
    def rotate(self, secret: str) -> None:
        self.cluster.versions[secret] += 1

    @rule(which=WHICH, secret=st.sampled_from(SECRETS))
    def reconcile(self, which: int, secret: str) -> None:
        self.replicas[which].reconcile(secret)

    @rule(which=WHICH, count=st.integers(1, 30))
    def deliver(self, which: int, count: int) -> None:
        self.replicas[which].deliver(count)

    @rule(which=WHICH)
    def catch_up(self, which: int) -> None:
        """Show a replica everything, and let it do what is due."""
        self.replicas[which].deliver(len(self.cluster.history))
        self.replicas[which].look()
        for secret in SECRETS:
            self.replicas[which].reconcile(secret)

    @rule(which=WHICH)
    def crash(self, which: int) -> None:
        """Kill a receiver, so that it loses its memory, and start it again."""
        self.replicas[which] = self.start(which)

    @rule()
    def change_leader(self) -> None:
        """Make the other replica the leader. Its watch has shown all writes of the last leader, because a replica may
        lead only five seconds after the last leader ended."""
        self.leader = 1 - self.leader
        self.replicas[self.leader].deliver(len(self.cluster.history))
        self.replicas[self.leader].crashes.on_started_leading()

    @rule(seconds=st.sampled_from([5, 30, 300]))
    def look(self, seconds: int) -> None:
        """Let the leader look at pods after some time."""
        self.cluster.now += seconds
        self.replicas[self.leader].look()

    @precondition(lambda self: self.cluster.open_rollouts())
    @rule(data=st.data())
    def let_pods_crash(self, data: st.DataObject) -> None:
        self.cluster.crashing.add(data.draw(st.sampled_from(sorted(self.cluster.open_rollouts()))))

    @precondition(lambda self: self.cluster.open_rollouts())
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def end(self, data: st.DataObject, fails: bool) -> None:
        """End an open rollout, or let it fail."""
        name = data.draw(st.sampled_from(sorted(self.cluster.open_rollouts())))
        self._end(name, FAILED if fails else COMPLETE)

    @rule(name=NAMES)
    def mend(self, name: str) -> None:
        if self.cluster.state[name] == FAILED or name in self.cluster.crashing:
            self._end(name, COMPLETE)

    @rule(name=NAMES)
    def undo(self, name: str) -> None:
        """Bring back the former template of a failed Deployment. Its old pods still run."""
        cluster = self.cluster
        if cluster.state[name] != FAILED and name not in cluster.noticed:
            return
        template = cluster.objects[name]["spec"]["template"]
        # The Secrets of this model have no write times, so the first template has to have marks, too.
        first = {MARK.format(each): mark_of(each, version=1) for each in READS[name]}
        template["metadata"]["annotations"] = first | cluster.pod_marks[name]
        cluster.restarts = {each for each in cluster.restarts if each[0] != name}  # another restart is right
        cluster.objects[name]["metadata"]["generation"] += 1
        cluster.state[name] = COMPLETE
        cluster.forget_crash(name)
        cluster.change(name)

    @rule(name=NAMES)
    def pause(self, name: str) -> None:
        if self.cluster.state[name] == FAILED:
            self.cluster.objects[name]["spec"]["paused"] = True
            self.cluster.change(name)

    @rule(hours=st.integers(1, 15))
    def wait(self, hours: int) -> None:
        self.cluster.now += hours * 3600

    @rule(name=NAMES)
    def switch(self, name: str) -> None:
        annotations = self.cluster.objects[name]["metadata"]["annotations"]
        if annotations.pop(ROLLOUT, None) is None:
            annotations[ROLLOUT] = "disabled"
        self.cluster.change(name)

    @rule(name=NAMES)
    def scale_to_zero(self, name: str) -> None:
        if self.cluster.state[name] == FAILED:
            self.cluster.objects[name]["spec"]["replicas"] = 0
            self.cluster.change(name)

    @rule(secret=st.sampled_from(SECRETS))
    def resume(self, secret: str) -> None:
        self.cluster.resumed[secret] = change_of(self.cluster.record(secret))

    def _end(self, name: str, state: str) -> None:
        self.cluster.state[name] = state
        self.cluster.objects[name]["spec"].pop("paused", None)
        self.cluster.forget_crash(name)
        self.cluster.returned.discard(name)
        if state == COMPLETE:
            self.cluster.pods_created[name] = rfc3339(self.cluster.now)
            self.cluster.pod_marks[name] = dict(
                self.cluster.objects[name]["spec"]["template"]["metadata"]["annotations"]
            )
        self.cluster.change(name)

    @invariant()
    def pace_is_kept(self) -> None:
        # A failed rollout that goes on may exceed the pace (docs/adr/028-pace-and-order-of-rollouts.md).
        assert len(self.cluster.open_rollouts() - self.cluster.returned) <= (self.per_cluster or len(READS))
        for secret in SECRETS:
            assert len(self.cluster.open_rollouts(secret) - self.cluster.returned) <= PER_SECRET

    def teardown(self) -> None:
        """Let everything end well: each consumer that may be restarted has the last value in the end."""
        for _ in range(60):
            if all(self._settled(name) for name in READS) and not self.cluster.open_rollouts():
                return
            for replica in self.replicas:
                replica.deliver(len(self.cluster.history))
            for secret in SECRETS:
                self.replicas[self.leader].reconcile(secret)
            self.pace_is_kept()
            for name, state in self.cluster.state.items():
                if state != COMPLETE:
                    self._end(name, COMPLETE)
            self.cluster.now += 3600
        raise AssertionError(f"not restarted: {[name for name in READS if not self._settled(name)]}")

    def _settled(self, name: str) -> bool:
        return not self.cluster.is_enabled(name) or all(self.cluster.is_current(name, each) for each in READS[name])


Pacing.TestCase.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))


class TestPacing(Pacing.TestCase):  # type: ignore[misc, name-defined]
    """At most one restart for each workload and revision, at least one in the end, and the pace is never exceeded."""


def test_replica_that_missed_the_end_of_a_rollout_asks_for_a_slot() -> None:
    history = Pacing()
    history.begin(PER_CLUSTER)
    history.catch_up(0)
    history._end("both", COMPLETE)
    history.reconcile(0, "db")
    history.catch_up(0)
    history.change_leader()
    history.catch_up(0)
    history.rotate("cache")
    history.crash(0)
    history._end("c0", COMPLETE)
    history.catch_up(1)
    assert len(history.cluster.open_rollouts()) == PER_CLUSTER
    history.reconcile(0, "cache")  # replica 0 still sees c0 as unfinished
    history.pace_is_kept()
    history.teardown()


def _resume(c2: dict[str, Any]) -> None:
    del c2["spec"]["paused"]


def _close_window(c2: dict[str, Any]) -> None:
    c2["metadata"]["annotations"][WINDOW] = "0 12 * * * for 1h"


@pytest.mark.parametrize("change", [_resume, _close_window])
def test_change_that_a_conflict_shows_decides_whether_the_restart_waits(change: Callable[[Any], None]) -> None:
    """A paused Deployment takes no slot and waits for no other rollout. The replica still sees c2 as paused, until the
    conflict of its write shows the change."""
    cluster = Cluster()
    c2 = cluster.objects["c2"]
    c2["spec"]["paused"] = True
    cluster.change("c2")
    replica = Replica(cluster, lambda: True)
    change(c2)
    cluster.change("c2")
    cluster.versions["cache"] += 1
    replica.reconcile("cache")
    assert cluster.open_rollouts() == {"both", "c0"}
    assert not cluster.is_current("c2", "cache")


def test_replica_restarts_a_workload_that_was_made_anew_before_the_watch_shows_it() -> None:
    cluster = Cluster()
    replica = Replica(cluster, lambda: True)
    cluster.objects["both"]["metadata"]["uid"] = "new"
    cluster.change("both")
    cluster.versions["cache"] += 1
    replica.reconcile("cache")
    assert cluster.open_rollouts() == {"both", "c0"}


def halted_history() -> Pacing:
    """Return a history in which w0 has failed. Its Secret says so, and w1 and w2 wait."""
    history = Pacing()
    history.begin(None)
    for names in (("canary", "early"), ("next",), ()):
        history.catch_up(0)
        for name in names:
            history._end(name, COMPLETE)
    history._end("w0", FAILED)
    history._end("both", COMPLETE)
    history.catch_up(0)
    assert history.cluster.halting("db") == ["w0"]
    return history


@pytest.mark.parametrize("is_killed", [False, True])
def test_halt_stays_when_the_failed_workload_is_rolled_back(is_killed: bool) -> None:
    """The workload itself is restarted again. The others follow only when it is complete."""
    history = halted_history()
    cluster = history.cluster
    history.undo("w0")
    if is_killed:
        history.crash(0)
    for _ in range(3):
        history.catch_up(0)
        assert cluster.open_rollouts("db") == {"w0"}
        assert history.replicas[0].pacer.halted() == 1
    history._end("w0", FAILED)
    history.catch_up(0)
    assert cluster.open_rollouts("db") == set()
    history._end("w0", COMPLETE)
    history.catch_up(0)
    assert cluster.open_rollouts("db") == {"w1", "w2"}
    assert cluster.halts["db"] == ""


@pytest.mark.parametrize("is_killed", [False, True])
def test_halt_stays_when_the_failed_workload_is_paused(is_killed: bool) -> None:
    history = halted_history()
    cluster = history.cluster
    history.pause("w0")
    if is_killed:
        history.crash(0)
    history.catch_up(0)
    assert cluster.open_rollouts("db") == set()
    assert cluster.halting("db") == ["w0"]
    history.resume("db")
    history.catch_up(0)
    assert cluster.open_rollouts("db") == {"w1", "w2"}


def test_halt_ends_when_the_failed_workload_is_paused_and_scaled_to_zero() -> None:
    history = halted_history()
    history.pause("w0")
    history.scale_to_zero("w0")
    history.catch_up(0)
    assert history.cluster.open_rollouts("db") == {"w1", "w2"}


def test_next_change_ends_the_halt_of_a_paused_workload() -> None:
    history = halted_history()
    history.pause("w0")
    history.catch_up(0)
    history.rotate("db")
    history.catch_up(0)
    assert history.cluster.halts["db"] == ""
    assert history.cluster.open_rollouts("db") == {"canary", "early"}
