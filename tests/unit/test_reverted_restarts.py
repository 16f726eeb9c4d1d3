"""Judge of reverted restarts: who changes the status, and when a Secret is looked at again."""

from dataclasses import replace
from typing import Any

from keyturn_receiver.cluster.consumer_cache import ConsumerIndex
from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import rollout
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_revert import revert_of
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.reconcile.pod_evictor import PodEvictor
from keyturn_receiver.reconcile.reverted_restarts import RevertedRestarts
from keyturn_receiver.reconcile.rollout_fights import FREE_REPEATS, RESET_AFTER, RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import PaceLimits, RolloutPacer
from support.bindings import KEYED, bound_object
from support.clock import FakeClock

DB = Target("team", "db")
MARK = mark_name("db")
RECORD = Record(revisions={"password": "v2"}, version_ids={"arn#AWSCURRENT": "v2"})
TEXT = revert_of(WorkloadRef("StatefulSet", "team", "web"))
UNFINISHED = RolloutProgress(RolloutState.UNFINISHED, wanted=3, marked_at=1000, deadline=600)
COMPLETE = replace(UNFINISHED, state=RolloutState.COMPLETE)
# The owner keeps an older mark on the workload. A restart removes it, and writes one on the template.
REVERTED = Consumer(
    WorkloadRef("StatefulSet", "team", "web"),
    "1",
    {"db": Reads(whole=True)},
    {MARK: "older"},
    {},
    Switch.UNSET,
    created=1,
    uid="uid",
    progress=UNFINISHED,
)
RESTARTED = replace(REVERTED, baseline={}, marks={MARK: RECORD.digest})


class Judge:
    """The judge of a replica, with the caches that it looks at."""

    def __init__(self) -> None:
        self.clock, self.index, self.secrets = FakeClock(), ConsumerIndex(), SecretCache(KEYED)
        self.fights = RolloutFights(self.clock)
        self.notified: list[Target] = []
        self.leads = True
        ports: Any = None
        evictor = PodEvictor(ports, ports, ports, self.fights, lambda: self.leads)
        pacer = RolloutPacer(
            self.index, NamespaceCache(), self.fights, evictor, PaceLimits(), lambda: self.leads, lambda: 1100.0
        )
        self.judge = RevertedRestarts(
            self.secrets, pacer, self.fights, self.notified.append, lambda: self.leads, lambda: 1100.0
        )
        self.consumer = REVERTED
        self.index.add(REVERTED)
        self._versions = 1

    def show(self, consumer: Consumer) -> None:
        self._versions += 1
        before, self.consumer = self.consumer, replace(consumer, resource_version=str(self._versions))
        self.index.discard(before)
        self.index.add(self.consumer)
        if (before.baseline, before.marks) != (consumer.baseline, consumer.marks):
            self.fights.observe(before, self.consumer)
        self.judge.on_progress(before, self.consumer)

    def fight(self) -> None:
        """Restart the workload and revert the restart, until the fight is known. The pods are older than the value each
        time."""
        for _ in range(FREE_REPEATS):
            mark = rollout(self.consumer, "db", RECORD)
            assert mark
            self.fights.note_pods(self.consumer, replace(mark, restart=True))
            self.show(RESTARTED)
            self.show(REVERTED)

    def notice(self, told: str = "", halt: str = "") -> str:
        return self.judge.notice(DB, [self.consumer], replace(RECORD, notice=told), halt)

    def bind(self, status: str) -> None:
        self._versions += 1
        obj = bound_object("db", status=status, version=self._versions)
        self.secrets.update(self.secrets.transform(obj))


def test_fight_is_told_until_the_rollout_is_complete() -> None:
    replica = Judge()
    assert replica.notice() == ""
    replica.fight()
    assert replica.notice() == TEXT
    replica.show(RESTARTED)
    assert replica.notice(TEXT) == TEXT
    replica.show(REVERTED)
    assert replica.notice(TEXT) == TEXT
    replica.show(replace(RESTARTED, progress=COMPLETE))
    assert replica.notice(TEXT) == ""


def test_workload_whose_rollout_was_complete_before_the_revert_has_no_old_pods() -> None:
    replica = Judge()
    replica.fight()
    replica.show(RESTARTED)
    replica.show(replace(RESTARTED, progress=COMPLETE))
    replica.show(REVERTED)
    assert replica.notice() == replica.notice(TEXT) == ""


def test_pods_that_were_found_to_run_the_value_end_it() -> None:
    replica = Judge()
    replica.fight()
    mark = rollout(replica.consumer, "db", RECORD)
    assert mark
    replica.fights.note_pods(replica.consumer, mark)
    assert replica.notice(TEXT) == ""


def test_only_the_leader_begins_and_ends_it_and_a_halt_goes_first() -> None:
    replica = Judge()
    replica.fight()
    assert replica.notice(halt="RolloutHalted: web") == "RolloutHalted: web"
    replica.leads = False
    assert replica.notice() == ""
    assert replica.notice(TEXT) == TEXT
    replica.show(replace(RESTARTED, progress=COMPLETE))
    assert replica.notice(TEXT) == TEXT
    assert replica.notice(TEXT, halt="RolloutHalted: web") == "RolloutHalted: web"


def test_replica_that_has_seen_no_fight_leaves_what_may_still_be_true() -> None:
    replica = Judge()
    assert replica.notice(TEXT) == TEXT
    replica.show(RESTARTED)
    assert replica.notice(TEXT) == TEXT
    replica.show(replace(RESTARTED, progress=COMPLETE))
    assert replica.notice(TEXT) == ""


def test_workload_that_is_now_evicted_ends_it() -> None:
    replica = Judge()
    replica.fight()
    replica.show(replace(REVERTED, evicts=True))
    assert replica.notice(TEXT) == ""


def test_another_value_and_a_fight_that_is_over_begin_nothing() -> None:
    replica = Judge()
    replica.fight()
    newer = replace(RECORD, revisions={"password": "v3"})
    assert replica.judge.notice(DB, [replica.consumer], newer, "") == ""
    replica.clock.advance(RESET_AFTER + 1)
    assert replica.notice() == ""


def test_secret_is_looked_at_when_the_rollout_fails_or_ends_and_by_a_new_leader() -> None:
    replica = Judge()
    told = replace(RECORD, notice=TEXT)
    assert replica.judge.look_again_in(DB, [replica.consumer], told) is None
    replica.show(RESTARTED)
    assert replica.judge.look_again_in(DB, [replica.consumer], RECORD) is None
    delay = replica.judge.look_again_in(DB, [replica.consumer], told)
    assert delay is not None
    assert 0 < delay <= UNFINISHED.deadline

    replica.bind("ok")
    replica.show(replace(RESTARTED, progress=COMPLETE))
    replica.judge.on_started_leading()
    assert replica.notified == []
    replica.show(RESTARTED)
    replica.bind(TEXT)
    replica.show(replace(RESTARTED, progress=replace(UNFINISHED, updated=1)))
    assert replica.notified == []
    replica.show(replace(RESTARTED, progress=COMPLETE))
    replica.judge.on_unread(replica.consumer.ref, DB)
    replica.judge.on_started_leading()
    assert replica.notified == [DB, DB, DB]
