"""Candidates of the rollout schedule."""

from dataclasses import replace

import pytest

from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_candidate import due_candidate, other_candidate
from keyturn_receiver.core.rollout_hold import PAUSED
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_schedule import ConsumerState
from keyturn_receiver.core.rollout_switch import Switch

RECORD = Record(revisions={"password": "v2"})
MARKED = Consumer(
    WorkloadRef("StatefulSet", "team", "web"),
    "1",
    {"db": Reads(whole=True)},
    {},
    {mark_name("db"): RECORD.digest},
    Switch.UNSET,
    progress=RolloutProgress(RolloutState.UNFINISHED, wanted=1, marked_at=1000, deadline=600),
)


def test_due_consumer_has_its_own_window_before_that_of_the_namespace() -> None:
    namespaces = "0 2 * * * for 1h"
    noon = 12 * 3600.0
    assert due_candidate(MARKED, namespaces, noon, False).window_opens_at == 26 * 3600
    own = replace(MARKED, window="0 12 * * * for 1h")
    assert due_candidate(own, namespaces, noon, False).window_opens_at == noon


def test_window_of_the_namespace_that_is_not_understood_settles() -> None:
    assert due_candidate(MARKED, "sometimes", 0.0, False).state is ConsumerState.SETTLED


@pytest.mark.parametrize(
    ("hold", "is_open", "takes_slot"), [(None, False, True), (None, True, False), (PAUSED, False, False)]
)
def test_slot_is_taken_by_a_restart_that_begins(hold: object, is_open: bool, takes_slot: bool) -> None:
    each = replace(MARKED, hold=hold)
    assert due_candidate(each, None, 0.0, is_open).takes_slot is takes_slot


def test_restarted_consumer_is_unfinished_until_its_deadline() -> None:
    assert other_candidate(MARKED, "db", RECORD, 1100.0).state is ConsumerState.UNFINISHED
    assert other_candidate(MARKED, "db", RECORD, 1700.0).state is ConsumerState.FAILED


def test_consumer_that_is_complete_held_or_not_restarted_is_settled() -> None:
    complete = replace(MARKED, progress=RolloutProgress(RolloutState.COMPLETE))
    for each in (complete, replace(MARKED, hold=PAUSED), replace(MARKED, marks={}), replace(MARKED, progress=None)):
        assert other_candidate(each, "db", RECORD, 1100.0).state is ConsumerState.SETTLED
