"""Helm releases of the chart in namespaces of their own, and the objects that Helm leaves in the cluster after each
command."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import helm_python
import httpx

from keyturn_contract.message import Notification, Result, decode_reply, encode
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.chart import CHART, SOME_KEY
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver import release
from keyturn_local.receiver.process import total
from support.deliveries import signed
from support.wait import eventually

OURS = "app.kubernetes.io/part-of=keyturn"
KINDS = (
    "deployments,replicasets,pods,services,poddisruptionbudgets,networkpolicies,leases,"
    "serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
)
RECEIVERS = release.RECEIVERS
PYTHON = "/opt/keyturn/bin/python"  # the path of the interpreter in the image
WAITING = {"wait": "watcher", "timeout": 60}


class Helm:
    """The real Helm, working in one namespace. A release is called keyturn unless ``name`` gives another name."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.client = helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace)

    def install(self, values: Any = SOME_KEY, name: str = "keyturn", chart: Path = CHART, **options: Any) -> Any:
        """Install a release and wait until all its objects are ready. Raises HelmError."""
        return self.client.install(chart, name, values, **{**WAITING, **options})

    def upgrade(self, values: Any = SOME_KEY, name: str = "keyturn", **options: Any) -> Any:
        """Upgrade a release to the chart in this tree and wait until all its objects are ready. Raises HelmError."""
        return self.client.upgrade(CHART, name, values, **{**WAITING, **options})

    def roll_back(self, revision: int | None = None, name: str = "keyturn") -> None:
        """Roll back to a revision, or to the previous one if none is given."""
        self.client.rollback(name, version=revision, wait="watcher", timeout=60)

    def wait_for_rollout(self) -> None:
        """Wait for the pods only. Helm itself would also wait for a load balancer's address, which nothing assigns
        here."""
        self.cluster.kubectl("rollout", "status", "deployment", "-l", OURS, "-n", self.namespace, "--timeout=120s")

    def uninstall(self, name: str = "keyturn") -> None:
        """Uninstall a release and wait until all its objects are gone."""
        self.client.uninstall(name, wait="watcher", timeout=60)

    def ready_pods(self, selector: str = OURS) -> set[str]:
        """Return the names of the pods that are Ready."""
        return {
            pod["metadata"]["name"]
            for pod in self.cluster.list("pods", self.namespace, selector)
            for condition in pod["status"].get("conditions", [])
            if (condition["type"], condition["status"]) == ("Ready", "True")
        }

    def object_versions(self) -> dict[tuple[str, str], tuple[str, Any]]:
        """Return the uid of each of our objects with its generation, or with its resource version if it has no
        generation."""
        found = (each["metadata"] | {"kind": each["kind"]} for each in self.cluster.list(KINDS, self.namespace, OURS))
        return {
            (each["kind"], each["name"]): (each["uid"], each.get("generation", each["resourceVersion"]))
            for each in found
        }

    def inventory(self, *others: str) -> set[tuple[str, str, str]]:
        """Return the kind, namespace and name of all objects in this namespace, in the namespaces ``others``, and in no
        namespace at all.

        Events and ComponentStatuses are left out.
        """
        listed = self.cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
        kinds = ",".join(kind for kind in listed if kind.split(".")[0] not in ("events", "componentstatuses"))
        columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
        found = set()
        for place in (self.namespace, *others):
            # Kubernetes creates this ServiceAccount a moment after the namespace. Without the wait, it might appear
            # between two calls and look like one of our objects.
            self.cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", place, "--timeout=120s")
            lines = self.cluster.kubectl("get", kinds, "-n", place, "--no-headers", "-o", columns).splitlines()
            found |= {(kind, namespace, name) for kind, namespace, name in map(str.split, lines)}
        return found

    def close(self) -> None:
        """Uninstall all releases."""
        for each in self.client.list(all_states=True):
            self.client.uninstall(each["name"])
        self.client.close()


@contextmanager
def helm_in_namespace(cluster: Cluster, namespace: str = "") -> Iterator[Helm]:
    """Create a namespace that admits only restricted pods. At the end, delete the namespace with all releases in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = namespace or f"keyturn-{uuid4().hex[:6]}"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    cluster.create([made])
    try:
        releases = Helm(cluster, name)
        try:
            yield releases
        finally:
            releases.close()
    finally:
        cluster.delete([made], wait=False)


def node_values(aws: LocalAws, signing_key_id: str, **others: Any) -> dict[str, Any]:
    """Return the values that the chart needs on the test node, merged with ``others``."""
    return {**release.values(aws.environment(), signing_key_id), **others}


class InstalledRelease:
    """An installed release with real pods."""

    def __init__(self, helm: Helm) -> None:
        self.helm = helm
        self.cluster = helm.cluster
        self.namespace = helm.namespace

    @property
    def url(self) -> str:
        """The URL for deliveries, which contains the cluster IP of the Service."""
        service = self.cluster.get("service", "keyturn", self.namespace)["spec"]
        (port,) = service["ports"]
        return f"{port['name']}://{service['clusterIP']}:{port['port']}/v1/notifications"

    def pods(self) -> list[Any]:
        """The pods of the receivers, except those that are terminating."""
        return release.receivers(self.cluster, self.namespace)

    def pod(self, name: str) -> Any:
        """Return the current state of a pod."""
        return self.cluster.get("pod", name, self.namespace)

    def log(self, pod: Any) -> list[dict[str, Any]]:
        """Return the log of a receiver: one parsed object for each line."""
        lines = self.cluster.kubectl("logs", pod["metadata"]["name"], "-n", self.namespace).splitlines()
        return [json.loads(line) for line in lines]

    def ask(self, pod: Any, path: str) -> httpx.Response:
        """Send a GET request to a receiver's operations port at the IP address of its pod."""
        return httpx.get(f"http://{pod['status']['podIP']}:{release.OPERATIONS_PORT}{path}", timeout=5)

    def metric(self, pod: Any, name: str) -> float:
        """Return the value of a receiver's metric, summed over all labels."""
        return total(self.ask(pod, "/metrics").text, name)

    def process(self, pod: Any) -> Path:
        """Return the /proc directory of the process of a receiver's container."""
        (container,) = self.pod(pod["metadata"]["name"])["status"]["containerStatuses"]
        (found,) = processes_of(container["containerID"].split("//")[1])
        return found


def deliver(url: str, key: bytes, *notifications: Notification, **options: Any) -> list[Result]:
    """Deliver once, require that the status is 200, and return the results. ``options`` are passed on to httpx."""
    body = encode(notifications)
    reply = httpx.post(url, content=body, headers=signed(key, body), timeout=20, **options)
    assert reply.status_code == 200, reply.text
    return list(decode_reply(reply.content))


def processes_of(container: str) -> list[Path]:
    """Return the /proc directories of all processes that belong to this container or pod id according to their
    cgroup."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if container in (process / "cgroup").read_text():
                found.append(process)
        except OSError:  # the process has ended in the meantime
            continue
    return found


@contextmanager
def installed_release(
    control_plane: ControlPlane, values: dict[str, Any], namespace: str = "", objects: Sequence[Any] = ()
) -> Iterator[InstalledRelease]:
    """Install a release in a namespace of its own, together with the ``objects`` that the release needs there.

    This waits until all receivers are Ready and one of them leads.
    """
    with helm_in_namespace(control_plane, namespace) as helm:
        if objects:
            control_plane.create(objects)
        helm.install(values)
        made = InstalledRelease(helm)
        eventually(lambda: sum(made.metric(pod, "keyturn_poller_leader") for pod in made.pods()) == 1)
        yield made
