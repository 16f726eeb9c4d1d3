"""All of Keyturn on one machine: a cluster, an AWS, the receiver and the notifier, joined as in production."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyturn_local import event_source
from keyturn_local.aws import EventPath, LocalAws
from keyturn_local.cluster import Cluster, chart_rights
from keyturn_local.processes import Program
from keyturn_local.receiver import SERVICE_ACCOUNT, LocalReceiver
from keyturn_local.timeline import Timeline

KMS_KEY = "alias/keyturn"


@dataclass
class Stack:
    """The running parts."""

    directory: Path
    namespace: str
    cluster: Cluster
    aws: LocalAws
    path: EventPath
    receiver: LocalReceiver
    notifier: Program
    timeline: Timeline


@contextmanager
def run_stack(
    directory: Path, cluster: Cluster, namespace: str, settings: Mapping[str, str] | None = None, kms: bool = False
) -> Iterator[Stack]:
    """Run everything against ``cluster``; the receiver's rights live in ``namespace``, which is made and deleted.

    With ``kms`` the notifier signs in KMS, and the receiver holds the public key alone.
    """
    timeline = Timeline(directory / "timeline.jsonl")
    with ExitStack() as stack:
        aws = stack.enter_context(LocalAws.start(directory, timeline))
        path = aws.provision()
        home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        made = [home, *chart_rights(namespace)]
        stack.callback(cluster.delete, made, wait=False)
        cluster.create(made)
        kubeconfig = cluster.kubeconfig_for(namespace, SERVICE_ACCOUNT, directory)
        if kms:
            public_key = base64.b64encode(aws.kms().get_public_key(KeyId=KMS_KEY)["PublicKey"]).decode()
            public_alone = {"KEYTURN_SIGNING_KEY_SECRET_ID": "", "KEYTURN_SIGNING_PUBLIC_KEYS": public_key}
            settings = {**(settings or {}), **public_alone}
        receiver = LocalReceiver(
            directory, kubeconfig, aws.environment(), path.signing_key_secret_id, namespace, settings
        )
        stack.callback(receiver.stop)
        receiver.start()
        notifier = event_source.start(directory, aws, path, [receiver.url], timeline, KMS_KEY if kms else "")
        stack.callback(notifier.stop)
        yield Stack(directory, namespace, cluster, aws, path, receiver, notifier, timeline)
