"""The receiver as a Helm release of the chart. Its pods run on a real node (node/). process.py runs the receiver as a
process instead."""

import urllib.request
from collections.abc import Mapping
from typing import Any, Self

import helm_python

from keyturn_local.kubernetes.chart import CHART
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.node import images, network
from keyturn_local.processes.program import StartFailed, Stoppable
from keyturn_local.receiver.process import total

NAME = "keyturn"  # the name of the release, its Deployment and its Service
RECEIVERS = "app.kubernetes.io/component=receiver"
OPERATIONS_PORT = 9090
PAGE_PORT = 9091


def values(aws: Mapping[str, str], signing_key_secret_id: str) -> dict[str, Any]:
    """Return the chart's values for a real node. ``aws`` are the environment variables that lead to AWS."""
    repository, tag = images.RECEIVER.rsplit(":", 1)
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "signingKey": {"secretId": signing_key_secret_id},
        "aws": {"region": aws["AWS_REGION"]},
        "extraEnv": [{"name": name, "value": value} for name, value in aws.items() if name != "AWS_REGION"],
    }


def host_of(namespace: str) -> str:
    """Return the host name of the receiver's Service in the enclosure's DNS."""
    return f"{NAME}.{namespace}.svc.{network.DOMAIN}"


def receivers(cluster: Cluster, namespace: str) -> list[Any]:
    """Return the receivers' pods in a namespace. Pods that are being deleted are left out."""
    pods = cluster.list("pods", namespace, RECEIVERS)
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


class Release(Stoppable):
    """An installed release and the pods of its receivers."""

    def __init__(self, cluster: Cluster, namespace: str, values: Mapping[str, Any]) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._helm = helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace)
        scheme = "https" if values.get("tls") else "http"
        self.url = f"{scheme}://{host_of(namespace)}/v1/notifications"
        self._values = dict(values)

    @classmethod
    def install(cls, cluster: Cluster, namespace: str, values: Mapping[str, Any], seconds: int = 120) -> Self:
        """Install the chart. Wait until all pods are Ready. Raises StartFailed."""
        release = cls(cluster, namespace, values)
        try:
            release._helm.install(CHART, NAME, release._values, wait="watcher", timeout=seconds)
        except helm_python.HelmError as error:
            release.stop()
            raise StartFailed(f"the chart was not installed: {error}") from None
        return release

    def stop(self) -> None:
        """Uninstall the release. After that, its pods may still be ending."""
        if self._helm.list(all_states=True):
            self._helm.uninstall(NAME)
        self._helm.close()

    def pods(self) -> list[Any]:
        """Return the receivers' pods. Pods that are being deleted are left out."""
        return receivers(self._cluster, self._namespace)

    @property
    def operations_url(self) -> str:
        """The URL of one pod's operations port."""
        return self._operations_urls()[0]

    @property
    def page_url(self) -> str:
        """The URL of one pod's status page. The page's port has to be forwarded to this machine first."""
        return f"http://localhost:{PAGE_PORT}"

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels, over all pods."""
        return sum(total(_read(f"{url}/metrics"), name, **labels) for url in self._operations_urls())

    def _operations_urls(self) -> list[str]:
        return [f"http://{pod['status']['podIP']}:{OPERATIONS_PORT}" for pod in self.pods()]


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - in the enclosure
        return str(reply.read().decode())
