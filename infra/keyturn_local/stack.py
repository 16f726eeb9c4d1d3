"""All of Keyturn on one machine: a cluster, an AWS with the deployed stack, and a receiver. They are connected as in
production."""

import base64
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trustme

from keyturn_local.aws.deployed import DeployedAws, Deploying
from keyturn_local.aws.server import EventPath
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.node import network
from keyturn_local.processes.ports import free_ports
from keyturn_local.receiver import release
from keyturn_local.receiver.certificate import Certificate
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from keyturn_local.receiver.release import Release

CERTIFICATE = "keyturn-tls"


class Receiver(Protocol):
    """A running receiver, which is either a process or the pods of a Helm release."""

    @property
    def url(self) -> str:
        """URL to which deliveries are sent."""

    @property
    def operations_url(self) -> str:
        """URL of the operations port."""

    @property
    def page_url(self) -> str:
        """URL of the status page. If the receiver is a pod, the page's port has to be forwarded first."""

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels."""


@dataclass
class Stack:
    """The running parts of one stack."""

    directory: Path
    namespace: str
    cluster: Cluster
    aws: DeployedAws
    receiver: Receiver
    certificates: bytes  # PEM of the CA that issued the receiver's certificate

    def tls(self) -> ssl.SSLContext:
        """Return a TLS context for clients of the receiver."""
        return ssl.create_default_context(cadata=self.certificates.decode())

    @property
    def path(self) -> EventPath:
        """The stack's queues and signing key."""
        return self.aws.path


class PlannedReceiver:
    """A receiver that will run as a process. Its address and its certificate are known before it runs, because the
    stack is deployed with them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._certificate = Certificate.issue(directory)
        (self._port,) = free_ports(1)

    def deploy(self, parameters: Mapping[str, str] | None = None, log_events: bool = False) -> Deploying:
        """Start to deploy the stack for this receiver, in the background. ``parameters`` are additional stack
        parameters."""
        url = f"https://127.0.0.1:{self._port}/v1/notifications"
        receiver = {"ReceiverUrls": url, "CaBundle": self._certificate.parameter}
        return Deploying(self._directory, {**receiver, **(parameters or {})}, log_events=log_events)

    @contextmanager
    def run(
        self, deploying: Deploying, cluster: Cluster, namespace: str, settings: Mapping[str, str] | None = None
    ) -> Iterator[Stack]:
        """Wait until the stack is deployed. Then run the receiver with the rights of the chart's ServiceAccount.

        This method creates the namespace ``namespace`` with this ServiceAccount, and deletes it at the end. If the
        stack signs with KMS, the receiver has only the public part of the KMS key.
        """
        with ExitStack() as stack:
            objects = [_namespace(namespace), *chart_rights(namespace)]
            stack.callback(cluster.delete, objects, wait=False)
            cluster.create(objects)
            kubeconfig = cluster.kubeconfig_for(namespace, SERVICE_ACCOUNT, self._directory)
            aws = deploying.result()
            if public_key := aws.kms_public_key():
                public_key_only = {
                    "KEYTURN_SIGNING_KEY_SECRET_ID": "",
                    "KEYTURN_SIGNING_PUBLIC_KEYS": base64.b64encode(public_key).decode(),
                }
                settings = {**(settings or {}), **public_key_only}
            receiver = LocalReceiver(
                self._directory,
                kubeconfig,
                aws.environment(),
                aws.path.signing_key_secret_id,
                namespace,
                settings,
                certificate=self._certificate,
                port=self._port,
            )
            stack.callback(receiver.stop)
            stack.callback(deploying.stop)  # the notifier ends first, because it may hold a connection to the receiver
            receiver.start()
            yield Stack(self._directory, namespace, cluster, aws, receiver, self._certificate.bundle)


class PlannedRelease:
    """Receivers that will run as the pods of a Helm release, on a real node inside an enclosure. They serve TLS."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self._directory = directory
        self._namespace = namespace
        self._authority = trustme.CA()

    def deploy(self, log_events: bool = False) -> Deploying:
        """Start to deploy the stack for these receivers, in the background."""
        parameters = {
            "ReceiverUrls": f"https://{release.host_of(self._namespace)}/v1/notifications",
            "CaBundle": base64.b64encode(self._authority.cert_pem.bytes()).decode(),
        }
        return Deploying(self._directory, parameters, network.HOST, log_events)

    @contextmanager
    def run(self, deploying: Deploying, cluster: Cluster, values: Mapping[str, Any] | None = None) -> Iterator[Stack]:
        """Wait until the stack is deployed. Then install the chart. This method creates the namespace, and deletes it
        at the end.

        ``values`` are added to the chart's values for the node.
        """
        with ExitStack() as stack:
            objects = [_namespace(self._namespace), self._certificate()]
            stack.callback(cluster.delete, objects, wait=False)
            cluster.create(objects)
            aws = deploying.result()
            node_values = release.values(aws.environment(), aws.path.signing_key_secret_id)
            receiver = stack.enter_context(
                Release.install(
                    cluster,
                    self._namespace,
                    {**node_values, "tls": {"secretName": CERTIFICATE}, **(values or {})},
                )
            )
            stack.callback(deploying.stop)  # the notifier ends first, because it may hold a connection to a receiver
            yield Stack(self._directory, self._namespace, cluster, aws, receiver, self._authority.cert_pem.bytes())

    def _certificate(self) -> Any:
        certificate = self._authority.issue_cert(release.host_of(self._namespace))
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": CERTIFICATE, "namespace": self._namespace},
            "stringData": {"tls.crt": chain.decode(), "tls.key": certificate.private_key_pem.bytes().decode()},
        }


@contextmanager
def run_stack(
    directory: Path,
    cluster: Cluster,
    namespace: str,
    settings: Mapping[str, str] | None = None,
    parameters: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Run all parts, with ``cluster`` as the cluster. ``settings`` are the receiver's settings. ``parameters`` are
    parameters of the stack."""
    planned = PlannedReceiver(directory)
    with planned.deploy(parameters) as deploying, planned.run(deploying, cluster, namespace, settings) as stack:
        yield stack


def _namespace(name: str) -> Any:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
