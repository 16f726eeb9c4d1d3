"""Progress of an Argo Rollout's restart, as the Rollout's status shows it. The statuses have the form in which Argo
writes them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.cluster.wanted_fields import workload_decoder
from keyturn_receiver.core.argo_progress import MAX_LEAD
from keyturn_receiver.core.consumer import Consumer, read_consumer
from keyturn_receiver.core.mark import present_mark
from keyturn_receiver.core.open_rollouts import is_open, is_restarted
from keyturn_receiver.core.restart_way import RESTART
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_candidate import other_candidate
from keyturn_receiver.core.rollout_hold import PAUSED
from keyturn_receiver.core.rollout_progress import DEFAULT_DEADLINE, RolloutState
from keyturn_receiver.core.rollout_schedule import INFINITY, ConsumerState
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS

ROLLOUT = WORKLOAD_KINDS["Rollout"]
COMPLETE, UNFINISHED, FAILED = RolloutState.COMPLETE, RolloutState.UNFINISHED, RolloutState.FAILED
POD = {"containers": [{"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}]}
RECORD = Record(revisions={"password": "v2"})
MARK = "revision.keyturn.dev/db"
T = 1_764_000_000  # 2025-11-24T16:00:00Z: the time of Keyturn's write
HEALTHY = {
    "observedGeneration": "3",
    "phase": "Healthy",
    "currentPodHash": "7d9f",
    "stableRS": "7d9f",
    "replicas": 2,
    "updatedReplicas": 2,
    "readyReplicas": 2,
    "availableReplicas": 2,
}


def at(second: int) -> str:
    return f"2025-11-24T16:00:{second:02}Z"


def rollout(status: dict[str, Any], restart_at: str | None = None, marked: bool = True) -> Consumer:
    """Return a Rollout of two replicas as the watch shows it. It restarts by time unless ``restart_at`` is None."""
    by_time = restart_at is not None
    annotations = {RESTART: "restart-at"} if by_time else {}
    mark = {MARK: RECORD.digest} if marked else {}
    managed = [
        {"manager": "keyturn", "operation": "Update", "time": at(0)} if marked else {"manager": "helm"},
        {"manager": "rollouts-controller", "operation": "Update", "subresource": "status", "time": at(9)},
    ]
    obj = {
        "metadata": {
            "namespace": "team",
            "name": "web",
            "resourceVersion": "1",
            "generation": 3,
            "annotations": annotations | (mark if by_time else {}),
            "managedFields": managed,
        },
        "spec": {
            "replicas": 2,
            "template": {"metadata": {"annotations": {} if by_time else mark}, "spec": POD},
            **({"restartAt": restart_at} if restart_at else {}),
        },
        "status": status,
    }
    read = read_consumer(ROLLOUT, workload_decoder(ROLLOUT).decode(json.dumps(obj)))
    assert read
    return read


@pytest.mark.parametrize(
    ("change", "restart_at", "has_ended"),
    [
        ({"phase": "Progressing", "availableReplicas": 1}, None, True),  # a pod has failed after the end of the rollout
        ({"phase": "Progressing", "stableRS": "older"}, None, False),
        (
            {"phase": "Progressing", "replicas": 3},
            None,
            False,
        ),  # the stable template is back, and a canary's pod is left
        ({"phase": "Progressing", "currentPodHash": "", "stableRS": ""}, None, False),
        ({"phase": "Progressing", "observedGeneration": "2"}, None, False),
        ({"phase": "Progressing"}, at(1), False),  # a restart by time makes no revision
    ],
)
def test_stable_revision_tells_a_later_failure_from_the_rollout(
    change: dict[str, Any], restart_at: str | None, has_ended: bool
) -> None:
    progress = rollout({**HEALTHY, **change}, restart_at).progress
    assert progress
    assert (progress.state, progress.has_ended) == (UNFINISHED, has_ended)


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ({}, COMPLETE, ""),
        ({"observedGeneration": "2"}, UNFINISHED, ""),  # the status is about an older template
        ({"observedGeneration": 3}, UNFINISHED, ""),  # no release of Argo writes a number
        ({"observedGeneration": "5b8c7d"}, UNFINISHED, ""),  # release 0.9 wrote a hash
        ({"phase": "Progressing"}, UNFINISHED, ""),
        ({"phase": "Paused", "stableRS": "older", "updatedReplicas": 1}, UNFINISHED, ""),
        ({"stableRS": "older"}, UNFINISHED, ""),
        ({"currentPodHash": "", "stableRS": ""}, UNFINISHED, ""),
        ({"updatedReplicas": 1}, UNFINISHED, ""),
        ({"availableReplicas": 1}, UNFINISHED, ""),
        ({"replicas": 4}, COMPLETE, ""),  # blue-green keeps the old pods for a while, and sends them no traffic
        ({"phase": "Degraded", "stableRS": "older"}, FAILED, "Degraded"),
        (
            {"phase": "Degraded", "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]},
            FAILED,
            "ProgressDeadlineExceeded",
        ),
        (
            {"phase": "Degraded", "conditions": [{"type": "Progressing", "reason": "RolloutAborted"}]},
            FAILED,
            "RolloutAborted",
        ),
        ({"phase": "Degraded", "observedGeneration": "2"}, UNFINISHED, ""),
    ],
)
def test_new_revision_is_complete_when_argo_calls_it_healthy_and_stable(
    change: dict[str, Any], state: RolloutState, reason: str
) -> None:
    progress = rollout({**HEALTHY, **change}).progress
    assert progress
    if state is COMPLETE and not (change.get("phase") or change.get("observedGeneration")):
        assert (progress.wanted, progress.updated, progress.ready) == (2, 2, 2)
        assert progress.finished_at == T + 9
    assert (progress.state, progress.reason) == (state, reason)


@pytest.mark.parametrize("status", [{}, {"phase": "Progressing"}, {"observedGeneration": ""}])
def test_rollout_that_no_controller_has_observed_holds_up_nobody(status: dict[str, Any]) -> None:
    read = rollout(status)
    assert read.progress is None
    assert not is_open(read)


def test_end_is_the_time_of_argos_own_condition() -> None:
    done = {"type": "Progressing", "reason": "NewReplicaSetAvailable", "lastUpdateTime": at(7)}
    progress = rollout({**HEALTHY, "conditions": [done]}).progress
    assert progress
    assert (progress.finished_at, progress.marked_at) == (T + 7, T)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"restartedAt": at(1)}, COMPLETE),
        ({"restartedAt": "2025-11-24T17:00:01+01:00"}, COMPLETE),
        ({"restartedAt": at(1), "phase": "Paused"}, COMPLETE),  # paused by spec.paused; the restart works nevertheless
        ({}, UNFINISHED),
        ({"restartedAt": at(0)}, UNFINISHED),
        ({"restartedAt": at(1), "phase": "Progressing"}, UNFINISHED),
        ({"restartedAt": at(1), "availableReplicas": 1}, UNFINISHED),
        # Argo drops the restart when the template changes. The old pods are gone once the new revision is stable.
        ({"restartedAt": at(1), "phase": "Paused", "stableRS": "older"}, UNFINISHED),
        ({"restartedAt": at(1), "phase": "Degraded", "stableRS": "older"}, FAILED),
    ],
)
def test_restart_by_time_is_complete_when_argo_has_noted_its_time(change: dict[str, Any], state: RolloutState) -> None:
    consumer = rollout({**HEALTHY, **change}, restart_at=at(1))
    assert consumer.by_time
    assert consumer.progress
    assert consumer.progress.state is state
    assert present_mark(consumer, "db", RECORD) == RECORD.digest
    assert is_restarted(consumer, "db", RECORD)
    assert is_open(consumer) is (state is UNFINISHED)


@pytest.mark.parametrize(
    ("failed_at", "change", "state"),
    [
        ("2025-11-24T15:59:59Z", {"restartedAt": at(1)}, COMPLETE),
        ("2025-11-24T15:59:59Z", {}, UNFINISHED),
        ("2025-11-24T15:59:59Z", {"restartedAt": at(1), "availableReplicas": 1}, UNFINISHED),
        (at(3), {"restartedAt": at(1)}, FAILED),
        ("", {"restartedAt": at(1)}, FAILED),
    ],
)
def test_release_that_was_aborted_before_is_no_failure_of_a_restart_by_time(
    failed_at: str, change: dict[str, Any], state: RolloutState
) -> None:
    """Argo restarts the pods of the stable release, and the phase stays Degraded."""
    aborted = {"type": "Progressing", "reason": "RolloutAborted", "lastUpdateTime": failed_at}
    status = {**HEALTHY, "phase": "Degraded", "stableRS": "older", "conditions": [aborted], **change}
    progress = rollout(status, restart_at=at(1)).progress
    assert progress
    assert progress.state is state


def test_restart_by_time_after_an_abort_has_a_deadline() -> None:
    """Argo goes on to report the abort, and never that the new pods are not ready."""
    aborted = {"type": "Progressing", "reason": "RolloutAborted", "lastUpdateTime": "2025-11-24T15:59:59Z"}
    status = {**HEALTHY, "phase": "Degraded", "stableRS": "older", "conditions": [aborted], "availableReplicas": 1}
    consumer = rollout(status, restart_at=at(1))
    assert consumer.progress
    assert consumer.progress.deadline == DEFAULT_DEADLINE
    before = other_candidate(consumer, "db", RECORD, T)
    assert before.state is ConsumerState.UNFINISHED
    assert T < before.fails_at <= T + 60 + DEFAULT_DEADLINE
    assert other_candidate(consumer, "db", RECORD, before.fails_at).state is ConsumerState.FAILED


def test_restart_by_time_that_nobody_or_somebody_else_has_planned_has_no_progress() -> None:
    assert rollout(HEALTHY, restart_at="").progress is None
    assert rollout(HEALTHY, restart_at="2025-11-25T00:00:00Z").progress is None
    assert MAX_LEAD < 3600
    assert rollout(HEALTHY, restart_at=at(1), marked=False).progress is None
    assert not is_open(rollout(HEALTHY, restart_at="2025-11-25T00:00:00Z"))


def test_canary_takes_its_time_and_fails_only_if_argo_says_so() -> None:
    paused = rollout({**HEALTHY, "phase": "Paused", "stableRS": "older"})
    candidate = other_candidate(paused, "db", RECORD, T + 1e6)
    assert (candidate.state, candidate.fails_at) == (ConsumerState.UNFINISHED, INFINITY)
    failed = rollout({**HEALTHY, "phase": "Degraded", "stableRS": "older"})
    assert other_candidate(failed, "db", RECORD, T).state is ConsumerState.FAILED
    # The restart was over. Then a pod became unavailable, for example because its node is gone.
    later = rollout({**HEALTHY, "phase": "Degraded", "availableReplicas": 1})
    assert other_candidate(later, "db", RECORD, T).state is ConsumerState.SETTLED
    invalid = rollout({**HEALTHY, "phase": "Degraded", "conditions": [{"type": "InvalidSpec", "status": "True"}]})
    assert other_candidate(invalid, "db", RECORD, T).state is ConsumerState.FAILED
    assert other_candidate(replace(failed, hold=PAUSED), "db", RECORD, T).state is ConsumerState.SETTLED
    assert other_candidate(rollout(HEALTHY), "db", RECORD, T).state is ConsumerState.SETTLED
