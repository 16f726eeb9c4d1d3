"""Fights about the marks of consumers: which ones are detected, how writes slow down, and who the other writer is."""

import tracemalloc
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import pytest

from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name, read_consumer
from keyturn_receiver.core.field_owners import other_writer
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.reconcile.fight_reporter import message
from keyturn_receiver.reconcile.rollout_fights import (
    FIGHT_BACKOFF,
    MAX_MARKS,
    MAX_STATES,
    RESET_AFTER,
    Fight,
    RolloutFights,
)
from support.clock import FakeClock

MARK = "revision.keyturn.dev/db"
REF = WorkloadRef("Deployment", "team", "web")


VERSIONS = count(1)


def consumer(mark: str | None, own: str | None = None, name: str = MARK) -> Consumer:
    marks, baseline = ({name: value} if value else {} for value in (mark, own or mark))
    return Consumer(REF, str(next(VERSIONS)), {}, baseline, marks, switch=Switch.UNSET)


class Observer:
    """Shows states of one consumer, one after another."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fights = RolloutFights(self.clock)
        self.told: list[Fight] = []
        self.fights.add_handler(self.told.append)
        self._last = consumer(None)

    def show(self, *states: Consumer) -> None:
        for state in states:
            self.fights.observe(self._last, state)
            self._last = state

    def delay(self, value: str) -> float:
        return self.fights.delay(self._last, RolloutAnnotation(MARK, value, restart=True))


def test_rotations_that_follow_one_another_are_no_fight() -> None:
    observer = Observer()
    observer.show(*(consumer(f"v{number}") for number in range(100)))
    assert (observer.told, observer.delay("v99"), observer.delay("v100")) == ([], 0, 0)


def test_mark_that_keeps_being_removed_is_written_ever_later_and_never_given_up() -> None:
    observer = Observer()
    delays = []
    for _ in range(10):
        observer.show(consumer("v1"), consumer(None))
        delays.append(observer.delay("v1"))
        observer.clock.advance(delays[-1])
    assert delays[:2] == [0, FIGHT_BACKOFF.base]
    assert delays == sorted(delays)
    assert delays[-1] == FIGHT_BACKOFF.cap
    assert [(fight.mark, fight.removed) for fight in observer.told] == [(MARK, True)]
    assert observer.delay("v2") == 0  # a new rotation does not wait


def test_answers_to_one_write_count_once() -> None:
    observer = Observer()
    observer.show(consumer("v1"), consumer(None), consumer("v1"), consumer(None))
    first = observer.delay("v1")
    for _ in range(100):
        observer.show(consumer("theirs"), consumer(None))
    assert observer.delay("v1") == first == FIGHT_BACKOFF.base


def test_write_that_both_its_reply_and_the_watch_show_counts_once() -> None:
    observer = Observer()
    last = consumer(None)
    for value in ("v1", "v2", "v1", "v2"):
        state = consumer(value)
        observer.fights.observe(last, state)  # as the reply shows it
        observer.show(state)  # as the watch shows it
        last = state
    assert (observer.told, observer.delay("v1")) == ([], 0)
    observer.show(consumer("v1"))
    assert observer.delay("v2") == FIGHT_BACKOFF.base


def test_owner_who_puts_the_mark_back_without_its_suffix_is_braked() -> None:
    observer = Observer()
    for number in range(5):
        observer.show(*(replace(consumer(value), resource_version=f"{value}-{number}") for value in ("v1", "v1~7")))
    assert [fight.restarts for fight in observer.told] == [True]
    assert observer.delay("v1~7") == FIGHT_BACKOFF.base


@pytest.mark.parametrize("suffixes", [("", "", "", "", ""), ("", "", "~1", "~2", "~3")])
def test_secret_that_moves_to_and_fro_slows_down(suffixes: tuple[str, ...]) -> None:
    """A value that returns has a suffix in its mark each time."""
    observer = Observer()
    values = ("v1", "v2", "v1", "v2", "v1")
    observer.show(*(consumer(value + suffix) for value, suffix in zip(values, suffixes, strict=True)))
    assert observer.delay("v2") == FIGHT_BACKOFF.base
    assert [fight.removed for fight in observer.told] == [False]
    observer.clock.advance(RESET_AFTER + 1)
    observer.show(consumer("v2"), consumer("v1"))
    assert observer.delay("v2") == 0


@pytest.mark.parametrize(("template", "removed"), [("v2", False), (None, True)])
def test_restart_that_takes_the_settled_mark_away_is_no_removal(template: str | None, removed: bool) -> None:
    """In the first case, the values of the Secret move to and fro. In the second, an owner removes the mark."""
    observer, told = Observer(), []
    observer.fights.add_handler(told.append)
    marks = {MARK: template} if template else {}
    for _ in range(4):
        settled = replace(consumer(None), baseline={MARK: "v1"} if template else {}, marks=marks)
        observer.show(settled, replace(consumer("v3"), baseline={}))
    assert [fight.removed for fight in told] == [removed]


def test_settled_mark_that_keeps_being_removed_is_left_off_and_asked_for_ever_later() -> None:
    observer = Observer()
    mark = RolloutAnnotation(MARK, "v1", restart=False)
    observer.show(*(consumer(value) for value in ("v1", None, "v1")))
    assert not observer.fights.keeps_off(consumer(None), mark)
    observer.show(consumer(None))
    delays = []
    for _ in range(10):
        delays.append(observer.delay("v1"))
        observer.clock.advance(delays[-1])
        assert observer.fights.keeps_off(consumer(None), mark)
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (FIGHT_BACKOFF.base, FIGHT_BACKOFF.cap)
    assert not observer.fights.keeps_off(consumer(None), RolloutAnnotation(MARK, "v2", restart=False))
    observer.clock.advance(RESET_AFTER + 1)
    assert not observer.fights.keeps_off(consumer(None), mark)  # the owner may have gone
    assert [(fight.removed, fight.restarts) for fight in observer.told] == [(True, True)]


@pytest.mark.parametrize("has_old_pod", [False, True])
def test_consumer_whose_settled_mark_is_left_off_needs_no_mark_if_no_pod_is_old(has_old_pod: bool) -> None:
    observer = Observer()
    mark = RolloutAnnotation(MARK, "v1", restart=False, undecided=True)
    gone = consumer(None)
    for number in range(4):
        assert not observer.fights.leaves_off(gone, mark)
        settled = replace(gone, baseline={MARK: "v1"}, resource_version=f"settled-{number}")
        observer.show(settled, replace(gone, resource_version=f"gone-{number}"))
    assert [(fight.removed, fight.restarts) for fight in observer.told] == [(True, False)]
    assert not observer.fights.leaves_off(gone, mark)  # nobody has looked at the pods yet
    observer.fights.note_pods(gone, replace(mark, restart=has_old_pod))
    assert observer.fights.leaves_off(gone, mark) is not has_old_pod
    assert not observer.fights.leaves_off(gone, replace(mark, value="v2"))  # the next rotation
    observer.clock.advance(RESET_AFTER + 1)
    assert not observer.fights.leaves_off(gone, mark)


def test_marks_of_other_secrets_and_workloads_are_not_concerned() -> None:
    observer = Observer()
    observer.show(*(consumer(mark) for mark in ("v1", None) * 3))
    other = RolloutAnnotation(MARK + "-other", "v1", restart=True)
    assert observer.fights.delay(consumer(None), other) == 0
    elsewhere = Consumer(WorkloadRef("Deployment", "else", "web"), "1", {}, {}, {}, Switch.UNSET)
    assert observer.fights.delay(elsewhere, RolloutAnnotation(MARK, "v1", restart=True)) == 0


def test_secret_that_the_pods_read_only_at_times_is_no_fight() -> None:
    """A consumer shows only marks of Secrets that its pods read, so a mark comes and goes with the reference."""
    observer = Observer()
    reads = {"db": Reads(whole=True)}
    for _ in range(10):
        observer.show(replace(consumer("v1"), reads=reads), consumer(None))
    assert (observer.told, observer.delay("v1")) == ([], 0)
    observer.show(*(replace(consumer(mark), reads=reads) for mark in ("v1", None) * 3))
    assert observer.delay("v1") > 0


def marked(name: str, character: str) -> Consumer:
    """Return a workload whose mark, on itself and on its pod template, has a long value."""
    secret = "d" * 253
    metadata = {"annotations": {mark_name(secret): character * 4000}}
    container = {"envFrom": [{"secretRef": {"name": secret}}]}
    spec = {"template": {"metadata": metadata, "spec": {"containers": [container]}}}
    own = {"namespace": "team", "name": name, "resourceVersion": str(next(VERSIONS)), **metadata}
    made = read_consumer(WORKLOAD_KINDS["Deployment"], {"metadata": own, "spec": spec})
    assert made
    return made


def test_what_is_remembered_of_marks_is_bounded_in_bytes() -> None:
    """Long values, which differ from the first character on, take turns on each of a hundred workloads."""
    fights, count = RolloutFights(FakeClock()), 100
    characters = [chr(0x1F511 + number) for number in range(MAX_STATES)]
    tracemalloc.start()
    try:
        for number in range(count):
            for before, after in pairwise([marked(f"{number}-{'w' * 200}", each) for each in characters * 3]):
                fights.observe(before, after)
        del before, after
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / count * MAX_MARKS < 20 * 2**20


def entry(manager: str, time: str = "", template: bool = False, mark: bool = True, **more: str) -> dict[str, Any]:
    metadata = {"f:metadata": {"f:annotations": {f"f:{MARK}" if mark else "f:other": {}}}}
    fields = {"f:spec": {"f:template": metadata}} if template else metadata
    return {"manager": manager, "operation": "Update", "time": time, "fieldsV1": fields, **more}


@pytest.mark.parametrize(
    ("entries", "removed", "writer"),
    [
        ([entry("argocd-controller")], False, "argocd-controller"),
        ([entry("flux", template=True)], False, "flux"),
        ([entry("keyturn"), entry("kubectl", mark=False)], False, None),
        ([entry("keyturn"), entry("kubectl", "1", mark=False), entry("operator", "2", mark=False)], True, "operator"),
        ([entry("operator", "2", mark=False), entry("owner", "1")], True, "owner"),
        ([entry("controller", "9", mark=False, subresource="status")], True, None),
        ([{"manager": "odd", "fieldsV1": "malformed"}], True, "odd"),
        ([], True, None),
    ],
)
def test_other_writer_is_the_owner_of_the_mark_or_the_last_to_write(
    entries: list[dict[str, Any]], removed: bool, writer: str | None
) -> None:
    workload = {"metadata": {"managedFields": entries}}
    assert other_writer(WORKLOAD_KINDS["Deployment"], workload, MARK, removed) == writer


def test_message_says_who_and_what_to_do() -> None:
    fight = Fight(consumer("v1"), MARK, removed=False)
    told = message(fight, "operator")
    assert told.startswith(f'field manager "operator" keeps reverting annotation {MARK}, ')
    assert "Keyturn restarts this Deployment more and more slowly" in told
    assert 'Let "operator" ignore annotations that begin with revision.keyturn.dev/' in told
    assert "annotate the workload with keyturn.dev/restart: evict" in told
    assert told.endswith("or keyturn.dev/rollout: disabled")
    assert "back and forth" in message(fight, None)
    assert "probably keeps removing" in message(Fight(consumer("v1"), MARK, removed=True), "operator")


@pytest.mark.parametrize(("removed", "what"), [(True, "keeps removing"), (False, "keeps reverting")])
def test_message_about_a_settled_mark_says_that_no_pod_is_restarted(removed: bool, what: str) -> None:
    """The mark on the workload itself only says that the pods have the value. So its writes restart no pod, and nothing
    has to be evicted."""
    fight = Fight(consumer("v1"), MARK, removed, restarts=False)
    for writer, who in (("operator", 'field manager "operator"'), (None, "somebody")):
        told = message(fight, writer)
        assert told.startswith(f"{who} {what} annotation {MARK} of this Deployment, which says that the pods have the")
        assert "no pod is restarted" in told
        assert "old value" not in told
