"""Readers that Keyturn does not restart, on the real API server with its own controllers: each is reported once, and no
other reader is reported."""

import json
import time
from typing import Any

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from support.cluster_state import data_of
from support.manifests import secret, workload
from support.wait import eventually

pytestmark = pytest.mark.long

POD = "a bare pod keeps what it read by env or subPath until you create it again"
REPLICA_SET = "its pods keep what they read by env or subPath until you delete them"


def reads(key: str) -> dict[str, Any]:
    variable = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}}
    return {"container": {"env": [variable]}}


def pod_spec(key: str, **more: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "none", **reads(key)["container"]}
    return {"containers": [container], "terminationGracePeriodSeconds": 0, **more}


def pod(namespace: str, name: str, key: str, **metadata: Any) -> dict[str, Any]:
    made = {"namespace": namespace, "name": name, **metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": pod_spec(key)}


def job(namespace: str, name: str, key: str, ends: bool = False) -> dict[str, Any]:
    """Return a Job whose pod the simulated node ends at once, or never."""
    template: dict[str, Any] = {"spec": pod_spec(key, restartPolicy="Never")}
    if not ends:
        template["metadata"] = {"annotations": {"keyturn.dev/ready-after": "never"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"template": template},
    }


def cron_job(namespace: str, name: str, key: str) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "schedule": "0 0 31 2 *",  # never
            "jobTemplate": {"spec": {"template": {"spec": pod_spec(key, restartPolicy="Never")}}},
        },
    }


