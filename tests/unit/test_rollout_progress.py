"""Progress of rollouts: complete, unfinished or failed, by the rules of `kubectl rollout status`."""

from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.field_owners import SETTLED_MANAGER
from keyturn_receiver.core.rollout_deadline import fails_at
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState, read_progress
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, StatusForm, WorkloadKind

COMPLETE, UNFINISHED, FAILED = RolloutState.COMPLETE, RolloutState.UNFINISHED, RolloutState.FAILED
AT = "2026-01-01T00:00:02Z"
AT_SECONDS = 1767225602


def workload(spec: dict[str, Any], status: dict[str, Any], generation: int = 3) -> dict[str, Any]:
    status = {"observedGeneration": 3, **status}
    return {"metadata": {"generation": generation}, "spec": spec, "status": status}


def progress(kind: str, spec: dict[str, Any], status: dict[str, Any], generation: int = 3) -> RolloutProgress:
    read = read_progress(WORKLOAD_KINDS[kind], workload(spec, status, generation))
    assert read
    return read


def deployment(replicas: int, updated: int, available: int) -> dict[str, int]:
    return {"replicas": replicas, "updatedReplicas": updated, "availableReplicas": available}


def daemons(desired: int, updated: int, available: int) -> dict[str, int]:
    return {"desiredNumberScheduled": desired, "updatedNumberScheduled": updated, "numberAvailable": available}


def parted(partition: int) -> dict[str, Any]:
    return {"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}


@pytest.mark.parametrize(
    ("kind", "spec", "status", "state", "counts"),
    [
        ("Deployment", {"replicas": 2}, deployment(3, 1, 2), UNFINISHED, (2, 1, 2)),  # the first new pod
        ("Deployment", {"replicas": 2}, deployment(3, 2, 2), UNFINISHED, (2, 2, 2)),  # an old pod is left
        ("Deployment", {"replicas": 2}, deployment(2, 2, 1), UNFINISHED, (2, 2, 1)),  # a new pod is not available
        ("Deployment", {"replicas": 2}, deployment(2, 2, 2), COMPLETE, (2, 2, 2)),
        ("Deployment", {}, deployment(1, 1, 1), COMPLETE, (1, 1, 1)),
        ("Deployment", {"replicas": 2, "paused": True}, {"replicas": 2, "availableReplicas": 2}, UNFINISHED, (2, 0, 2)),
        ("Deployment", {"replicas": 0}, {}, COMPLETE, (0, 0, 0)),
        ("StatefulSet", {"replicas": 2}, {"updatedReplicas": 1, "readyReplicas": 2}, UNFINISHED, (2, 1, 2)),
        ("StatefulSet", {"replicas": 2}, {"updatedReplicas": 2, "readyReplicas": 1}, UNFINISHED, (2, 2, 1)),
        ("StatefulSet", {"replicas": 2}, {"updatedReplicas": 2, "readyReplicas": 2}, COMPLETE, (2, 2, 2)),
        ("StatefulSet", parted(2), {"readyReplicas": 3}, UNFINISHED, (3, 0, 3)),
        ("StatefulSet", parted(2), {"updatedReplicas": 1, "readyReplicas": 3}, COMPLETE, (3, 1, 3)),
        ("DaemonSet", {}, daemons(3, 2, 3), UNFINISHED, (3, 2, 3)),
        ("DaemonSet", {}, daemons(3, 3, 2), UNFINISHED, (3, 3, 2)),
        ("DaemonSet", {}, daemons(3, 3, 3), COMPLETE, (3, 3, 3)),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, daemons(3, 0, 3), UNFINISHED, (3, 0, 3)),
    ],
)
def test_state_follows_from_the_counts_of_the_status(
    kind: str, spec: dict[str, Any], status: dict[str, Any], state: RolloutState, counts: tuple[int, int, int]
) -> None:
    read = progress(kind, spec, status)
    assert (read.state, (read.wanted, read.updated, read.ready)) == (state, counts)
    assert read.observed


@pytest.mark.parametrize("kind", [kind for kind, row in WORKLOAD_KINDS.items() if row.status is not StatusForm.PHASE])
def test_status_of_an_older_template_completes_nothing(kind: str) -> None:
    status = {**deployment(1, 1, 1), **daemons(1, 1, 1), "readyReplicas": 1}
    assert progress(kind, {}, status).is_complete
    assert progress(kind, {}, status, generation=2).is_complete
    for unobserved in (progress(kind, {}, status, generation=4), progress(kind, {}, {"observedGeneration": None})):
        assert (unobserved.state, unobserved.observed) == (UNFINISHED, False)


