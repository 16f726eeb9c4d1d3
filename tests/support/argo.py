"""Rollouts of Argo, their definition (CRD) as the project itself publishes it, and Argo's controller."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from keyturn_local.kubernetes.cluster import Cluster, KubectlFailed
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, answers
from keyturn_local.toolchain import argo_controller
from keyturn_local.toolchain.custom_resources import resolve
from support.manifests import workload
from support.wait import eventually

CRD = "customresourcedefinition"
NAME = "rollouts.argoproj.io"


def definition(lacking: str = "") -> Any:
    """Return the definition of Rollouts. If ``lacking`` is given, their spec has no field of this name."""
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


@contextmanager
def running_controller(cluster: Cluster, directory: Path) -> Iterator[Program]:
    """Create all definitions of Argo Rollouts, and run its controller. At the end, delete the definitions."""
    folder = argo_controller.resolve()
    definitions = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in sorted(folder.glob("*-crd.yaml"))]
    cluster.create(definitions)
    metrics, health = free_ports(2)
    try:
        eventually(lambda: _is_served(cluster), 60)
        options = [f"--kubeconfig={cluster.kubeconfig}", "--leader-elect=false"]
        ports = [f"--metricsPort={metrics}", f"--healthzPort={health}"]
        controller = Program("rollouts-controller", [folder / argo_controller.PROGRAM, *options, *ports], directory)
        try:
            controller.wait_for(answers(f"http://127.0.0.1:{health}/healthz"), 60)
            yield controller
        finally:
            controller.stop()
    finally:
        cluster.delete(definitions)


def promote(cluster: Cluster, namespace: str, name: str) -> None:
    """End the pause of a Rollout, as `kubectl argo rollouts promote` does."""
    _write_status(cluster, namespace, name, pauseConditions=None)


def abort(cluster: Cluster, namespace: str, name: str) -> None:
    """Abort the new revision of a Rollout, as `kubectl argo rollouts abort` does."""
    _write_status(cluster, namespace, name, abort=True)


def retry(cluster: Cluster, namespace: str, name: str) -> None:
    """Retry an aborted revision, as `kubectl argo rollouts retry rollout` does."""
    _write_status(cluster, namespace, name, abort=False)


def revisions(cluster: Cluster, namespace: str, name: str) -> int:
    """Return the number of a Rollout's ReplicaSets."""
    owners = [owner for each in cluster.list("replicasets", namespace) for owner in each["metadata"]["ownerReferences"]]
    return sum((owner["kind"], owner["name"]) == ("Rollout", name) for owner in owners)


def _write_status(cluster: Cluster, namespace: str, name: str, **status: Any) -> None:
    patch = ("--subresource=status", "--type=merge", "--patch", json.dumps({"status": status}))
    cluster.kubectl("patch", "rollout", name, "-n", namespace, *patch)


def _is_served(cluster: Cluster) -> bool:
    try:
        cluster.list("rollouts", "default")
    except (KubectlFailed, ValueError):  # the API server answers 404 in plain text while it lacks the kind
        return False
    return True


def rollout(namespace: str, name: str, pod: dict[str, Any], way: str = "", **spec: Any) -> dict[str, Any]:
    """Return the manifest of a Rollout. ``way``, if given, is the text of the annotation that chooses how the Rollout
    restarts."""
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
