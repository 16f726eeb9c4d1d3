"""A site: a stack that SAM has deployed to the emulator, and the receivers to which it delivers over TLS."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self
from uuid import uuid4

from keyturn_local.aws.emulator import sam
from keyturn_local.aws.emulator.sam import Deployment
from keyturn_local.aws.emulator.server import Emulator
from keyturn_local.aws.notifier_log import Line, NotifierLog
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.ports import free_ports
from keyturn_local.receiver.certificate import Certificate
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from support.manifests import secret
from support.object_history import HistoryWatcher
from support.wait import eventually

# The poller sweeps when a receiver becomes the leader, and then only once an hour, so later changes arrive by events.
EVENTS_ALONE = {"KEYTURN_POLL_INTERVAL_SECONDS": "3600", "KEYTURN_SIGNING_KEY_INTERVAL_SECONDS": "2"}


def notifier_log(deployment: Deployment) -> NotifierLog:
    """Return a reader of the log of a stack's notifier."""
    return NotifierLog(deployment.emulator.client("logs"), f"/aws/lambda/{deployment.name}-notifier")


def new_team() -> str:
    """Return a new name. A team, its namespace and the prefix of its secrets have this same name."""
    return f"team-{uuid4().hex[:6]}"


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

    def __init__(
        self, cluster: ControlPlane, deployment: Deployment, endpoints: Endpoints, directory: Path, team: str
    ) -> None:
        self.cluster = cluster
        self.deployment = deployment
        self.endpoints = endpoints
        self.receivers: list[LocalReceiver] = []
        self.history: HistoryWatcher
        self.team = team
        self.secrets_manager = deployment.emulator.client("secretsmanager")
        self.namespace = f"keyturn-{uuid4().hex[:6]}"
        self._directory = directory
        self._log = notifier_log(deployment)

    @classmethod
    @contextmanager
    def run(
        cls, cluster: ControlPlane, emulator: Emulator, directory: Path, team: str = "", **parameters: str
    ) -> Iterator[Self]:
        """Deploy a stack by SAM with these parameters, and start one receiver. At the end, the receiver is killed, and
        the rest is deleted."""
        endpoints = Endpoints(directory)
        name = f"keyturn-{uuid4().hex[:6]}"
        with ExitStack() as stack:
            deployment = sam.deploy(emulator, name, {**endpoints.parameters(), **parameters})
            stack.callback(deployment.delete)
            site = stack.enter_context(cls.of(cluster, deployment, endpoints, directory, team))
            site.start_receivers()
            yield site

    @classmethod
    @contextmanager
    def of(
        cls, cluster: ControlPlane, deployment: Deployment, endpoints: Endpoints, directory: Path, team: str = ""
    ) -> Iterator[Self]:
        """Create the namespaces and the rights for a stack that is deployed already. At the end, kill the receivers and
        delete these objects."""
        site = cls(cluster, deployment, endpoints, directory, team or new_team())
        allowed = {"keyturn.dev/allow-secrets": f"{site.team}/*"}
        namespaces = [{"name": site.team, "annotations": allowed}, {"name": site.namespace}]
        objects = [
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": each} for each in namespaces),
            *chart_rights(site.namespace, {"namespaces": [site.team]}),
        ]
        cluster.create(objects)
        site.history = HistoryWatcher(cluster, site.team)
        try:
            yield site
        finally:
            site.history.close()
            for receiver in site.receivers:
                receiver.kill()
            cluster.delete(objects, wait=False)

    def start_receivers(self, **settings: str) -> None:
        """Start a receiver at each address. ``settings`` are added to the environment of each receiver, and override
        its defaults, even those for AWS."""
        kubeconfig = self.cluster.kubeconfig_for(self.namespace, SERVICE_ACCOUNT, self._directory)
        for number, port in enumerate(self.endpoints.ports):
            receiver = LocalReceiver(
                self._directory,
                kubeconfig,
                self.deployment.emulator.environment(),
                self.deployment.outputs["SigningKeySecretId"],
                self.namespace,
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

    def bind(self, name: str, value: str = "first", **annotations: str) -> str:
        """Create an AWS secret of the team and a Secret that is bound to it and filled; return the ARN."""
        arn = str(self.secrets_manager.create_secret(Name=f"{self.team}/{name}", SecretString=value)["ARN"])
        self.cluster.create([secret(self.team, name, f"{self.team}/{name}", **annotations)])
        eventually(lambda: self.data(name), 60)
        return arn

    def put(self, name: str, value: str) -> str:
        """Store a new value of an AWS secret, whose version gets AWSCURRENT at once; return the version's id."""
        reply = self.secrets_manager.put_secret_value(SecretId=f"{self.team}/{name}", SecretString=value)
        return str(reply["VersionId"])

    def wait_applied(self, name: str, value: str, seconds: float = 60) -> None:
        """Wait until a Secret holds only this plain text, under the key "value"."""
        eventually(lambda: self.data(name) == {"value": value.encode()}, seconds)

    def data(self, name: str) -> Mapping[str, bytes]:
        """Return the data of a Secret, as the watch has last reported it."""
        states = self.history.data_history(name)
        return states[-1] if states else {}

    def log(self) -> Sequence[Line]:
        """Return the JSON lines of the notifier's log, oldest first."""
        return self._log.lines()

    def delivered(self) -> set[str]:
        """Return the ids of the versions that every receiver has accepted, according to the notifier's log."""
        return self._log.delivered()

    def metrics(self) -> Mapping[str, float]:
        """Return the sum of each metric that the notifier has emitted, by the metric's name."""
        return self._log.metrics()

    def messages(self, output: str) -> Mapping[str, int]:
        """Return how many messages of a queue are visible, and how many have been taken and not deleted yet. ``output``
        is the name of the stack's output that has the queue's URL."""
        attributes = self.deployment.emulator.client("sqs").get_queue_attributes(
            QueueUrl=self.deployment.outputs[output], AttributeNames=["All"]
        )["Attributes"]
        return {
            "visible": int(attributes["ApproximateNumberOfMessages"]),
            "taken": int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        }