def progressing(reason: str) -> dict[str, Any]:
    later = "2026-01-01T00:09:00Z"  # the last change of another condition, which does not count
    other = {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "lastUpdateTime": later}
    return {"conditions": [other, {"type": "Progressing", "reason": reason, "lastUpdateTime": AT}]}


def test_deployment_whose_deadline_has_passed_has_failed_until_it_is_complete() -> None:
    failed = progress("Deployment", {}, {**deployment(2, 1, 1), **progressing("ProgressDeadlineExceeded")})
    assert (failed.state, failed.reason, failed.finished_at) == (FAILED, "ProgressDeadlineExceeded", None)
    mended = progress("Deployment", {}, {**deployment(1, 1, 1), **progressing("NewReplicaSetAvailable")})
    assert (mended.state, mended.reason) == (COMPLETE, "")
    older = {**deployment(2, 1, 1), **progressing("ProgressDeadlineExceeded")}
    assert progress("Deployment", {}, older, generation=4).state is UNFINISHED  # the deadline of an older template


def revisions(current: str, update: str, updated: int = 2) -> dict[str, Any]:
    named = {"currentRevision": current, "updateRevision": update}
    return {"replicas": 2, "updatedReplicas": updated, "readyReplicas": 1, **named}


@pytest.mark.parametrize(
    ("kind", "status", "has_ended"),
    [
        ("Deployment", {**deployment(2, 2, 1), **progressing("NewReplicaSetAvailable")}, True),  # a pod has failed
        ("Deployment", {**deployment(1, 1, 1), **progressing("NewReplicaSetAvailable")}, True),  # it was scaled up
        ("Deployment", {**deployment(3, 2, 2), **progressing("NewReplicaSetAvailable")}, False),  # an old pod is left
        ("Deployment", {**deployment(2, 2, 1), **progressing("ReplicaSetUpdated")}, False),
        ("Deployment", deployment(2, 2, 1), False),
        ("StatefulSet", revisions("web-2", "web-2"), True),
        ("StatefulSet", revisions("web-1", "web-2"), False),
        ("StatefulSet", revisions("web-1", "web-1", updated=1), False),  # a former template is back
        ("StatefulSet", revisions("", ""), False),
        ("StatefulSet", {"updatedReplicas": 2, "readyReplicas": 1}, False),
        ("DaemonSet", daemons(2, 2, 1), False),
    ],
)
def test_status_tells_a_later_failure_from_the_rollout(kind: str, status: dict[str, Any], has_ended: bool) -> None:
    marked = marked_at(workload({"replicas": 2}, status), AT_SECONDS - 1)
    read = read_progress(WORKLOAD_KINDS[kind], marked)
    assert read
    assert (read.state, read.has_ended) == (UNFINISHED, has_ended)
    marked["metadata"]["generation"] = 4
    older = read_progress(WORKLOAD_KINDS[kind], marked)
    assert older
    assert not older.has_ended


