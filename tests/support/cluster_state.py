"""Functions that read the state of the cluster for assertions."""

import json
from base64 import b64decode
from typing import Any

from keyturn_local.kubernetes.cluster import Cluster


def data_of(cluster: Cluster, namespace: str, name: str) -> dict[str, bytes]:
    """Return the decoded data of a Secret."""
    return {key: b64decode(value) for key, value in cluster.get("secret", name, namespace).get("data", {}).items()}


def annotations_of(cluster: Cluster, kind: str, namespace: str, name: str) -> dict[str, str]:
    """Return the annotations of an object."""
    return dict(cluster.get(kind, name, namespace)["metadata"].get("annotations", {}))


def replica_sets(cluster: Cluster, namespace: str, deployment: str) -> int:
    """Return the number of a Deployment's ReplicaSets: one, plus one for each restart."""
    return len(cluster.list("replicasets", namespace, f"app={deployment}"))


def warnings_of(cluster: Cluster, namespace: str, name: str, kind: str = "Secret") -> dict[str, str]:
    """Return the messages of the Warning Events about an object, by reason."""
    listed = list_events(cluster, namespace, kind, name, type="Warning")
    return {event["reason"]: event["message"] for event in listed}


def list_events(cluster: Cluster, namespace: str, kind: str, name: str, **fields: str) -> list[Any]:
    """Return the Events about an object. ``fields`` selects among them by other fields, such as ``reason``."""
    wanted = {"involvedObject.kind": kind, "involvedObject.name": name, **fields}
    selector = ",".join(f"{field}={text}" for field, text in wanted.items())
    listed = cluster.kubectl("get", "events", "-n", namespace, "-o", "json", f"--field-selector={selector}")
    return list(json.loads(listed)["items"])
