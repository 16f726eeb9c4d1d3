"""Manifests of Kubernetes objects for tests."""

from collections.abc import Mapping, Sequence
from typing import Any


def secret(namespace: str, name: str, secret_id: str | None = None, **annotations: str) -> dict[str, Any]:
    """Return the manifest of a Secret. It is bound to the AWS secret ``secret_id``, if one is given."""
    metadata: dict[str, Any] = {"namespace": namespace, "name": name, "annotations": annotations}
    if secret_id is not None:
        metadata["labels"] = {"keyturn.dev/bind": "true"}
        metadata["annotations"] = {"keyturn.dev/secret-id": secret_id, **annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


def workload(namespace: str, name: str, pod: dict[str, Any], kind: str = "Deployment") -> dict[str, Any]:
    """Return the manifest of a workload. ``pod`` is merged into the spec of its pods, and ``pod["container"]`` into
    their only container."""
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
    """Return the fields of a pod whose container reads all keys of a Secret."""
    return {"container": {"envFrom": [{"secretRef": {"name": secret_name}}]}}


def role(namespace: str, name: str, rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the manifests that give these rights to the ServiceAccount ``name``, in its own namespace."""
    meta, rbac = {"namespace": namespace, "name": name}, "rbac.authorization.k8s.io"
    ref = {"apiGroup": rbac, "kind": "Role", "name": name}
    subjects = [{"kind": "ServiceAccount", **meta}]
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": list(rules)},
        {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": meta, "roleRef": ref, "subjects": subjects},
    ]


def account(namespace: str, name: str, rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the manifests of a ServiceAccount that has only these rights, in its own namespace."""
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}
    return [made, *role(namespace, name, rules)]