def test_mark_that_restarts_nobody_does_not_open_a_rollout_that_has_ended() -> None:
    """It has a field manager of its own, so its time is not that of the restart."""
    status = {**deployment(2, 2, 1), **progressing("NewReplicaSetAvailable")}
    ended = marked_at(workload({"replicas": 2}, status), AT_SECONDS - 1)
    later = datetime.fromtimestamp(AT_SECONDS + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended["metadata"]["managedFields"].append({"manager": SETTLED_MANAGER, "operation": "Update", "time": later})
    read = read_progress(WORKLOAD_KINDS["Deployment"], ended)
    assert read
    assert (read.state, read.has_ended, read.marked_at) == (UNFINISHED, True, AT_SECONDS - 1)


def marked_at(obj: dict[str, Any], seconds: int) -> dict[str, Any]:
    at = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    obj["metadata"]["managedFields"] = [{"manager": "keyturn", "operation": "Update", "time": at}]
    return obj


@pytest.mark.parametrize("seconds", [AT_SECONDS, AT_SECONDS + 5])
def test_end_of_the_rollout_before_the_mark_does_not_count(seconds: int) -> None:
    """A Deployment with the strategy Recreate has no pods at first, and still has the condition of its last rollout."""
    recreated = workload({"replicas": 2}, {**deployment(0, 0, 0), **progressing("NewReplicaSetAvailable")})
    read = read_progress(WORKLOAD_KINDS["Deployment"], marked_at(recreated, seconds))
    assert read
    assert (read.state, read.has_ended) == (UNFINISHED, False)


@pytest.mark.parametrize(("updated", "seconds"), [(1, 600 * 2), (2, 5000 + 600)])
def test_node_that_joins_later_does_not_fail_a_daemon_sets_rollout(updated: int, seconds: float) -> None:
    """Once all pods of a DaemonSet have the new template, its status does not tell whose pod is not ready. Then only a
    status that does not change is a failure."""
    late = RolloutProgress(UNFINISHED, 2, updated, 1, deadline=600, marked_at=0, changed_at=5000)
    assert fails_at("DaemonSet", late) == seconds
    assert fails_at("StatefulSet", late) == 600 * 2


def test_end_is_told_by_the_control_planes_clock() -> None:
    status = {**deployment(1, 1, 1), **progressing("NewReplicaSetAvailable")}
    assert progress("Deployment", {}, status).finished_at == AT_SECONDS

    written = workload({}, {"updatedReplicas": 1, "readyReplicas": 1})
    written["metadata"]["managedFields"] = [
        {"manager": "helm", "operation": "Update", "time": "2026-01-01T00:08:00Z"},
        {"manager": "kube-controller-manager", "subresource": "status", "time": AT},
        {"manager": "other", "subresource": "status", "time": "2026-01-01T00:00:01Z"},
    ]
    read = read_progress(WORKLOAD_KINDS["StatefulSet"], written)
    assert read
    assert read.finished_at == AT_SECONDS
    assert progress("StatefulSet", {}, {"updatedReplicas": 1, "readyReplicas": 1}).finished_at is None


def test_deadline_is_the_deployments_own_or_ten_minutes() -> None:
    assert progress("Deployment", {"progressDeadlineSeconds": 90}, {}).deadline == 90
    assert progress("StatefulSet", {}, {}).deadline == 600


def test_progress_of_an_unknown_kind_is_not_told() -> None:
    assert read_progress(WorkloadKind("Rollout", "example.org/v1", "rollouts"), workload({}, {})) is None


@pytest.mark.parametrize("status", [None, [], {"observedGeneration": "3", "replicas": True, "conditions": [7]}])
def test_status_that_is_not_understood_is_unfinished(status: Any) -> None:
    read = read_progress(WORKLOAD_KINDS["Deployment"], {"metadata": {"generation": 3}, "status": status})
    assert read
    assert read.state is UNFINISHED


def test_change_of_progress_is_told_and_triggers_no_check() -> None:
    index, told, checked = ConsumerIndex(), list[tuple[Consumer | None, Consumer]](), list[Target]()
    index.add_handler(checked.append)
    index.add_progress_handler(lambda before, after: told.append((before, after)))
    cache = ConsumerCache(WORKLOAD_KINDS["Deployment"], index)

    def see(status: dict[str, Any], mark: str | None = None, generation: int = 3) -> None:
        obj = workload({"replicas": 2}, status, generation)
        obj["metadata"] |= {"namespace": "team", "name": "web", "resourceVersion": "1"}
        obj["spec"]["template"] = {
            "metadata": {"annotations": {"revision.keyturn.dev/db": mark} if mark else {}},
            "spec": {"volumes": [{"secret": {"secretName": "db"}}]},
        }
        cache.update(cache.transform(obj))

    see(deployment(2, 2, 2))
    ((before, first),) = told
    assert before is None
    assert first.progress
    assert first.progress.is_complete
    assert len(checked) == 1

    see(deployment(2, 2, 2), "one", generation=4)  # no controller has seen the mark yet
    see({**deployment(3, 1, 2), "observedGeneration": 4}, "one", generation=4)
    see({**deployment(3, 1, 2), "observedGeneration": 4, "fullyLabeledReplicas": 1}, "one", generation=4)
    see({**deployment(2, 2, 2), "observedGeneration": 4}, "one", generation=4)
    states = [after.progress.state for _, after in told if after.progress]
    assert states == [COMPLETE, UNFINISHED, UNFINISHED, COMPLETE]
    assert [each.progress for each, _ in told[1:] if each] == [after.progress for _, after in told[:-1]]
    assert len(checked) == 2  # only the mark led to a check

    # A list shows a mark and the complete rollout for it at once.
    see({**deployment(2, 2, 2), "observedGeneration": 5}, "two", generation=5)
    assert told[-1][1].marks == {"revision.keyturn.dev/db": "two"}
    assert len(told) == 5
