"""Rollout schedule: who may be restarted now, and what the others wait for."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.core.rollout_order import ORDER, order_faults, read_order
from keyturn_receiver.core.rollout_pace import PACE, pace_faults, read_pace
from keyturn_receiver.core.rollout_schedule import (
    INFINITY,
    Candidate,
    ConsumerState,
    Schedule,
    WaitReason,
    schedule,
)

NOW = 1000.0
DUE, UNFINISHED, FAILED, SETTLED = ConsumerState


def ref(name: str) -> WorkloadRef:
    return WorkloadRef("Deployment", "team", name)


def candidate(name: str, state: ConsumerState = DUE, **more: Any) -> Candidate:
    return Candidate(ref(name), state, **more)


def started(made: Schedule) -> list[str]:
    return [each.name for each in made.start]


def reasons(made: Schedule) -> dict[str, WaitReason]:
    return {each.name: wait.reason for each, wait in made.waits.items()}


def test_first_ones_in_order_take_the_slots() -> None:
    made = schedule([candidate("c"), candidate("a"), candidate("b")], NOW, 2)
    assert started(made) == ["a", "b"]
    assert reasons(made) == {"c": WaitReason.PACE}
    assert made.look_again_at == INFINITY


def test_stage_waits_until_every_consumer_of_lower_order_is_complete() -> None:
    canary, next_one, last = candidate("z", order=-1), candidate("y", order=2), candidate("a")
    made = schedule([last, next_one, canary], NOW, 10)
    assert (started(made), made.waits[ref("a")].behind) == (["z"], ref("z"))
    made = schedule([last, next_one, replace(canary, state=UNFINISHED)], NOW, 10)
    assert started(made) == []
    assert reasons(made) == {"a": WaitReason.ORDER, "y": WaitReason.ORDER}
    made = schedule([last, next_one, replace(canary, state=SETTLED)], NOW, 10)
    assert started(made) == ["y"]


def test_closed_window_of_a_canary_holds_up_those_behind_it_alone() -> None:
    canary, beside = candidate("a", order=1, window_opens_at=NOW + 60), candidate("b", order=1)
    made = schedule([canary, beside, candidate("c", order=2)], NOW, 10)
    assert started(made) == ["b"]
    assert reasons(made) == {"a": WaitReason.WINDOW, "c": WaitReason.ORDER}
    assert (made.waits[ref("a")].until, made.look_again_at) == (NOW + 60, NOW + 60)


def test_failed_consumer_halts_all_until_somebody_goes_on() -> None:
    everyone = [candidate("a", FAILED), candidate("b"), candidate("c", UNFINISHED)]
    made = schedule(everyone, NOW, 10)
    assert (started(made), made.halted_by) == ([], ref("a"))
    assert reasons(made) == {"b": WaitReason.HALT}
    made = schedule(everyone, NOW, 10, resumed=True)
    assert (started(made), made.halted_by) == (["b"], None)


@pytest.mark.parametrize("state", [DUE, UNFINISHED])
def test_halt_stays_until_the_consumer_that_has_failed_is_settled(state: ConsumerState) -> None:
    """It is due again if somebody has rolled it back, and unfinished after its next restart. It alone is restarted,
    even if others come first in the order."""
    everyone = [candidate("a", order=1), candidate("b", state, order=2), candidate("c", order=2)]
    made = schedule(everyone, NOW, 10, halting=ref("b"))
    assert (started(made), made.halted_by) == (["b"] if state is DUE else [], ref("b"))
    assert reasons(made) == {"a": WaitReason.HALT, "c": WaitReason.HALT}
    assert started(schedule(everyone, NOW, 10, resumed=True, halting=ref("b"))) == ["a"]
    everyone[1] = candidate("b", SETTLED, order=2)
    assert started(schedule(everyone, NOW, 10, halting=ref("b"))) == ["a"]


def test_consumer_that_has_failed_keeps_its_window_when_it_is_due_again() -> None:
    made = schedule([candidate("a", window_opens_at=NOW + 60), candidate("b")], NOW, 10, halting=ref("a"))
    assert (started(made), made.halted_by, made.look_again_at) == ([], ref("a"), NOW + 60)
    assert reasons(made) == {"a": WaitReason.WINDOW, "b": WaitReason.HALT}


def test_nothing_is_halted_if_nobody_is_due() -> None:
    assert schedule([candidate("a", FAILED), candidate("b", SETTLED)], NOW, 10) == Schedule()


def test_restart_without_a_slot_of_its_own_needs_none() -> None:
    made = schedule([candidate("a", takes_slot=False), candidate("b")], NOW, 0)
    assert started(made) == ["a"]
    assert reasons(made) == {"b": WaitReason.PACE}


def test_backed_off_consumer_leaves_its_slot_to_the_next() -> None:
    made = schedule([candidate("a", backed_off_until=NOW + 5), candidate("b")], NOW, 1)
    assert started(made) == ["b"]
    assert reasons(made) == {"a": WaitReason.BACKOFF}
    assert made.look_again_at == NOW + 5


def test_schedule_is_looked_at_again_when_an_unfinished_rollout_fails() -> None:
    made = schedule([candidate("a", UNFINISHED, fails_at=NOW + 9), candidate("b")], NOW, 0)
    assert made.look_again_at == NOW + 9


CANDIDATES = st.builds(
    Candidate,
    st.builds(WorkloadRef, st.sampled_from(["DaemonSet", "Deployment"]), st.just("team"), st.text("abc", min_size=1)),
    st.sampled_from(ConsumerState),
    st.none() | st.integers(-2, 2),
    st.sampled_from([0.0, NOW + 10]),
    st.booleans(),
    st.sampled_from([0.0, NOW + 20]),
)


@given(st.lists(CANDIDATES, unique_by=lambda each: each.ref), st.integers(-1, 4), st.integers(-1, 4), st.booleans())
def test_every_due_consumer_starts_or_has_a_reason(
    everyone: list[Candidate], slots: int, shared: int, resumed: bool
) -> None:
    made = schedule(everyone, NOW, slots, shared, resumed)
    due = {each.ref for each in everyone if each.state is DUE}
    assert {*made.start} | made.waits.keys() == due
    assert not {*made.start} & made.waits.keys()
    by_ref = {each.ref: each for each in everyone}
    assert sum(by_ref[each].takes_slot for each in made.start) <= max(0, min(slots, shared))
    before = [each for each in everyone if each.state in (DUE, UNFINISHED)]
    for each in made.start:
        assert not any(other.stage < by_ref[each].stage for other in before)
        assert by_ref[each].window_opens_at <= NOW
    assert schedule(reversed(everyone), NOW, slots, shared, resumed) == made
    if made.start and not resumed:
        assert not any(each.state is FAILED for each in everyone)


def test_replica_that_lags_starts_only_what_the_other_has_started() -> None:
    """The other replica has seen that rollouts ended, and has started the next ones."""
    names = [f"web-{number}" for number in range(9)]
    earlier = [candidate(name, UNFINISHED if number < 3 else DUE) for number, name in enumerate(names)]
    ended = [replace(each, state=SETTLED) if each.ref.name in ("web-0", "web-2") else each for each in earlier]
    of_leader = started(schedule(ended, NOW, 3 - 1))
    half_seen = [replace(each, state=SETTLED) if each.ref.name == "web-0" else each for each in earlier]
    assert of_leader == ["web-3", "web-4"]
    assert started(schedule(half_seen, NOW, 3 - 2)) == ["web-3"]
    assert started(schedule(earlier, NOW, 3 - 3)) == []


@pytest.mark.parametrize(("text", "order"), [("1", 1), (" -2 ", -2), ("+3", 3), ("007", 7)])
def test_order_is_an_integer_on_the_workload_or_its_pod_template(text: str, order: int) -> None:
    assert read_order({ORDER: text}, {}) == read_order({}, {ORDER: text}) == order
    assert order_faults({ORDER: text}, {ORDER: text}) == ()


@pytest.mark.parametrize("text", ["first", "", "1.5", "1e3", "1234567", "१"])
def test_order_that_is_no_number_is_a_fault(text: str) -> None:
    assert read_order({ORDER: text}, {}) is None
    (fault,) = order_faults({}, {ORDER: text})
    assert fault.startswith(f"annotation {ORDER} on the pod template is ")
    assert "write an integer" in fault


def test_orders_that_contradict_each_other_are_a_fault() -> None:
    (fault,) = order_faults({ORDER: "1"}, {ORDER: "2"})
    assert fault == f"annotation {ORDER} is 1, and 2 on the pod template: write it once"


@pytest.mark.parametrize("text", ["0", "-1", "ten", "", "1.5", "10000000", "00"])
def test_pace_below_one_is_a_fault(text: str) -> None:
    assert read_pace({PACE: text}) is None
    (fault,) = pace_faults({PACE: text})
    assert "1 or more" in fault


def test_pace_is_a_number() -> None:
    assert (read_pace({}), read_pace({PACE: "3"}), pace_faults({PACE: " 3 "}), pace_faults({})) == (None, 3, (), ())
