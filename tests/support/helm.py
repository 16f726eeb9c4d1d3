"""Releases of the chart in a namespace of their own, by the real Helm, and what the cluster holds then."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import helm_python

from keyturn_local.kubernetes.chart import CHART, SOME_KEY
from keyturn_local.kubernetes.cluster import Cluster

OURS = "app.kubernetes.io/part-of=keyturn"
KINDS = (
    "deployments,replicasets,pods,services,poddisruptionbudgets,networkpolicies,leases,"
    "serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
)
WAITING = {"wait": "watcher", "timeout": 60}


class Releases:
    """The releases of one namespace; a release is called keyturn unless it is said otherwise."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.helm = helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace)

    def install(self, values: Any = SOME_KEY, name: str = "keyturn", chart: Path = CHART, **options: Any) -> Any:
        """Install, and wait until all is ready. Raises HelmError."""
        return self.helm.install(chart, name, values, **{**WAITING, **options})

    def upgrade(self, values: Any = SOME_KEY, name: str = "keyturn", **options: Any) -> Any:
        """Upgrade to the chart of today, and wait until all is ready. Raises HelmError."""
        return self.helm.upgrade(CHART, name, values, **{**WAITING, **options})

    def roll_back(self, revision: int | None = None, name: str = "keyturn") -> None:
        """Go back to a revision, or to the one before."""
        self.helm.rollback(name, version=revision, wait="watcher", timeout=60)

    def roll_out(self) -> None:
        """Wait for the pods alone: Helm would wait for a load balancer's address, too, which nobody gives here."""
        self.cluster.kubectl("rollout", "status", "deployment", "-l", OURS, "-n", self.namespace, "--timeout=60s")

    def uninstall(self, name: str = "keyturn") -> None:
        """Take a release away, and wait until all of it is gone."""
        self.helm.uninstall(name, wait="watcher", timeout=60)

    def ready_pods(self, selector: str = OURS) -> set[str]:
        """The names of the pods that are Ready."""
        return {
            pod["metadata"]["name"]
            for pod in self.cluster.list("pods", self.namespace, selector)
            for condition in pod["status"].get("conditions", [])
            if (condition["type"], condition["status"]) == ("Ready", "True")
        }

    def standing(self) -> dict[tuple[str, str], tuple[str, Any]]:
        """What each object of ours is: its uid, and what changes whenever it does, but with its status."""
        found = (each["metadata"] | {"kind": each["kind"]} for each in self.cluster.list(KINDS, self.namespace, OURS))
        return {
            (each["kind"], each["name"]): (each["uid"], each.get("generation", each["resourceVersion"]))
            for each in found
        }

    def inventory(self, *others: str) -> set[tuple[str, str, str]]:
        """All there is in the namespace, in others and in none: kind, namespace, name. Events only tell of it."""
        listed = self.cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
        kinds = ",".join(kind for kind in listed if kind.split(".")[0] not in ("events", "componentstatuses"))
        columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
        found = set()
        for place in (self.namespace, *others):
            # Which Kubernetes makes a moment after its namespace, and which would count as ours then.
            self.cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", place, "--timeout=30s")
            lines = self.cluster.kubectl("get", kinds, "-n", place, "--no-headers", "-o", columns).splitlines()
            found |= {(kind, namespace, name) for kind, namespace, name in map(str.split, lines)}
        return found

    def close(self) -> None:
        """Take all releases away."""
        for each in self.helm.list(all_states=True):
            self.helm.uninstall(each["name"])
        self.helm.close()


@contextmanager
def releases_in(cluster: Cluster, namespace: str = "") -> Iterator[Releases]:
    """Make a namespace that takes restricted pods alone; in the end it goes, and all releases in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = namespace or f"keyturn-{uuid4().hex[:6]}"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    cluster.create([made])
    try:
        releases = Releases(cluster, name)
        try:
            yield releases
        finally:
            releases.close()
    finally:
        cluster.delete([made], wait=False)
