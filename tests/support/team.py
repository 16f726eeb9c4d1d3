"""A team: a namespace of its own, with Secrets that are bound to AWS secrets of the same names."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from keyturn_contract.message import Notification
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.cluster import Cluster
from support.cluster_state import data_of
from support.deliveries import notification
from support.manifests import secret
from support.wait import eventually


class Team:
    """The namespace of a team. Create it with the function ``team``."""

    def __init__(self, cluster: Cluster, aws: LocalAws, namespace: str) -> None:
        self.namespace = namespace
        self._cluster = cluster
        self._client = aws.secrets_manager()
        self._arns: dict[str, str] = {}

    def bind(self, *names: str) -> None:
        """Create AWS secrets and Secrets that are bound to them."""
        for name in names:
            secret_id = f"{self.namespace}/{name}"
            self._arns[name] = self._client.create_secret(Name=secret_id, SecretString=f"first-{uuid4().hex}")["ARN"]
        self._cluster.create(secret(self.namespace, name, f"{self.namespace}/{name}") for name in names)

    def rotate(self, name: str) -> Notification:
        """Rotate an AWS secret and return the resulting notification."""
        version_id = rotate(self._client, self._arns[name], f"next-{uuid4().hex}")
        return notification(self._arns[name], version_id)

    def is_current(self) -> bool:
        """Return whether every Secret holds the value that AWS currently has."""
        return all(
            data_of(self._cluster, self.namespace, name)
            == {"value": self._client.get_secret_value(SecretId=arn)["SecretString"].encode()}
            for name, arn in self._arns.items()
        )


@contextmanager
def team(cluster: Cluster, aws: LocalAws, *names: str) -> Iterator[Team]:
    """Create a namespace that may read its AWS secrets, and bound Secrets in it. Wait until the Secrets are filled."""
    name = f"team-{uuid4().hex[:6]}"
    annotations = {"keyturn.dev/allow-secrets": f"{name}/*"}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
    cluster.create([made])
    try:
        found = Team(cluster, aws, name)
        if names:
            found.bind(*names)
            eventually(found.is_current)
        yield found
    finally:
        cluster.delete([made], wait=False)
