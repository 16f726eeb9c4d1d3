"""Rollouts of Argo, and their definition (CRD) as the project itself publishes it. The controller does not run."""

from typing import Any

import yaml

from keyturn_local.kubernetes.cluster import Cluster, KubectlFailed
from keyturn_local.toolchain.custom_resources import resolve
from support.manifests import workload
from support.wait import eventually

CRD = "customresourcedefinition"
NAME = "rollouts.argoproj.io"


def definition(lacking: str = "") -> Any:
    """Return the definition of Rollouts, without the field ``lacking`` of their spec."""
    (file,) = (file for file in resolve() if file.name == "rollout-crd.yaml")
    made = yaml.load(file.read_text(), yaml.CSafeLoader)
    made["metadata"].pop("creationTimestamp", None)
    if lacking:
        (version,) = made["spec"]["versions"]
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][lacking]
    return made


def define(cluster: Cluster, lacking: str = "") -> None:
    """Create the definition, and wait until the API server serves the kind."""
    cluster.create([definition(lacking)])
    eventually(lambda: _is_served(cluster), 60)


def undefine(cluster: Cluster) -> None:
    """Delete the definition with all Rollouts, and wait until the API server serves the kind no more."""
    cluster.kubectl("delete", CRD, NAME, "--ignore-not-found", "--timeout=120s")


def _is_served(cluster: Cluster) -> bool:
    try:
        cluster.list("rollouts", "default")
    except (KubectlFailed, ValueError):  # the API server answers 404 in plain text while it lacks the kind
        return False
    return True


def rollout(namespace: str, name: str, pod: dict[str, Any], way: str = "", **spec: Any) -> dict[str, Any]:
    """Return the manifest of a Rollout. ``way`` is the text of its annotation that chooses how it restarts."""
    made = workload(namespace, name, dict(pod))
    made |= {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"}
    made["metadata"]["annotations"] = {"keyturn.dev/restart": way} if way else {}
    made["spec"] |= {"strategy": {"canary": {}}, **spec}
    return made


def borrower(namespace: str, name: str, lender: str, way: str = "") -> dict[str, Any]:
    """Return the manifest of a Rollout that takes its pod template from a Deployment."""
    made = rollout(namespace, name, {}, way)
    del made["spec"]["template"], made["spec"]["selector"]
    made["spec"]["workloadRef"] = {"apiVersion": "apps/v1", "kind": "Deployment", "name": lender}
    return made
