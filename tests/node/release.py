"""A release of the chart on the real node: the values that it takes there, its receivers, and the way to them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from keyturn_contract.message import Notification, Result, decode_reply, encode
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver import release
from keyturn_local.receiver.process import total
from support.deliveries import signed
from support.helm import Releases, releases_in
from support.manifests import eventually

RECEIVERS = release.RECEIVERS
PYTHON = "/opt/keyturn/bin/python"  # in the image


def values(aws: LocalAws, signing_key_id: str, **others: Any) -> dict[str, Any]:
    """What the chart must be told on this node, and ``others``, which stand beside that or in its place."""
    return {**release.values(aws.environment(), signing_key_id), **others}


class Release:
    """An installed release; its pods are real."""

    def __init__(self, home: Releases) -> None:
        self.home = home
        self.cluster = home.cluster
        self.namespace = home.namespace

    @property
    def url(self) -> str:
        """Where deliveries go: the Service, by its address."""
        service = self.cluster.get("service", "keyturn", self.namespace)["spec"]
        (port,) = service["ports"]
        return f"{port['name']}://{service['clusterIP']}:{port['port']}/v1/notifications"

    def pods(self) -> list[Any]:
        """The receivers' pods, but for those that are going."""
        return release.receivers(self.cluster, self.namespace)

    def pod(self, name: str) -> Any:
        """A pod as it is now."""
        return self.cluster.get("pod", name, self.namespace)

    def log(self, pod: Any) -> list[dict[str, Any]]:
        """What a receiver has logged: an object a line."""
        lines = self.cluster.kubectl("logs", pod["metadata"]["name"], "-n", self.namespace).splitlines()
        return [json.loads(line) for line in lines]

    def ask(self, pod: Any, path: str) -> httpx.Response:
        """Ask a receiver at its pod's own address, at the port for operations."""
        return httpx.get(f"http://{pod['status']['podIP']}:{release.OPERATIONS_PORT}{path}", timeout=5)

    def metric(self, pod: Any, name: str) -> float:
        """What a receiver has counted, whatever the labels, in sum."""
        return total(self.ask(pod, "/metrics").text, name)

    def process(self, pod: Any) -> Path:
        """The process of a receiver's container, in /proc."""
        (container,) = self.pod(pod["metadata"]["name"])["status"]["containerStatuses"]
        (found,) = processes_of(container["containerID"].split("//")[1])
        return found


def post(url: str, key: bytes, *told: Notification, **options: Any) -> list[Result]:
    """Deliver once, which must be answered 200; return the results. ``options`` are httpx's."""
    body = encode(told)
    reply = httpx.post(url, content=body, headers=signed(key, body), timeout=20, **options)
    assert reply.status_code == 200, reply.text
    return list(decode_reply(reply.content))


def processes_of(container: str) -> list[Path]:
    """The processes of a container, or of all containers of a pod: by an id that is in their cgroups' names."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if container in (process / "cgroup").read_text():
                found.append(process)
        except OSError:  # it has ended
            continue
    return found


@contextmanager
def released(
    control_plane: ControlPlane, values: dict[str, Any], namespace: str = "", objects: Sequence[Any] = ()
) -> Iterator[Release]:
    """Install a release in a namespace of its own, beside ``objects`` that it needs there.

    Wait until all its receivers are Ready and one of them leads.
    """
    with releases_in(control_plane, namespace) as home:
        if objects:
            control_plane.create(objects)
        home.install(values)
        made = Release(home)
        eventually(lambda: sum(made.metric(pod, "keyturn_poller_leader") for pod in made.pods()) == 1)
        yield made
