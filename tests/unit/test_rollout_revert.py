"""What the status of a Secret says about restarts that another writer reverts."""

import pytest

from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.core.revision import MAX_STATUS, OK, read_record, state_of
from keyturn_receiver.core.rollout_revert import RevertCandidate, revert_notice, revert_of
from keyturn_receiver.core.rollout_schedule import ConsumerState

REF = WorkloadRef("Deployment", "team", "web")
OTHER = WorkloadRef("StatefulSet", "team", "db")
TEXT, OTHER_TEXT = revert_of(REF), revert_of(OTHER)
DUE, UNFINISHED, FAILED, SETTLED = (
    ConsumerState.DUE,
    ConsumerState.UNFINISHED,
    ConsumerState.FAILED,
    ConsumerState.SETTLED,
)


@pytest.mark.parametrize(
    ("state", "in_fight", "has_old_pods", "before", "after"),
    [
        # The status begins to tell of a reverted restart only if three things are known: a restart is due, there is a
        # fight, and there are old pods.
        (DUE, True, True, "", TEXT),
        (DUE, True, None, "", ""),
        (DUE, True, False, "", ""),
        (DUE, False, True, "", ""),
        (UNFINISHED, True, True, "", ""),
        # The status goes on to tell of it until the opposite is known, also on a replica that has seen no fight.
        (DUE, True, True, TEXT, TEXT),
        (DUE, False, None, TEXT, TEXT),
        (UNFINISHED, False, None, TEXT, TEXT),
        (DUE, True, False, TEXT, ""),
        (SETTLED, True, True, TEXT, ""),
        (FAILED, True, True, TEXT, ""),
    ],
)
def test_status_begins_with_knowledge_and_ends_with_the_rollout(
    state: ConsumerState, in_fight: bool, has_old_pods: bool | None, before: str, after: str
) -> None:
    assert revert_notice([RevertCandidate(REF, state, in_fight, has_old_pods)], before) == after


def test_one_of_several_workloads_is_named_until_it_is_done() -> None:
    both = [RevertCandidate(OTHER, DUE, True, True), RevertCandidate(REF, DUE, True, True)]
    assert revert_notice(both, "") == TEXT  # in the order of kind and name
    assert revert_notice(both, OTHER_TEXT) == OTHER_TEXT
    assert revert_notice([RevertCandidate(REF, SETTLED), both[0]], TEXT) == OTHER_TEXT


def test_text_of_a_workload_that_is_gone_or_was_forged_ends() -> None:
    unfinished = [RevertCandidate(REF, UNFINISHED)]
    assert revert_notice([], TEXT) == ""
    assert revert_notice(unfinished, OTHER_TEXT) == ""
    assert revert_notice(unfinished, "RestartReverted: nonsense") == ""


def test_notice_is_no_error_of_the_secret_and_two_records_with_and_without_it_are_equal() -> None:
    record = read_record({"keyturn.dev/status": TEXT}, "RestartReverted")
    assert (record.status, record.reverted, record.halt, record.notice) == (OK, TEXT, "", TEXT)
    assert record.labelled
    assert record == read_record({"keyturn.dev/status": OK}, OK)
    halted = read_record({"keyturn.dev/status": "RolloutHalted: Deployment web has failed"})
    assert (halted.status, halted.reverted, bool(halted.halt)) == (OK, "", True)


def test_text_with_the_longest_name_says_what_to_do_and_fits() -> None:
    text = revert_of(WorkloadRef("StatefulSet", "team", "a" * 253))
    assert state_of(text) == "RestartReverted"
    assert text.endswith("keyturn.dev/restart: evict or keyturn.dev/rollout: disabled")
    assert len(text) <= MAX_STATUS