def told(stack: Stack, namespace: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return type and message of the Events NotRestarted, by the kind and the name of their object."""
    events = stack.cluster.list("events", namespace)
    return {
        (each["involvedObject"]["kind"], each["involvedObject"]["name"]): (each["type"], each["message"])
        for each in events
        if each["reason"] == "NotRestarted"
    }


def pods(stack: Stack, namespace: str) -> list[str]:
    return [each["metadata"]["name"] for each in stack.cluster.list("pods", namespace)]


def bound(stack: Stack, namespace: str) -> Any:
    client = stack.aws.secrets_manager()
    client.create_secret(Name=f"{namespace}/db", SecretString=json.dumps({"a": "1", "b": "1"}))
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    eventually(lambda: data_of(stack.cluster, namespace, "db"))
    return client


def test_readers_that_nobody_restarts_are_told_on_the_secret_and_on_themselves(stack: Stack, namespace: str) -> None:
    client = bound(stack, namespace)
    # A controller that Keyturn does not know. The local control plane does not run it, so its pods are made here.
    metadata = {"namespace": namespace, "name": "other"}
    template = {"metadata": {"labels": {"app": "other"}}, "spec": pod_spec("a")}
    spec = {"replicas": 0, "selector": {"app": "other"}, "template": template}
    stack.cluster.create([{"apiVersion": "v1", "kind": "ReplicationController", "metadata": metadata, "spec": spec}])
    owner = {"apiVersion": "v1", "kind": "ReplicationController", "name": "other", "controller": True}
    owner["uid"] = stack.cluster.get("replicationcontroller", "other", namespace)["metadata"]["uid"]
    stack.cluster.create(
        [
            pod(namespace, "bare", "a"),
            pod(namespace, "other-1", "a", ownerReferences=[owner]),
            pod(namespace, "other-2", "a", ownerReferences=[owner]),
            workload(namespace, "old", reads("a"), "ReplicaSet"),
            job(namespace, "migrate", "a"),
            cron_job(namespace, "nightly", "a"),
            # None of these is told.
            pod(namespace, "of-another-key", "b"),
            pod(namespace, "left-alone", "a", annotations={"keyturn.dev/rollout": "disabled"}),
            job(namespace, "job-of-another-key", "b"),
            job(namespace, "ended", "a", ends=True),
            cron_job(namespace, "cron-job-of-another-key", "b"),
            workload(namespace, "web", reads("a")),
            workload(namespace, "daemon", reads("a"), "DaemonSet"),
            workload(namespace, "stateful", reads("a"), "StatefulSet"),
        ]
    )
    with_pods = {"old", "other", "migrate", "web", "stateful", "job"}
    eventually(lambda: {name.partition("-")[0] for name in pods(stack, namespace)} >= with_pods, 60)
    eventually(lambda: stack.cluster.get("job", "ended", namespace)["status"].get("succeeded"))
    time.sleep(1.1)  # Kubernetes tells times in whole seconds
    version = rotate(client, f"{namespace}/db", json.dumps({"a": "2", "b": "1"}))
    found = eventually(lambda: len(events := told(stack, namespace)) >= 5 and events, 60)
    begins = f"Secret db: a key that it reads has changed with version {version}; "
    (of_other,) = (name for kind, name in found if kind == "Pod" and name != "bare")  # one pod stands for both
    assert of_other.startswith("other-")
    assert found == {
        ("Secret", "db"): (
            "Warning",
            f"version {version}; not restarted: Pod bare ({POD}); ReplicaSet old ({REPLICA_SET});"
            " ReplicationController other (Keyturn does not restart this kind: restart it yourself); Job migrate (a run"
            " that has begun goes on with what it has read); CronJob nightly (the next run reads the new value)",
        ),
        ("Pod", "bare"): ("Warning", f"{begins}no controller restarts this pod: it {POD.removeprefix('a bare pod ')}"),
        ("Pod", of_other): (
            "Warning",
            f"{begins}Keyturn does not restart the pods of this controller: restart it yourself",
        ),
        ("ReplicaSet", "old"): (
            "Warning",
            f"{begins}no Deployment restarts these pods: they {REPLICA_SET.removeprefix('its pods ')}",
        ),
        ("Job", "migrate"): (
            "Normal",
            f"{begins}this run has begun, and goes on with what it has read; the next one reads the new value",
        ),
    }


def test_cron_job_alone_is_no_warning(stack: Stack, namespace: str) -> None:
    client = bound(stack, namespace)
    stack.cluster.create([cron_job(namespace, "nightly", "a")])
    version = rotate(client, f"{namespace}/db", json.dumps({"a": "2", "b": "1"}))
    found = eventually(lambda: told(stack, namespace), 60)
    assert found == {
        ("Secret", "db"): (
            "Normal",
            f"version {version}; not restarted: CronJob nightly (the next run reads the new value)",
        )
    }


def test_replica_set_that_its_deployment_has_left_is_told(stack: Stack, namespace: str) -> None:
    """`kubectl delete --cascade=orphan` leaves a ReplicaSet that looks as if it still belonged to a Deployment."""
    client = bound(stack, namespace)
    stack.cluster.create([workload(namespace, "web", reads("a"))])
    eventually(lambda: stack.cluster.list("pods", namespace))
    stack.cluster.kubectl("delete", "deployment", "web", "-n", namespace, "--cascade=orphan")
    (left,) = stack.cluster.list("replicasets", namespace)
    time.sleep(1.1)
    rotate(client, f"{namespace}/db", json.dumps({"a": "2", "b": "1"}))
    found = eventually(lambda: len(events := told(stack, namespace)) >= 2 and events, 60)
    assert set(found) == {("Secret", "db"), ("ReplicaSet", left["metadata"]["name"])}


def test_pod_that_reads_the_new_value_is_not_told(stack: Stack, namespace: str) -> None:
    client = bound(stack, namespace)
    stack.cluster.create([pod(namespace, "old", "a")])
    time.sleep(1.1)
    rotate(client, f"{namespace}/db", json.dumps({"a": "2", "b": "1"}))
    eventually(lambda: data_of(stack.cluster, namespace, "db")["a"] == b"2")
    time.sleep(1.1)
    stack.cluster.create([pod(namespace, "new", "a")])
    found = eventually(lambda: len(events := told(stack, namespace)) >= 2 and events, 60)
    assert set(found) == {("Secret", "db"), ("Pod", "old")}
