"""Rollouts are watched to their end: `Live` when the last pod runs the new value, `RolloutStuck` when one goes no
further."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from support.cluster_state import annotations_of, data_of, list_events
from support.manifests import env_from, secret, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
NOWHERE = {"no-node": "has-this"}


def events(stack: Stack, namespace: str, kind: str, name: str, reason: str) -> list[str]:
    return [each["message"] for each in list_events(stack.cluster, namespace, kind, name, reason=reason)]


def patch(stack: Stack, namespace: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    stack.cluster.kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps({"spec": spec}))


@pytest.fixture
def rotate_to(stack: Stack, namespace: str) -> Callable[[str], str]:
    """Create the bound Secret `db`. Return a function that rotates its AWS secret, and returns the id of the new
    version."""
    client = stack.aws.secrets_manager()
    client.create_secret(Name=f"{namespace}/db", SecretString="one")
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    eventually(lambda: data_of(stack.cluster, namespace, "db"))

    def turn(value: str) -> str:
        rotate(client, f"{namespace}/db", value)
        return str(client.get_secret_value(SecretId=f"{namespace}/db")["VersionId"])

    return turn


def consumer(stack: Stack, namespace: str, name: str, kind: str, spec: dict[str, Any]) -> None:
    """Create a workload that reads the Secret, and wait until it has its baseline."""
    made = workload(namespace, name, env_from("db"), kind)
    made["spec"]["minReadySeconds"] = 1
    made["spec"].update(spec)
    stack.cluster.create([made])
    stack.cluster.kubectl("rollout", "status", f"{kind}/{name}", "-n", namespace, "--timeout=120s")
    eventually(lambda: MARK in annotations_of(stack.cluster, kind, namespace, name))


@pytest.mark.parametrize("kind", [each.kind for each in WORKLOAD_KINDS.values() if not each.is_custom])
def test_end_of_a_rollout_is_told_once_on_workload_and_secret(
    stack: Stack, namespace: str, kind: str, rotate_to: Callable[[str], str]
) -> None:
    consumer(stack, namespace, "web", kind, {} if kind == "DaemonSet" else {"replicas": 2})
    before = stack.receiver.metric("keyturn_live_seconds_count", kind=kind)
    summed = stack.receiver.metric("keyturn_live_seconds_sum", kind=kind)
    assert not events(stack, namespace, kind, "web", "Live")
    version = rotate_to("two")
    (message,) = eventually(lambda: events(stack, namespace, kind, "web", "Live"))
    stack.cluster.kubectl("rollout", "status", f"{kind}/web", "-n", namespace, "--watch=false")
    assert message.startswith("Secret db: ")
    assert f"version {version}, " in message
    assert message.endswith(" s after the label moved")
    seconds = int(message.removesuffix(" s after the label moved").rpartition(" ")[2])
    assert 1 <= seconds < 300
    eventually(lambda: stack.receiver.metric("keyturn_live_seconds_count", kind=kind) == before + 1)
    assert stack.receiver.metric("keyturn_live_seconds_sum", kind=kind) == summed + seconds
    (of_secret,) = eventually(lambda: events(stack, namespace, "Secret", "db", "Live"))
    assert of_secret.startswith(f"{kind} web: ")
    assert version in of_secret

    # A restart of somebody else's is not told: Keyturn did not ask for it.
    stack.cluster.kubectl("rollout", "restart", f"{kind}/web", "-n", namespace)
    stack.cluster.kubectl("rollout", "status", f"{kind}/web", "-n", namespace, "--timeout=120s")
    third = rotate_to("three")
    eventually(lambda: any(third in each for each in events(stack, namespace, kind, "web", "Live")))
    assert len(events(stack, namespace, kind, "web", "Live")) == 2
    assert stack.receiver.metric("keyturn_live_seconds_count", kind=kind) == before + 2


def test_rollout_that_goes_no_further_is_told_and_live_once_mended(
    stack: Stack, namespace: str, rotate_to: Callable[[str], str]
) -> None:
    consumer(stack, namespace, "web", "Deployment", {"progressDeadlineSeconds": 3})
    patch(stack, namespace, "deployment", "web", {"paused": True})
    patch(stack, namespace, "deployment", "web", {"template": {"spec": {"nodeSelector": NOWHERE}}})
    version = rotate_to("two")
    eventually(lambda: events(stack, namespace, "Deployment", "web", "NotRestarted"))
    assert stack.receiver.metric("keyturn_rollouts_stuck") == 0  # it is paused, and that was told
    patch(stack, namespace, "deployment", "web", {"paused": False})
    (message,) = eventually(lambda: events(stack, namespace, "Deployment", "web", "RolloutStuck"))
    assert version in message
    assert "1 of 1 pods are new, 1 ready (ProgressDeadlineExceeded; pod web-" in message
    assert ": Unschedulable)" in message
    (of_secret,) = eventually(lambda: events(stack, namespace, "Secret", "db", "RolloutStuck"))
    assert "Deployment web" in of_secret
    assert stack.receiver.metric("keyturn_rollouts_stuck") == 1
    assert not events(stack, namespace, "Deployment", "web", "Live")

    patch(stack, namespace, "deployment", "web", {"template": {"spec": {"nodeSelector": None}}})
    (live,) = eventually(lambda: events(stack, namespace, "Deployment", "web", "Live"))
    assert version in live
    eventually(lambda: stack.receiver.metric("keyturn_rollouts_stuck") == 0)
    assert len(events(stack, namespace, "Deployment", "web", "RolloutStuck")) == 1


def test_partition_is_told_as_it_is_and_live_only_when_it_is_gone(
    stack: Stack, namespace: str, rotate_to: Callable[[str], str]
) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    consumer(stack, namespace, "web", "StatefulSet", {"replicas": 2, "updateStrategy": strategy})
    version = rotate_to("two")
    (message,) = eventually(lambda: events(stack, namespace, "StatefulSet", "web", "PartlyLive"))
    assert f"version {version}: 1 of 2 pods run it; keeps its first pod: lower" in message
    assert not events(stack, namespace, "StatefulSet", "web", "Live")
    patch(stack, namespace, "statefulset", "web", {"updateStrategy": {"rollingUpdate": {"partition": 0}}})
    (live,) = eventually(lambda: events(stack, namespace, "StatefulSet", "web", "Live"))
    assert f"all 2 pods run version {version}" in live


def test_workload_without_pods_is_never_live(stack: Stack, namespace: str, rotate_to: Callable[[str], str]) -> None:
    consumer(stack, namespace, "none", "Deployment", {"replicas": 0})
    consumer(stack, namespace, "web", "Deployment", {})
    rotate_to("two")
    eventually(lambda: events(stack, namespace, "Deployment", "web", "Live"))
    eventually(lambda: events(stack, namespace, "Deployment", "none", "NotRestarted"))
    assert not events(stack, namespace, "Deployment", "none", "Live")
