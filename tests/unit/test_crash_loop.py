"""Crash loops: which containers count, which pods belong to the rollout, and what becomes of the workload."""

from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.crash_loop import STEADY_SECONDS, as_failed, crash_reason, is_followed, is_of_rollout
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.rollout_hold import PAUSED
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch

NOW = 2000.0
MARK = mark_name("db")
UNFINISHED = RolloutProgress(RolloutState.UNFINISHED, 3, 1, 3, marked_at=1000)
RESTARTED = Consumer(
    WorkloadRef("Deployment", "team", "web"),
    "1",
    {"db": Reads(whole=True)},
    {},
    {MARK: "v2"},
    Switch.UNSET,
    progress=UNFINISHED,
)


def waiting(reason: str, restarts: int = 0) -> dict[str, Any]:
    return {"restartCount": restarts, "state": {"waiting": {"reason": reason}}}


def running(seconds: int, restarts: int) -> dict[str, Any]:
    minute, second = divmod(int(NOW) - seconds, 60)
    started = {"startedAt": f"1970-01-01T00:{minute:02}:{second:02}Z"}
    return {"restartCount": restarts, "state": {"running": started}}


def ended(code: int, restarts: int) -> dict[str, Any]:
    return {"restartCount": restarts, "state": {"terminated": {"exitCode": code}}}


def reason_of(container: dict[str, Any], is_known: bool = False, field: str = "containerStatuses") -> str:
    return crash_reason({"status": {field: [{"name": "other"}, container]}}, NOW, is_known)


@pytest.mark.parametrize("field", ["containerStatuses", "initContainerStatuses"])
@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (waiting("CrashLoopBackOff", 2), "CrashLoopBackOff"),
        (waiting("CrashLoopBackOff", 1), ""),
        (waiting("CreateContainerConfigError"), "CreateContainerConfigError"),
        (waiting("ImagePullBackOff"), ""),
        (waiting("ErrImagePull", 5), ""),
        (waiting("RunContainerError", 1), ""),
        (waiting("PodInitializing"), ""),
        (running(5, 9), ""),
        (ended(1, 2), "CrashLoopBackOff"),
        (ended(1, 1), ""),
        (ended(0, 9), ""),
        ({}, ""),
    ],
)
def test_container_counts_by_its_reason_and_its_restarts(container: dict[str, Any], reason: str, field: str) -> None:
    assert reason_of(container, field=field) == reason


@pytest.mark.parametrize(
    ("container", "counts"),
    [
        (running(5, 2), True),
        (running(STEADY_SECONDS, 2), False),
        (running(5, 1), False),
        (ended(1, 2), True),
        (ended(0, 2), False),  # an init container that has done its work
        (waiting("ErrImagePull", 2), True),
    ],
)
def test_known_crash_loop_goes_on_until_the_container_runs_steadily(container: dict[str, Any], counts: bool) -> None:
    """A container in a crash loop also runs at times."""
    assert bool(reason_of(container, is_known=True)) is counts


@pytest.mark.parametrize("status", [None, [], {"containerStatuses": None}, {"containerStatuses": [{"state": "odd"}]}])
def test_pod_without_a_known_status_is_no_crash_loop(status: object) -> None:
    assert crash_reason({"status": status}, NOW, True) == ""


def test_pod_belongs_to_the_rollout_if_it_has_the_marks_of_the_template() -> None:
    pod = Pod({"db": Reads(whole=True)}, 5000, marks={MARK: "v2"})
    assert is_of_rollout(pod, RESTARTED)
    assert not is_of_rollout(replace(pod, marks={MARK: "v1"}), RESTARTED)
    assert not is_of_rollout(replace(pod, marks={}), RESTARTED)


def test_pod_of_a_restart_by_time_belongs_to_it_if_it_is_younger() -> None:
    consumer = replace(RESTARTED, by_time=True, marks={}, baseline={MARK: "v2"})
    assert is_of_rollout(Pod({}, 1000), consumer)
    assert not is_of_rollout(Pod({}, 999), consumer)


@pytest.mark.parametrize(
    ("consumer", "followed"),
    [
        (RESTARTED, True),
        (replace(RESTARTED, marks={}), False),
        (replace(RESTARTED, baseline={MARK: "v2"}), False),  # somebody else has started this rollout
        (replace(RESTARTED, hold=PAUSED), False),
        (replace(RESTARTED, progress=replace(UNFINISHED, marked_at=None)), False),
        (replace(RESTARTED, progress=replace(UNFINISHED, state=RolloutState.COMPLETE)), False),
        (replace(RESTARTED, progress=replace(UNFINISHED, state=RolloutState.FAILED)), False),
    ],
)
def test_only_unfinished_rollouts_of_keyturn_are_followed(consumer: Consumer, followed: bool) -> None:
    assert is_followed(consumer) is followed


def test_workload_fails_unless_its_rollout_has_ended_or_its_own_deadline_is_over() -> None:
    failed = as_failed(RESTARTED, "CrashLoopBackOff", NOW)
    assert failed.progress == replace(UNFINISHED, state=RolloutState.FAILED, reason="CrashLoopBackOff")
    complete = replace(RESTARTED, progress=replace(UNFINISHED, state=RolloutState.COMPLETE))
    assert as_failed(complete, "CrashLoopBackOff", NOW) is complete
    late = replace(RESTARTED, ref=WorkloadRef("StatefulSet", "team", "web"))
    assert as_failed(late, "CrashLoopBackOff", NOW) is late
    assert as_failed(late, "CrashLoopBackOff", 1100) is not late
