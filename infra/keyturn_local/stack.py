"""All of Keyturn on one machine: cluster, AWS, receiver and notifier, connected as in production."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trustme

from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.kubernetes.chart import chart_rights
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.node import network
from keyturn_local.notifier import event_source
from keyturn_local.processes.program import Program
from keyturn_local.receiver import release
from keyturn_local.receiver.process import SERVICE_ACCOUNT, LocalReceiver
from keyturn_local.receiver.release import Release
from keyturn_local.timeline import Timeline

KMS_KEY = "alias/keyturn"
CERTIFICATE = "keyturn-tls"


class Receiver(Protocol):
    """A running receiver, which is either a process or the pods of a Helm release."""

    @property
    def url(self) -> str:
        """URL that accepts deliveries."""

    @property
    def operations_url(self) -> str:
        """URL of the operations port."""

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""


@dataclass
class Stack:
    """The running parts of one stack."""

    directory: Path
    namespace: str
    cluster: Cluster
    aws: LocalAws
    path: EventPath
    receiver: Receiver
    notifier: Program
    timeline: Timeline


@contextmanager
def run_stack(
    directory: Path, cluster: Cluster, namespace: str, settings: Mapping[str, str] | None = None, kms: bool = False
) -> Iterator[Stack]:
    """Run all parts with ``cluster``. The receiver is a process with the rights of the chart's ServiceAccount.

    ``namespace`` holds that ServiceAccount; it is created and deleted. With ``kms``, the notifier also signs with a KMS
    key, and the receiver has only that key's public part.
    """
    timeline = Timeline(directory / "timeline.jsonl")
    with ExitStack() as stack:
        aws = stack.enter_context(LocalAws.start(directory, timeline))
        path = aws.provision()
        objects = [_namespace(namespace), *chart_rights(namespace)]
        stack.callback(cluster.delete, objects, wait=False)
        cluster.create(objects)
        kubeconfig = cluster.kubeconfig_for(namespace, SERVICE_ACCOUNT, directory)
        if kms:
            public_key = base64.b64encode(aws.kms().get_public_key(KeyId=KMS_KEY)["PublicKey"]).decode()
            public_key_only = {"KEYTURN_SIGNING_KEY_SECRET_ID": "", "KEYTURN_SIGNING_PUBLIC_KEYS": public_key}
            settings = {**(settings or {}), **public_key_only}
        receiver = LocalReceiver(
            directory, kubeconfig, aws.environment(), path.signing_key_secret_id, namespace, settings
        )
        stack.callback(receiver.stop)
        receiver.start()
        notifier = event_source.start(directory, aws, path, [receiver.url], timeline, KMS_KEY if kms else "")
        stack.callback(notifier.stop)
        yield Stack(directory, namespace, cluster, aws, path, receiver, notifier, timeline)


@contextmanager
def run_stack_of_pods(
    directory: Path, cluster: Cluster, namespace: str, values: Mapping[str, Any] | None = None
) -> Iterator[Stack]:
    """Run all parts inside an enclosure, with the receiver as a release of the chart on a real node.

    The receiver's pods serve TLS. ``namespace`` is created and deleted. ``values`` are added to the values of the chart
    that the node needs.
    """
    timeline = Timeline(directory / "timeline.jsonl")
    with ExitStack() as stack:
        aws = stack.enter_context(LocalAws.start(directory, timeline, network.HOST))
        path = aws.provision()
        authority = trustme.CA()
        objects = [_namespace(namespace), _certificate(authority, namespace)]
        stack.callback(cluster.delete, objects, wait=False)
        cluster.create(objects)
        node_values = release.values(aws.environment(), path.signing_key_secret_id)
        receiver = stack.enter_context(
            Release.install(cluster, namespace, {**node_values, "tls": {"secretName": CERTIFICATE}, **(values or {})})
        )
        bundle = authority.cert_pem.bytes()
        notifier = event_source.start(directory, aws, path, [receiver.url], timeline, ca_bundle=bundle)
        stack.callback(notifier.stop)
        yield Stack(directory, namespace, cluster, aws, path, receiver, notifier, timeline)


def _namespace(name: str) -> Any:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _certificate(authority: trustme.CA, namespace: str) -> Any:
    certificate = authority.issue_cert(release.host_of(namespace))
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": CERTIFICATE, "namespace": namespace},
        "stringData": {"tls.crt": chain.decode(), "tls.key": certificate.private_key_pem.bytes().decode()},
    }
