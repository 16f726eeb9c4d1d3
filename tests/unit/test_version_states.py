"""Version states: when a version counts as live or stuck in a cluster, and what one answer holds."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from keyturn_contract.message import MAX_VERSIONS, State, VersionState
from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.core.arn import candidate_names
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.rollout_hold import RolloutHold
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.write_times import REMOVED, WriteTime
from keyturn_receiver.reconcile.version_states import (
    MAX_AGE,
    MAX_CHECKED,
    MAX_LENGTH,
    MAX_SECRETS,
    WINDOW,
    VersionStates,
)

WHOLE = Reads(whole=True)
T0 = 1_800_000_000
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-a1b2c3"
OLD, NEW = {"password": "v1"}, {"password": "v2"}
UNFINISHED = RolloutProgress(RolloutState.UNFINISHED, 2, 1, 2, marked_at=T0 + 1)
COMPLETE = RolloutProgress(RolloutState.COMPLETE, 2, 2, 2, finished_at=T0 + 6, marked_at=T0 + 1)


def record(version: str, revisions: dict[str, str] = NEW, at: int = T0, arn: str = ARN) -> Record:
    times = {key: WriteTime(at) for key in revisions}
    return Record({f"{arn}#AWSCURRENT": version}, revisions, write_times=times, moved_at=at - 3)


class Bound:
    def __init__(self, target: Target, record: Record, intact: bool = True) -> None:
        self.target, self.record, self.is_intact = target, record, intact
        self.has_account = False


class Cluster:
    """The ports: the cache of Secrets, the consumers, and the rollouts that are stuck."""

    def __init__(self) -> None:
        self.secrets: dict[Target, Bound] = {}
        self.by_arn: dict[str, set[Target]] = {}  # every Secret that was ever bound to an ARN
        self.index = ConsumerIndex()
        self.stuck: set[tuple[WorkloadRef, str]] = set()
        self.forbidden: set[tuple[str, bool]] = set()
        self.now = float(T0 + 10)
        self.states = self.replica()

    def replica(self) -> VersionStates:
        ports: Any = self
        return VersionStates(ports, ports, ports, self.may_read, wall=lambda: self.now)

    def may_read(self, namespace: str, has_account: bool, names: Iterable[str]) -> bool:
        assert set(names) == set(candidate_names(ARN)) or namespace != "hostile"
        return (namespace, has_account) not in self.forbidden

    def get(self, target: Target) -> Bound | None:
        return self.secrets.get(target)

    def by_secret_id(self, arn: str, *, may_read: Callable[[str, bool], bool]) -> list[Target]:
        return sorted(
            target
            for target in self.by_arn.get(arn, ())
            if (each := self.secrets.get(target))
            and any(key.startswith(arn) for key in each.record.version_ids)
            and may_read(target.namespace, each.has_account)
        )

    def consumers(self, target: Target) -> list[Consumer]:
        return list(self.index.of(target))

    def is_stuck(self, ref: WorkloadRef, name: str) -> bool:
        return (ref, name) in self.stuck

    def stuck_rollouts(self) -> list[tuple[WorkloadRef, str]]:
        return list(self.stuck)

    def bind(self, name: str, record: Record, namespace: str = "shop", intact: bool = True) -> Target:
        target = Target(namespace, name)
        self.secrets[target] = Bound(target, record, intact)
        for key in record.version_ids:
            self.by_arn.setdefault(key.partition("#")[0], set()).add(target)
        self.states.on_secret(target)
        return target

    def consume(
        self,
        target: Target,
        progress: RolloutProgress | None,
        marked: dict[str, str] | None = NEW,
        settled: dict[str, str] | None = None,
        reads: Reads = WHOLE,
        **fields: Any,
    ) -> WorkloadRef:
        ref = WorkloadRef("Deployment", target.namespace, f"reads-{target.name}")
        marks, baseline = ({mark_name(target.name): digest(each, each)} if each else {} for each in (marked, settled))
        consumer = Consumer(ref, "1", {target.name: reads}, baseline, marks, Switch.UNSET, progress=progress, **fields)
        if before := self.index.get(ref, target):
            self.index.discard(before)
        self.index.add(consumer)
        return ref

    def recent(self) -> dict[str, State]:
        return {each.version_id: each.state for each in self.states.recent()}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_secret_that_nothing_reads_is_live_as_soon_as_it_is_written(cluster: Cluster) -> None:
    cluster.bind("db", record("v2"))
    assert cluster.states.recent() == [VersionState(ARN, "v2", State.LIVE, T0, 3, changed=T0)]


def test_version_is_live_when_the_last_pod_runs_it(cluster: Cluster) -> None:
    target = cluster.bind("db", record("v2"))
    cluster.consume(target, UNFINISHED)
    assert cluster.recent() == {}
    cluster.consume(target, COMPLETE)
    assert cluster.states.recent() == [VersionState(ARN, "v2", State.LIVE, T0 + 6, 9, changed=T0)]


@pytest.mark.parametrize(
    ("marked", "settled", "progress", "hold", "live"),
    [
        (OLD, None, COMPLETE, None, False),  # not restarted yet, or never, because restarts are off
        (None, None, COMPLETE, None, False),  # no mark: its pods have not been looked at
        (None, NEW, UNFINISHED, None, True),  # its pods were found to run it, so another rollout does not matter
        (None, OLD, COMPLETE, None, False),
        (NEW, None, None, None, False),  # a kind whose status is not known
        (NEW, None, replace(COMPLETE, updated=1), RolloutHold("keeps its first pod", every_pod=False), False),
        (NEW, None, replace(COMPLETE, wanted=0, updated=0), None, True),
    ],
)
def test_workload_must_be_known_to_run_the_version(
    cluster: Cluster,
    marked: dict[str, str] | None,
    settled: dict[str, str] | None,
    progress: RolloutProgress | None,
    hold: RolloutHold | None,
    live: bool,
) -> None:
    target = cluster.bind("db", record("v2"))
    cluster.consume(target, progress, marked, settled, hold=hold)
    assert cluster.recent() == ({"v2": State.LIVE} if live else {})


def test_every_secret_of_the_cluster_must_have_the_version(cluster: Cluster) -> None:
    cluster.bind("db", record("v2"))
    cluster.bind("db", record("v1"), namespace="other")
    assert cluster.recent() == {}
    cluster.bind("db", record("v2"), namespace="other")
    assert cluster.recent() == {"v2": State.LIVE}
    cluster.bind("db", record("v2"), namespace="third", intact=False)  # somebody has edited it
    assert cluster.recent() == {}


def labelled(**versions: str) -> Record:
    return replace(record("v2"), version_ids={f"{ARN}#{label}": each for label, each in versions.items()})


def test_secret_that_reads_another_label_does_not_hold_up_the_current_version(cluster: Cluster) -> None:
    """A Secret that is bound to AWSPREVIOUS has the former version on purpose."""
    db = cluster.bind("db", record("v2"))
    cluster.bind("verify", labelled(AWSCURRENT="v2", AWSPREVIOUS="v1"), namespace="other")
    former = cluster.bind("former", labelled(AWSPREVIOUS="v1"), namespace="other")
    assert cluster.recent() == {"v2": State.LIVE}
    cluster.stuck.add((cluster.consume(former, UNFINISHED), "former"))
    assert cluster.recent() == {"v2": State.LIVE, "v1": State.STUCK}
    cluster.consume(db, UNFINISHED)
    assert cluster.recent() == {"v1": State.STUCK}


def test_version_of_another_label_is_never_live_while_a_secret_reads_the_current_one(cluster: Cluster) -> None:
    """The version of a custom label may be the one that AWSCURRENT moves to next. Its readers say nothing about those
    of AWSCURRENT."""
    cluster.bind("blue", labelled(blue="v2"))
    assert cluster.recent() == {"v2": State.LIVE}
    cluster.bind("db", record("v1"))
    assert cluster.recent() == {"v1": State.LIVE}
    cluster.bind("db", record("v2"))
    assert cluster.recent() == {"v2": State.LIVE}


def test_without_a_reader_of_the_current_version_the_secrets_of_all_labels_count(cluster: Cluster) -> None:
    cluster.bind("blue", labelled(blue="v2"))
    cluster.bind("green", labelled(green="v1"))
    assert cluster.recent() == {}
    cluster.bind("green", labelled(green="v2"))
    assert cluster.recent() == {"v2": State.LIVE}


def test_stuck_rollout_is_told_while_another_secret_has_another_version(cluster: Cluster) -> None:
    target = cluster.bind("db", record("v2"))
    cluster.stuck.add((cluster.consume(target, UNFINISHED), "db"))
    cluster.bind("db", record("v1"), namespace="other")
    assert cluster.recent() == {"v2": State.STUCK}
    cluster.now += WINDOW
    assert cluster.recent() == {}


def test_secret_of_the_same_name_that_was_never_filled_holds_up_nothing(cluster: Cluster) -> None:
    """A binding that is not allowed does not keep the version of another tenant from being live."""
    cluster.bind("db", record("v2"))
    hostile = Target("hostile", "db")
    cluster.secrets[hostile] = Bound(hostile, Record({}))
    cluster.by_secret_id = lambda arn, *, may_read: [Target("shop", "db"), hostile]  # type: ignore[method-assign]
    assert cluster.recent() == {"v2": State.LIVE}


def test_secrets_that_may_not_read_the_aws_secret_neither_hold_up_its_version_nor_are_told(cluster: Cluster) -> None:
    """Anybody can write a record by hand, into any number of Secrets, and before the owner of the AWS secret does."""
    cluster.forbidden = {("hostile", False), ("hostile", True)}
    for number in range(MAX_SECRETS + 1):
        cluster.bind(f"s{number}", record("forged"), namespace="hostile")
    assert cluster.recent() == {}
    target = cluster.bind("db", record("v2"))
    assert cluster.recent() == {"v2": State.LIVE}
    cluster.stuck.add((cluster.consume(target, UNFINISHED), "db"))
    assert cluster.recent() == {"v2": State.STUCK}
    cluster.forbidden.clear()
    assert cluster.recent() == {}


GONE = {"other": "v9"}
NAMED = Reads(keys=frozenset({"password"}))


@pytest.mark.parametrize(
    ("reads", "marked", "removed", "live"),
    [
        (NAMED, OLD, True, False),
        (NAMED, OLD, False, False),
        (NAMED, None, True, False),  # it may not be restarted, so it has no mark
        (NAMED, None, False, True),  # a key of the Secret that Keyturn has never managed
        (Reads(keys=frozenset({"password", "other"})), OLD | GONE, True, False),  # due for a restart
        (Reads(keys=frozenset({"other"})), GONE, True, True),
    ],
)
def test_version_is_not_live_while_pods_keep_the_value_of_a_key_that_is_gone(
    cluster: Cluster, reads: Reads, marked: dict[str, str] | None, removed: bool, live: bool
) -> None:
    after = record("v2", GONE)
    if removed:
        after = replace(after, write_times={**after.write_times, REMOVED: WriteTime(T0)})
    target = cluster.bind("db", after)
    cluster.consume(target, COMPLETE, marked, reads=reads)
    assert cluster.recent() == ({"v2": State.LIVE} if live else {})


def test_version_that_comes_back_has_another_time_of_its_change(cluster: Cluster) -> None:
    target = cluster.bind("db", record("v1", OLD))
    cluster.consume(target, COMPLETE, OLD)
    (first,) = cluster.states.recent()
    cluster.bind("db", record("v2", NEW, T0 + 20))
    cluster.now = T0 + 60
    cluster.bind("db", record("v1", OLD, T0 + 40))
    (again,) = cluster.states.recent()
    assert (first.version_id, first.changed, again.version_id, again.changed) == ("v1", T0, "v1", T0 + 40)
    other = cluster.states = cluster.replica()
    cluster.states.on_secret(target)
    assert other.recent()[0].changed == again.changed
    cluster.consume(target, replace(COMPLETE, finished_at=T0 + 55), OLD)  # restarted for another reason
    assert cluster.states.recent()[0].changed == again.changed


def test_stuck_rollout_is_told_with_its_workload(cluster: Cluster) -> None:
    target = cluster.bind("db", record("v2"))
    ref = cluster.consume(target, UNFINISHED)
    cluster.now += 3600
    cluster.stuck.add((ref, "db"))
    (told,) = cluster.states.recent()
    assert (told.state, told.since, told.consumers) == (State.STUCK, int(cluster.now), ("Deployment/shop/reads-db",))
    cluster.now += WINDOW
    assert cluster.recent() == {}
    cluster.stuck.clear()
    cluster.consume(target, replace(COMPLETE, finished_at=int(cluster.now)))
    assert cluster.recent() == {"v2": State.LIVE}


def test_state_is_told_for_a_quarter_of_an_hour_and_by_a_fresh_replica_too(cluster: Cluster) -> None:
    target = cluster.bind("db", record("v2"))
    cluster.consume(target, COMPLETE)
    first = cluster.states.recent()
    cluster.states = cluster.replica()
    cluster.states.on_secret(target)
    assert cluster.states.recent() == first
    cluster.now = T0 + 6 + WINDOW - 1
    assert cluster.recent() == {"v2": State.LIVE}
    cluster.now += 1
    assert cluster.recent() == {}


def test_old_secrets_are_not_followed(cluster: Cluster) -> None:
    cluster.now = T0 + MAX_AGE
    cluster.bind("db", record("v2"))
    assert cluster.recent() == {}


def test_rotation_that_changes_no_bound_key_is_told(cluster: Cluster) -> None:
    cluster.bind("db", record("v1"))
    cluster.now += 10 * WINDOW
    cluster.bind("db", Record({f"{ARN}#AWSCURRENT": "v2"}, NEW, write_times={"password": WriteTime(T0)}))
    assert cluster.recent() == {"v2": State.LIVE}


def test_secret_that_is_gone_is_followed_no_longer(cluster: Cluster) -> None:
    target = cluster.bind("db", record("v2"))
    del cluster.secrets[target]
    cluster.states.on_secret(target)
    assert cluster.recent() == {}


def test_answer_is_bounded_and_all_versions_get_their_turn(cluster: Cluster) -> None:
    for number in range(1000):
        cluster.bind(f"s{number}", record(f"v-{number}", arn=f"{ARN[:-7]}-{number:0>4}-a1b2c3"))
    seen: set[str] = set()
    answers = 0
    while len(seen) < 1000:
        answer = cluster.states.recent()
        assert 0 < sum(each.length for each in answer) <= MAX_LENGTH
        assert len(answer) <= MAX_VERSIONS
        seen |= {each.version_id for each in answer}
        answers += 1
    assert answers < 15


def numbered(number: int, at: int = T0) -> Record:
    return record(f"v-{number}", at=at, arn=f"{ARN[:-7]}-{number:0>4}-a1b2c3")


def looks(cluster: Cluster) -> int:
    """Count the AWS secrets that one answer looks at."""
    looked = [0]
    by_secret_id = Cluster.by_secret_id

    def counting(arn: str, *, may_read: Callable[[str, bool], bool]) -> list[Target]:
        looked[0] += 1
        return by_secret_id(cluster, arn, may_read=may_read)

    cluster.by_secret_id = counting  # type: ignore[method-assign]
    cluster.states.recent()
    return looked[0]


def test_namespace_with_many_unfinished_versions_does_not_keep_others_from_being_told(cluster: Cluster) -> None:
    """Its workloads may not be restarted, so its versions are never live."""
    for number in range(MAX_CHECKED + 1):
        target = cluster.bind(f"s{number}", numbered(number), namespace="other")
        cluster.consume(target, COMPLETE, OLD)
    cluster.bind("db", record("v2"))
    assert cluster.recent() == {"v2": State.LIVE}


def test_each_version_has_its_turn_to_be_looked_at(cluster: Cluster) -> None:
    targets = [cluster.bind(f"s{number}", numbered(number)) for number in range(MAX_CHECKED + 100)]
    for target in targets:
        cluster.consume(target, UNFINISHED)
    cluster.states.recent()
    late = targets[:100] + targets[-100:]
    for target in late:
        cluster.consume(target, COMPLETE)
    seen = {version for _ in range(10) for version in cluster.recent()}
    assert len(seen) == len(late)


def test_more_namespaces_than_one_answer_looks_at_take_turns(cluster: Cluster) -> None:
    for number in range(MAX_CHECKED + 100):
        target = cluster.bind("db", numbered(number), namespace=f"team-{number}")
        cluster.consume(target, UNFINISHED)
    cluster.bind("db", record("v2", at=T0 - 60), namespace="team-last")
    assert {version for _ in range(2) for version in cluster.recent()} == {"v2"}


def test_settled_versions_cost_nothing(cluster: Cluster) -> None:
    """A version that has been live for WINDOW seconds is looked at again only if its Secret changes, or if a rollout
    is stuck."""
    targets = [cluster.bind(f"s{number}", numbered(number)) for number in range(20)]
    unfinished = cluster.bind("unfinished", numbered(20))
    cluster.consume(unfinished, UNFINISHED)
    cluster.now += WINDOW
    assert looks(cluster) == 21
    assert looks(cluster) == 1
    cluster.states.on_secret(targets[0])
    assert looks(cluster) == 2
    assert looks(cluster) == 1
    cluster.stuck.add((cluster.consume(targets[1], UNFINISHED), "s1"))
    assert cluster.recent() == {"v-1": State.STUCK}


def test_new_values_of_a_settled_version_are_told(cluster: Cluster) -> None:
    """A binding that is edited fills its Secret with other values of the same version."""
    target = cluster.bind("db", record("v2", OLD))
    cluster.now += WINDOW
    assert cluster.recent() == {}
    cluster.secrets[target].record = record("v2", NEW, at=int(cluster.now))
    cluster.states.on_secret(target)
    assert cluster.recent() == {"v2": State.LIVE}


def test_state_of_one_namespace_does_not_wait_for_the_many_of_another(cluster: Cluster) -> None:
    for number in range(1000):
        cluster.bind(f"s{number}", numbered(number), namespace="other")
    cluster.bind("db", record("v2", at=T0 + 5))
    told = [cluster.recent() for _ in range(5)]
    assert all("v2" in each for each in told)
    assert len(set().union(*told)) > 5 * 50  # the other namespace goes on meanwhile


def test_stuck_rollout_is_told_for_a_quarter_of_an_hour_whichever_secret_has_its_turn(cluster: Cluster) -> None:
    """Several Secrets of several namespaces are made from one AWS secret, and one of them from a second one, too."""
    db = cluster.bind("db", record("v2"))
    second = f"{ARN[:-7]}-2-a1b2c3#AWSCURRENT"
    cluster.bind("db", replace(record("v2"), version_ids={f"{ARN}#AWSCURRENT": "v2", second: "w2"}), namespace="other")
    cluster.stuck.add((cluster.consume(db, UNFINISHED), "db"))
    first = {each.version_id: each.since for each in cluster.states.recent()}
    for number in range(14):
        cluster.now += 60
        cluster.bind(f"s{number}", numbered(number, at=int(cluster.now)), namespace="shop")
        assert {each.version_id: each.since for each in cluster.states.recent()}.items() >= first.items()
    cluster.now += 60
    assert not {"v2", "w2"} & cluster.recent().keys()
