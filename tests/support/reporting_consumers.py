"""Deployments whose pods report, five times a second, which version of a Secret they hold.

The values are the names of versions, such as "v017". Their alphabetical order is their order in time, and none of them
is confidential. Each report carries the time of its reading, taken from a clock that the pods and the test share, so a
busy listener does not distort the times.
"""

import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from keyturn_contract.message import Notification
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.node import images, network
from keyturn_receiver.core.rollout_switch import DISABLED, ROLLOUT
from support.cluster_state import data_of
from support.deliveries import notification
from support.manifests import secret, workload
from support.wait import eventually

ENV, VOLUME, SUB_PATH = WAYS = ("env", "volume", "subpath")
KEY = "value"  # the key of a Secret that is filled from plain text

# In the script, $1 is the name of the consumer, and the other arguments are the ways in which it reads. A value does
# not end in a newline, so `read` returns an error although it has assigned the value.
SCRIPT = """
trap 'exit 0' TERM
consumer=$1 pod=$(hostname)
shift
while :; do
    for way; do
        case $way in
            env) held=$HELD ;;
            volume) read -r held < /mounted/value ;;
            subpath) read -r held < /single/value ;;
        esac
        read -r at _ < /proc/uptime
        echo "$at $consumer $pod $way $held"
    done
    sleep 0.2
done
"""
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_clock() -> float:
    """Return the time on the pods' clock, in seconds since the machine was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def version_name(number: int) -> str:
    """Return the name of the version with this number."""
    return f"v{number:03}"


def bind_secrets(cluster: Cluster, aws: LocalAws, namespace: str, *names: str) -> None:
    """Create AWS secrets, and Secrets bound to them. Wait until the Secrets hold the first version."""
    for name in names:
        aws.secrets_manager().create_secret(Name=f"{namespace}/{name}", SecretString=version_name(0))
    cluster.create(secret(namespace, name, f"{namespace}/{name}") for name in names)
    for name in names:
        eventually(lambda name=name: data_of(cluster, namespace, name) == {KEY: version_name(0).encode()})


def rotate_to(aws: LocalAws, namespace: str, name: str, number: int) -> Notification:
    """Rotate an AWS secret to the version with this number, and return the notification of the change."""
    client = aws.secrets_manager()
    version_id = rotate(client, f"{namespace}/{name}", version_name(number))
    return notification(client.describe_secret(SecretId=f"{namespace}/{name}")["ARN"], version_id)


@dataclass(frozen=True)
class Report:
    """The report of a pod that it held ``version`` at the time ``at`` when it read the Secret in the given ``way``."""

    at: float
    consumer: str
    pod: str
    way: str
    version: str


class Listener:
    """A server that receives the pods' reports. ``reports`` keeps all of them, and those of one pod are in order."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._connections: set[socket.socket] = set()
        self._server = _Server((network.HOST, 0), _Connection)
        self._server.listener = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with suppress(OSError):  # the pod is gone
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def consumer(
        self, namespace: str, name: str, secret_name: str, ways: Sequence[str] = (), disabled: bool = False
    ) -> dict[str, Any]:
        """Return a Deployment of one pod that reads a Secret in these ways and reports to this listener.

        If no ``ways`` are given, the name of the Deployment is taken as the only way.
        """
        ways = ways or (name,)
        held = {"name": "HELD", "valueFrom": {"secretKeyRef": {"name": secret_name, "key": KEY}}}
        mounts = {
            VOLUME: {"name": "held", "mountPath": "/mounted"},
            SUB_PATH: {"name": "held", "mountPath": "/single/value", "subPath": KEY},
        }
        mounted = [mount for way, mount in mounts.items() if way in ways]
        container = {
            "image": images.BUSYBOX,
            "imagePullPolicy": "Never",
            "command": ["nc", network.HOST, str(self.port), "-e", "sh", "-c", SCRIPT, "sh", name, *ways],
            "securityContext": RESTRICTED,
            "env": [held] if ENV in ways else [],
            "volumeMounts": [{**each, "readOnly": True} for each in mounted],
        }
        pod = {
            "container": container,
            "volumes": [{"name": "held", "secret": {"secretName": secret_name}}] if mounted else [],
            # If the grace period were 0, a pod would vanish from the API server while its container still runs.
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
        }
        made = workload(namespace, name, pod)
        made["metadata"]["annotations"] = {ROLLOUT: DISABLED} if disabled else {}
        return made

    def of(self, consumer: str, way: str = "") -> list[Report]:
        """Return the reports of one consumer's pods, either for one way of reading or for all ways."""
        return [each for each in list(self.reports) if each.consumer == consumer and way in ("", each.way)]

    def first(self, consumer: str, way: str, number: int) -> Report | None:
        """Return a consumer's first report of the version with this number, as read in this way."""
        return next((each for each in self.of(consumer, way) if each.version == version_name(number)), None)

    def pods(self, consumer: str) -> set[str]:
        """Return the pods of a consumer that have reported."""
        return {each.pod for each in self.of(consumer)}

    def last(self, consumer: str) -> dict[tuple[str, str], str]:
        """Return the version that each pod of a consumer reported last for each way of reading. Pods that are gone are
        included."""
        return {(each.pod, each.way): each.version for each in self.of(consumer)}


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    listener: Listener


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        listener = self.server.listener
        listener._connections.add(self.connection)
        with suppress(OSError):  # the pod is gone
            for line in self.rfile:
                if line.endswith(b"\n"):
                    at, consumer, pod, way, version = line.decode().split()
                    listener.reports.append(Report(float(at), consumer, pod, way, version))
        listener._connections.discard(self.connection)
