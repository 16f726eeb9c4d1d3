"""Kubernetes objects for tests, and how to wait for what becomes of them."""

import json
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any, TypeVar

from keyturn_local.kubernetes.cluster import Cluster

T = TypeVar("T")


def secret(namespace: str, name: str, secret_id: str | None = None, **annotations: str) -> dict[str, Any]:
    """A Secret; with a ``secret_id`` it is bound to that AWS secret."""
    metadata: dict[str, Any] = {"namespace": namespace, "name": name, "annotations": annotations}
    if secret_id is not None:
        metadata["labels"] = {"keyturn.dev/bind": "true"}
        metadata["annotations"] = {"keyturn.dev/secret-id": secret_id, **annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


def workload(namespace: str, name: str, pod: dict[str, Any], kind: str = "Deployment") -> dict[str, Any]:
    """A workload of one pod; ``pod`` is merged into its pod's spec and the first container."""
    container = {"name": "main", "image": "none", **pod.pop("container", {})}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **pod},
            },
        },
    }


def env_from(secret_name: str) -> dict[str, Any]:
    """A pod whose container reads a whole Secret."""
    return {"container": {"envFrom": [{"secretRef": {"name": secret_name}}]}}


def data_of(cluster: Cluster, namespace: str, name: str) -> dict[str, bytes]:
    """The data of a Secret, decoded."""
    return {key: b64decode(value) for key, value in cluster.get("secret", name, namespace).get("data", {}).items()}


def annotations_of(cluster: Cluster, kind: str, namespace: str, name: str) -> dict[str, str]:
    """The annotations of an object."""
    return dict(cluster.get(kind, name, namespace)["metadata"].get("annotations", {}))


def replica_sets(cluster: Cluster, namespace: str, deployment: str) -> int:
    """How many ReplicaSets a Deployment has had: one, and one more for each restart."""
    return len(cluster.list("replicasets", namespace, f"app={deployment}"))


def warnings_of(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    """The Warning Events on a Secret, by reason."""
    listed = cluster.kubectl(
        "get",
        "events",
        "-n",
        namespace,
        "-o",
        "json",
        f"--field-selector=involvedObject.name={name},involvedObject.kind=Secret,type=Warning",
    )
    return {event["reason"]: event["message"] for event in json.loads(listed)["items"]}


def eventually(ask: Callable[[], T], seconds: float = 30) -> T:
    """Wait until ``ask`` gives something true, and return it. Fails when ``seconds`` are over."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)
    return answer
