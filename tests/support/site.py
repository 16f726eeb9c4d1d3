"""A site: a stack that SAM has deployed to the emulator, and the receivers to which the stack delivers over TLS."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.sam import Deployment
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.ports import free_ports
from keyturn_local.receiver.certificate import Certificate
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from support.cluster_state import data_of
from support.manifests import secret
from support.wait import eventually

# The poller sleeps, so every change arrives by an event.
EVENTS_ALONE = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600", "KEYTURN_SIGNING_KEY_INTERVAL_SECONDS": "2"}


class Endpoints:
    """The addresses of receivers and their certificate. A stack needs them before the receivers run."""

    def __init__(self, directory: Path, count: int = 1) -> None:
        self.certificate = Certificate.issue(directory)
        self.ports = free_ports(count)

    def parameters(self) -> dict[str, str]:
        """Return the stack's parameters for these receivers."""
        urls = ",".join(f"https://127.0.0.1:{port}/v1/notifications" for port in self.ports)
        return {"ReceiverUrls": urls, "CaBundle": self.certificate.parameter}


class Site:
    """One stack, its receivers, and a team's namespace. The receivers serve only that namespace."""

    def __init__(self, cluster: ControlPlane, deployment: Deployment, endpoints: Endpoints, directory: Path) -> None:
        self.cluster = cluster
        self.deployment = deployment
        self.endpoints = endpoints
        self.receivers: list[LocalReceiver] = []
        self.team = f"team-{uuid4().hex[:6]}"
        self.secrets_manager = deployment.emulator.client("secretsmanager")
        self._namespace = f"keyturn-{uuid4().hex[:6]}"
        self._directory = directory

    @classmethod
    @contextmanager
    def run(
        cls, cluster: ControlPlane, emulator: Emulator, directory: Path, receivers: int = 1, **parameters: str
    ) -> Iterator[Self]:
        """Deploy a stack with SAM and these parameters, and start its receivers. Everything is deleted at the end."""
        endpoints = Endpoints(directory, receivers)
        name = f"keyturn-{uuid4().hex[:6]}"
        with ExitStack() as stack:
            deployment = sam.deploy(emulator, name, {**endpoints.parameters(), **parameters})
            stack.callback(deployment.delete)
            site = stack.enter_context(cls.of(cluster, deployment, endpoints, directory))
            site.start_receivers()
            yield site

    @classmethod
    @contextmanager
    def of(cls, cluster: ControlPlane, deployment: Deployment, endpoints: Endpoints, directory: Path) -> Iterator[Self]:
        """Create the namespaces for a stack that is already deployed. The namespaces and the receivers are deleted at
        the end."""
        site = cls(cluster, deployment, endpoints, directory)
        allowed = {"keyturn.dev/allow-secrets": f"{site.team}/*"}
        namespaces = [{"name": site.team, "annotations": allowed}, {"name": site._namespace}]
        objects = [
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": each} for each in namespaces),
            *chart_rights(site._namespace, {"namespaces": [site.team]}),
        ]
        cluster.create(objects)
        try:
            yield site
        finally:
            for receiver in site.receivers:
                receiver.kill()
            cluster.delete(objects, wait=False)

    def start_receivers(self, **settings: str) -> None:
        """Start a receiver at each address. ``settings`` take precedence over the settings that all sites use."""
        kubeconfig = self.cluster.kubeconfig_for(self._namespace, SERVICE_ACCOUNT, self._directory)
        for number, port in enumerate(self.endpoints.ports):
            receiver = LocalReceiver(
                self._directory,
                kubeconfig,
                self.deployment.emulator.environment(),
                self.deployment.outputs["SigningKeySecretId"],
                self._namespace,
                {**EVENTS_ALONE, "KEYTURN_NAMESPACES": self.team, **settings},
                name=f"receiver-{number}",
                certificate=self.endpoints.certificate,
                port=port,
            )
            self.receivers.append(receiver)
            receiver.start()

    @property
    def receiver(self) -> LocalReceiver:
        """The only receiver."""
        (receiver,) = self.receivers
        return receiver

    def bind(self, name: str, value: str = "first") -> str:
        """Create an AWS secret of the team and a Secret bound to it, and wait until the Secret is filled. Return the
        ARN."""
        arn = str(self.secrets_manager.create_secret(Name=f"{self.team}/{name}", SecretString=value)["ARN"])
        self.cluster.create([secret(self.team, name, f"{self.team}/{name}")])
        self.wait_applied(name, value)
        return arn

    def put(self, name: str, value: str) -> str:
        """Store a new value of an AWS secret, which becomes current at once. Return the id of the new version."""
        reply = self.secrets_manager.put_secret_value(SecretId=f"{self.team}/{name}", SecretString=value)
        return str(reply["VersionId"])

    def wait_applied(self, name: str, value: str, seconds: float = 60) -> None:
        """Wait until a Secret holds a value that is plain text."""
        eventually(lambda: data_of(self.cluster, self.team, name) == {"value": value.encode()}, seconds)

    def log(self, group: str = "") -> list[dict[str, Any]]:
        """Return the JSON lines of a log group, the oldest first. The default is the notifier's log group."""
        logs = self.deployment.emulator.client("logs")
        name = group or self.deployment.outputs["NotifierLogGroup"]
        lines = []
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            for event in page["events"]:
                try:
                    lines.append((event["timestamp"], json.loads(event["message"])))
                except ValueError:
                    continue  # a line that Lambda itself has written
        return [line for _, line in sorted(lines, key=lambda each: each[0])]

    def delivered(self) -> set[str]:
        """Return the ids of the versions that every receiver has applied according to the notifier's log."""
        return {
            line["version_id"] for line in self.log() if line.get("message") == "delivered" and "version_id" in line
        }

    def metrics(self) -> dict[str, float]:
        """Return the sum of each metric that the notifier has emitted."""
        sums: dict[str, float] = {}
        for line in self.log():
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                for metric in directive["Metrics"]:
                    sums[metric["Name"]] = sums.get(metric["Name"], 0) + sum(line[metric["Name"]])
        return sums

    def messages(self, output: str) -> Mapping[str, int]:
        """Return how many messages of a queue are visible, and how many are taken. ``output`` is the stack's output
        that has the queue's URL."""
        attributes = self.deployment.emulator.client("sqs").get_queue_attributes(
            QueueUrl=self.deployment.outputs[output], AttributeNames=["All"]
        )["Attributes"]
        return {
            "visible": int(attributes["ApproximateNumberOfMessages"]),
            "taken": int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        }
