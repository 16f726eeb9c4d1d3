"""Poller-first: a receiver without a stack, a key or a way in, and the upgrade of its release to the event path."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keyturn_contract.message import Outcome
from keyturn_contract.signature import parse_key
from keyturn_local.aws.rotation import rotate
from keyturn_local.aws.sdk import REGION
from keyturn_local.aws.server import SIGNING_KEY, LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.cluster_state import annotations_of, data_of, replica_sets
from support.deliveries import notification
from support.fault_env import FaultEnv
from support.helm import Helm, deliver, helm_in_namespace
from support.kubelet import Kubelet, helm_test
from support.manifests import env_from, secret, workload
from support.wait import eventually

FIRST = {"deliveries": {"enabled": False}, "aws": {"region": REGION}, "poller": {"intervalSeconds": 5}}
# The two values that add the event path.
EVENT_PATH = {"deliveries": {"enabled": True}, "signingKey": {"secretId": SIGNING_KEY}}
OF_DELIVERIES = ("keyturn_event_path_up", "keyturn_signing_keys")


@pytest.fixture
def helm(control_plane: ControlPlane) -> Iterator[Helm]:
    with helm_in_namespace(control_plane) as made:
        yield made


@pytest.fixture
def kubelet(helm: Helm, session_aws: LocalAws, tmp_path: Path) -> Iterator[Kubelet]:
    helm.install(FIRST)
    made = Kubelet(helm, session_aws, tmp_path)
    yield made
    made.kill()


def kinds(helm: Helm) -> set[tuple[str, str]]:
    """Return kind and name of the objects in the namespace that lead to receivers, or tell of the event path."""
    found = {(kind, name) for kind, _, name in helm.inventory()}
    return {each for each in found if each[0] in ("Service", "Ingress", "EndpointSlice", "Lease")}


def listens(url: str) -> bool:
    """Return whether anything accepts connections at the host and port of a URL."""
    with socket.socket() as client:
        return client.connect_ex((urlsplit(url).hostname, urlsplit(url).port)) == 0


@pytest.mark.long
@pytest.mark.usefixtures("signing_key_id")  # for the stack that comes later
def test_release_without_a_stack_carries_rotations_and_gets_the_event_path_by_an_upgrade(
    kubelet: Kubelet, session_aws: LocalAws, namespace: str
) -> None:
    helm, cluster = kubelet.helm, kubelet.helm.cluster
    client = session_aws.secrets_manager()
    secret_id = f"{namespace}/db"
    arn = client.create_secret(Name=secret_id, SecretString="one")["ARN"]

    # No stack, no key, nothing inbound.
    assert len(helm.ready_pods()) == 2
    assert kinds(helm) == {("Lease", "keyturn-poller")}
    (policy,) = cluster.list("networkpolicies", helm.namespace)
    assert (policy["spec"]["policyTypes"], policy["spec"].get("ingress")) == (["Ingress", "Egress"], None)
    kubelet.start()
    assert not listens(kubelet.url)
    assert not [name for name in OF_DELIVERIES if name in kubelet.metrics()]

    # A bound Secret is filled, and a rotation arrives with the poll.
    cluster.create([secret(namespace, "db", secret_id)])
    eventually(lambda: data_of(cluster, namespace, "db") == {"value": b"one"})
    cluster.create([workload(namespace, "web", env_from("db"))])
    eventually(lambda: replica_sets(cluster, namespace, "web") == 1)
    rotate(client, secret_id, "two")
    eventually(lambda: data_of(cluster, namespace, "db") == {"value": b"two"})
    eventually(lambda: replica_sets(cluster, namespace, "web") == 2)
    eventually(lambda: annotations_of(cluster, "secret", namespace, "db")["keyturn.dev/status"] == "ok")
    done = helm_test(kubelet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"AWS answers ListSecrets in {REGION}" in done.stdout

    # Two values add the event path.
    before = helm.ready_pods()
    helm.upgrade({**FIRST, **EVENT_PATH})
    assert not before & helm.ready_pods()
    assert {("Service", "keyturn"), ("Lease", "keyturn-poller"), ("Lease", "keyturn-event-path")} <= kinds(helm)
    kubelet.kill()
    kubelet.start()
    key = parse_key(client.get_secret_value(SecretId=SIGNING_KEY)["SecretString"])
    eventually(lambda: kubelet.metric("keyturn_sweeps_total", outcome="ok"))  # the next sweep is at least 4.5 s away
    assert kubelet.metric("keyturn_sweep_age_seconds") < 60
    (result,) = deliver(kubelet.url, key, notification(arn, rotate(client, secret_id, "three")))
    assert result.outcome == Outcome.APPLIED
    assert data_of(cluster, namespace, "db") == {"value": b"three"}
    eventually(lambda: replica_sets(cluster, namespace, "web") == 3)
    done = helm_test(kubelet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signed with the key of AWS secret" in done.stdout

    # The rollback removes the event path.
    helm.roll_back()
    eventually(lambda: kinds(helm) == {("Lease", "keyturn-poller")})


def test_receiver_without_deliveries_ends_at_once_and_in_order(env: FaultEnv) -> None:
    alone = {"KEYTURN_DELIVERIES": "false", "KEYTURN_SIGNING_KEY_SECRET_ID": "", "KEYTURN_DRAIN_SECONDS": "15"}
    receiver = env.receiver(**alone)
    assert (receiver.ready()[0], receiver.alive()[0], listens(receiver.url)) == (200, 200, False)
    assert "the poller alone carries changes" in receiver.log
    env.create_bound_secret()
    receiver.stop()
    assert receiver.status == 0
    assert "fatal" not in receiver.log


def test_without_credentials_the_receiver_is_not_ready_and_helm_test_says_why(
    helm: Helm, session_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a signing key to read, readiness and the self test still notice an AWS that does not answer."""
    helm.install(FIRST)
    unreachable = {**session_aws.environment(), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    monkeypatch.setattr(session_aws, "environment", lambda: unreachable)
    done = helm_test(Kubelet(helm, session_aws, tmp_path))
    assert done.returncode == 1
    assert f"ListSecrets in {REGION}: AWS cannot be reached" in done.stdout
    assert "try it again" in done.stdout
