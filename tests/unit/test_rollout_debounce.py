"""Debounce: when a workload that reads several Secrets is restarted, and for which of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, mark_name, read_consumer
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_debounce import QUIET_SECONDS, due_marks, quiet_at
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.core.write_times import WriteTime
from keyturn_receiver.reconcile.rollout_debouncer import MAX_SECONDS, RolloutDebouncer

NAMES = ("a", "b", "c")
NOW = 1_000_000.0


def record(revision: str, at: int | None) -> Record:
    return Record(revisions={"key": revision}, write_times={"key": WriteTime(at)})


def consumer(**marks: str) -> Consumer:
    """A workload that reads the Secrets of NAMES, and whose pod template has these marks."""
    sources = [{"secretRef": {"name": name}} for name in NAMES]
    annotations = {mark_name(name): value for name, value in marks.items()}
    read = read_consumer(
        WORKLOAD_KINDS["Deployment"],
        {
            "metadata": {"namespace": "team", "name": "web", "resourceVersion": "1"},
            "spec": {
                "template": {"metadata": {"annotations": annotations}, "spec": {"containers": [{"envFrom": sources}]}}
            },
        },
    )
    assert read is not None
    return replace(read, created=int(NOW) - 3600)


def test_marks_of_all_changed_secrets_are_due_together() -> None:
    records = {"a": record("v1", 900), "b": record("v2", 999_990), "c": record("v1", 900)}
    up_to_date = {name: records[name].digest for name in ("a", "c")}
    due = due_marks(consumer(**up_to_date, b=record("v1", None).digest), records)
    assert list(due) == ["b"]
    assert due["b"].value == records["b"].digest


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((999_000, 999_000, 999_000), 999_000 + QUIET_SECONDS),
        ((999_000, 999_999, 999_998), 999_999 + QUIET_SECONDS),
        ((999_000, None, 999_000), NOW + QUIET_SECONDS),  # unknown time: this process has just written the Secret
        ((999_000, 2_000_000, 999_000), NOW + QUIET_SECONDS),  # a time in the future: the writer's clock is ahead
    ],
)
def test_quiet_begins_after_the_last_change(times: tuple[int | None, ...], expected: float) -> None:
    records = {name: record("v2", at) for name, at in zip(NAMES, times, strict=True)}
    assert quiet_at(consumer(), records, NAMES, NOW) == expected


@dataclass
class Secrets:
    """The Secrets that are bound or watched, and the switch of each. ``RolloutDebouncer`` looks them up."""

    records: dict[str, Record]
    disabled: set[str] = field(default_factory=set)
    now: float = NOW

    def debouncer(self) -> RolloutDebouncer:
        parts: Any = self
        return RolloutDebouncer(parts, parts, lambda: self.now)

    def get(self, target: Target) -> Any:
        bound = target.name in self.records
        return type("Bound", (), {"spec": target.name, "record": self.records[target.name]}) if bound else None

    def permits(self, consumer: Consumer, target: Target, spec: object) -> bool:
        return target.name not in self.disabled


A = Target("team", "a")


def test_consumer_of_one_secret_never_waits() -> None:
    secrets = Secrets({"a": record("v2", int(NOW))})
    assert secrets.debouncer().quiet_at(consumer(), A, secrets.records["a"]) == 0.0


def test_consumer_of_several_waits_until_they_are_quiet_and_takes_all_marks_at_once() -> None:
    secrets = Secrets({name: record("v2", int(NOW) - 1) for name in NAMES})
    debouncer = secrets.debouncer()
    assert debouncer.quiet_at(consumer(), A, secrets.records["a"]) == NOW + 1
    secrets.now += 1
    assert debouncer.quiet_at(consumer(), A, secrets.records["a"]) == 0.0
    marks = debouncer.marks_beside(consumer(), A)
    assert {mark.name for mark in marks} == {mark_name("b"), mark_name("c")}


def test_secret_that_may_not_restart_the_consumer_is_left_out() -> None:
    secrets = Secrets({name: record("v2", int(NOW)) for name in NAMES}, disabled={"b", "c"})
    debouncer = secrets.debouncer()
    assert debouncer.quiet_at(consumer(), A, secrets.records["a"]) == 0.0
    assert debouncer.marks_beside(consumer(), A) == []


def test_changes_without_end_hold_back_a_restart_for_a_bounded_time() -> None:
    secrets = Secrets({name: record("v2", int(NOW)) for name in NAMES})
    debouncer, waited = secrets.debouncer(), 0
    while debouncer.quiet_at(consumer(), A, secrets.records["a"]):
        secrets.now += 1
        waited += 1
        secrets.records["b"] = record(f"v{waited}", int(secrets.now))
    assert waited == MAX_SECONDS


def test_wait_that_another_replica_has_ended_does_not_shorten_the_next_one() -> None:
    secrets = Secrets({name: record("v2", int(NOW)) for name in NAMES})
    debouncer = secrets.debouncer()
    assert debouncer.quiet_at(consumer(), A, secrets.records["a"]) == NOW + QUIET_SECONDS
    restarted = consumer(**{name: each.digest for name, each in secrets.records.items()})
    secrets.now += MAX_SECONDS
    secrets.records = {name: record("v3", int(secrets.now)) for name in NAMES}
    assert debouncer.quiet_at(restarted, A, secrets.records["a"]) == secrets.now + QUIET_SECONDS


def test_wait_for_a_change_that_was_undone_does_not_shorten_a_later_one() -> None:
    secrets = Secrets({name: record("v2", int(NOW)) for name in NAMES})
    debouncer = secrets.debouncer()
    assert debouncer.quiet_at(consumer(), A, secrets.records["a"]) == NOW + QUIET_SECONDS
    secrets.now += 3600
    secrets.records = {name: record("v3", int(secrets.now)) for name in NAMES}
    assert debouncer.quiet_at(consumer(), A, secrets.records["a"]) == secrets.now + QUIET_SECONDS
