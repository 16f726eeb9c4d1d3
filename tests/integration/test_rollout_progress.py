"""Progress of rollouts, as the real controllers report it: what counts as complete is complete for `kubectl rollout
status`, too, and a rollout ends when its last pod is ready."""

import json
from datetime import datetime
from typing import Any

import pytest

from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.cluster.wanted_fields import workload_decoder
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState, read_progress
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from support.manifests import workload
from support.wait import eventually


def progress(control_plane: ControlPlane, kind: str, namespace: str) -> RolloutProgress:
    arguments = ("get", kind.lower(), "web", "-n", namespace, "-o", "json", "--show-managed-fields")
    known = WORKLOAD_KINDS[kind]
    read = read_progress(known, workload_decoder(known).decode(control_plane.kubectl(*arguments)))
    assert read
    return read


def mark(control_plane: ControlPlane, kind: str, namespace: str, **annotations: str) -> None:
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    arguments = ("patch", kind.lower(), "web", "-n", namespace, "--field-manager=keyturn", "-p", json.dumps(patch))
    control_plane.kubectl(*arguments)


def last_ready(control_plane: ControlPlane, namespace: str) -> float:
    pods = [pod for pod in control_plane.list("pods", namespace) if not pod["metadata"].get("deletionTimestamp")]
    conditions = [each for pod in pods for each in pod["status"]["conditions"] if each["type"] == "Ready"]
    return max(datetime.fromisoformat(each["lastTransitionTime"]).timestamp() for each in conditions)


@pytest.mark.parametrize("kind", [each.kind for each in WORKLOAD_KINDS.values() if not each.is_custom])
def test_rollout_is_complete_when_the_last_pod_of_the_new_template_is_ready(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    made: dict[str, Any] = workload(namespace, "web", {}, kind)
    if kind != "DaemonSet":
        made["spec"]["replicas"] = 2
    control_plane.create([made])
    first = eventually(lambda: (seen := progress(control_plane, kind, namespace)).is_complete and seen)

    mark(control_plane, kind, namespace, **{"keyturn.dev/ready-after": "3s"})
    unfinished = progress(control_plane, kind, namespace)
    assert unfinished.state is RolloutState.UNFINISHED
    second = eventually(lambda: (seen := progress(control_plane, kind, namespace)).is_complete and seen)
    control_plane.kubectl("rollout", "status", f"{kind}/web", "-n", namespace, "--watch=false")
    assert second.wanted == second.updated == second.ready >= 1
    assert first.finished_at
    assert second.finished_at
    # The times are in whole seconds, and the controller learns a little late that a pod is ready.
    assert 0 <= second.finished_at - last_ready(control_plane, namespace) < 30
    assert second.finished_at > first.finished_at


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_pod_that_is_replaced_later_is_no_part_of_the_rollout(
    control_plane: ControlPlane, namespace: str, kind: str
) -> None:
    made: dict[str, Any] = workload(namespace, "web", {}, kind)
    made["spec"]["replicas"] = 2
    control_plane.create([made])
    eventually(lambda: progress(control_plane, kind, namespace).is_complete)

    mark(control_plane, kind, namespace, **{"keyturn.dev/ready-after": "3s"})
    while not (seen := progress(control_plane, kind, namespace)).is_complete:
        assert not seen.has_ended
    pod = control_plane.list("pods", namespace)[0]
    control_plane.delete([pod], wait=False)
    later = eventually(lambda: not (seen := progress(control_plane, kind, namespace)).is_complete and seen)
    assert (later.state, later.has_ended) == (RolloutState.UNFINISHED, True)
    while not (seen := progress(control_plane, kind, namespace)).is_complete:
        assert seen.has_ended


def test_deployment_that_goes_no_further_fails_and_completes_once_mended(
    control_plane: ControlPlane, namespace: str
) -> None:
    made: dict[str, Any] = workload(namespace, "web", {})
    made["spec"] |= {"progressDeadlineSeconds": 2, "minReadySeconds": 0}
    control_plane.create([made])
    eventually(lambda: progress(control_plane, "Deployment", namespace).is_complete)
    mark(control_plane, "Deployment", namespace, **{"keyturn.dev/ready-after": "never"})
    failed = eventually(lambda: (seen := progress(control_plane, "Deployment", namespace)).reason and seen)
    assert (failed.state, failed.reason) == (RolloutState.FAILED, "ProgressDeadlineExceeded")
    assert (failed.wanted, failed.ready, failed.deadline) == (1, 1, 2)
    mark(control_plane, "Deployment", namespace, **{"keyturn.dev/ready-after": "0s"})
    eventually(lambda: progress(control_plane, "Deployment", namespace).is_complete)
