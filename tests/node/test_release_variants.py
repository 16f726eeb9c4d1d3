"""`helm install` on a real node with values that differ from the defaults, and `helm uninstall`."""

import ssl
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trustme

from keyturn_contract.message import Outcome
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.helm import InstalledRelease, deliver, helm_in_namespace, installed_release, node_values, processes_of
from support.team import Team, team
from support.wait import eventually

POLL_SECONDS = 2


@dataclass
class Small:
    """One receiver that serves a single team over TLS and polls every two seconds."""

    release: InstalledRelease
    team: Team
    trust: ssl.SSLContext

    @property
    def url(self) -> str:
        """The webhook's URL under the Service's name."""
        return f"https://keyturn.{self.release.namespace}.svc/v1/notifications"


@pytest.fixture(scope="module")
def small(control_plane: ControlPlane, aws: LocalAws, signing_key_id: str) -> Iterator[Small]:
    home = f"keyturn-{uuid4().hex[:6]}"
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    certificate = tls_secret(home, authority.issue_cert(f"keyturn.{home}.svc"))
    with team(control_plane, aws) as made:
        told = node_values(
            aws,
            signing_key_id,
            replicas=1,
            namespaces=[made.namespace],
            tls={"secretName": "certificate"},
            poller={"intervalSeconds": POLL_SECONDS},
            drainSeconds=0,
        )
        with installed_release(control_plane, told, home, [certificate]) as running:
            yield Small(running, made, trust)


def tls_secret(namespace: str, certificate: trustme.LeafCert) -> dict[str, Any]:
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    data = {"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"namespace": namespace, "name": "certificate"},
        "data": {name: b64encode(each).decode() for name, each in data.items()},
    }


def test_helm_test_passes_through_the_service_over_tls(small: Small) -> None:
    told = small.release.helm.client.test("keyturn", timeout=60, logs=True)["logs"]
    assert f"A heartbeat to https://keyturn.{small.release.namespace}.svc" in told


def test_delivery_over_tls_to_the_service_name_is_applied(small: Small, key: bytes) -> None:
    small.team.bind("db")
    eventually(small.team.is_current)
    (result,) = deliver(small.url, key, small.team.rotate("db"), verify=small.trust)
    assert result.outcome in (Outcome.APPLIED, Outcome.UNCHANGED)  # the outcome is "unchanged" if the poller was first
    assert small.team.is_current()
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        deliver(small.url, key, verify=ssl.create_default_context())


def test_poller_alone_applies_a_rotation(small: Small) -> None:
    small.team.bind("unheard")
    eventually(small.team.is_current)
    (pod,) = small.release.pods()
    before = small.release.metric(pod, "keyturn_recovered_by_poll_total")
    small.team.rotate("unheard")
    eventually(small.team.is_current, 5 * POLL_SECONDS)
    eventually(lambda: small.release.metric(pod, "keyturn_recovered_by_poll_total") == before + 1)


def test_uninstalled_release_leaves_nothing(control_plane: ControlPlane, aws: LocalAws, signing_key_id: str) -> None:
    with helm_in_namespace(control_plane) as helm:
        # Kubernetes itself creates objects of these kinds in every namespace.
        eventually(lambda: {"ServiceAccount", "ConfigMap"} <= {kind for kind, *_ in helm.inventory()})
        before = helm.inventory()
        helm.install(node_values(aws, signing_key_id, drainSeconds=0))
        helm.client.test("keyturn", timeout=60)
        pods = [pod["metadata"]["uid"] for pod in InstalledRelease(helm).pods()]
        assert all(map(processes_of, pods))
        helm.uninstall()
        # Only new objects count. Others may disappear meanwhile, because the namespaces of other tests are being
        # deleted.
        eventually(lambda: not helm.inventory() - before, 60)
        assert not any(map(processes_of, pods))
