"""The chart's pods, whose commands run on this machine: receivers, and the pod of `helm test`."""

import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from keyturn_contract.signature import new_key
from keyturn_local.aws.sdk import REGION
from keyturn_local.aws.server import SIGNING_KEY, LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.chart_values import ANYWHERE, merged
from support.helm import helm_in_namespace
from support.kubelet import Kubelet, helm_test
from support.wait import eventually

IN_AWS = {"aws": {"region": REGION}, "signingKey": {"secretId": SIGNING_KEY}}
IN_A_SECRET = {"signingKey": {"existingSecret": {"name": "signing-keys", "key": "keys"}}}
TLS = {"tls": {"secretName": "certificate"}}
# Foreign addresses, volumes and variables would not work on this machine, so HERE removes them. EVERYTHING_HERE also
# gives the Secrets the names that they have here.
HERE = {
    "aws": {"endpointUrl": ""},
    "proxy": {"url": "", "noProxy": []},
    "extraEnv": [],
    "extraEnvFrom": [],
    "extraVolumes": [],
    "extraVolumeMounts": [],
}
EVERYTHING_HERE = merged(merged(ANYWHERE, HERE), {**IN_AWS, **TLS})


@pytest.fixture
def kubelet(
    control_plane: ControlPlane, session_aws: LocalAws, signing_key_id: str, tmp_path: Path
) -> Iterator[Callable[[dict[str, Any]], Kubelet]]:
    """Return a function that installs a release with the given values and runs the release's receiver."""
    with ExitStack() as stack:

        def make(values: dict[str, Any]) -> Kubelet:
            helm = stack.enter_context(helm_in_namespace(control_plane))
            helm.cluster.create(secrets(helm.namespace))
            helm.install(values, wait="hookOnly")
            helm.wait_for_rollout()
            made = Kubelet(helm, session_aws, tmp_path)
            stack.callback(made.kill)
            made.start()
            return made

        yield make


def secrets(namespace: str) -> Iterator[dict[str, Any]]:
    """Yield the Secrets that the values name: one with a signing key, and one with a certificate that does not name the
    Service."""
    made = trustme.CA().issue_cert("keyturn.example.com")
    certificate = b"".join(each.bytes() for each in made.cert_chain_pems)
    kept = {
        "signing-keys": {"keys": new_key(os.urandom(32)).encode()},
        "certificate": {"tls.crt": certificate, "tls.key": made.private_key_pem.bytes()},
    }
    for name, data in kept.items():
        encoded = {key: b64encode(value).decode() for key, value in data.items()}
        metadata = {"name": name, "namespace": namespace}
        yield {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}


@pytest.mark.usefixtures("custom_resources")
@pytest.mark.parametrize(
    ("values", "told"),
    [
        (IN_AWS, "signed with the key of AWS secret"),
        (IN_A_SECRET, "signed with the key of file"),
        ({"signingKey": {"publicKeys": [f"whpk_{'A' * 43}="]}}, "unsigned: answered with 401"),
        ({**IN_AWS, **TLS}, "A heartbeat to https://"),
        (EVERYTHING_HERE, "A heartbeat to https://"),
    ],
    ids=["a key in AWS", "a key in a Secret", "public keys alone", "TLS", "everything"],
)
def test_helm_test_reaches_a_receiver_run_as_its_pod_specifies(
    kubelet: Callable[..., Kubelet], namespace: str, values: dict[str, Any], told: str
) -> None:
    served = {"namespaces": [namespace]} if "namespaces" in values else {}
    done = helm_test(kubelet({**values, **served}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert told in done.stdout


def test_receiver_with_another_key_fails_helm_test(kubelet: Callable[..., Kubelet]) -> None:
    made = kubelet(IN_A_SECRET)
    namespace = made.helm.namespace
    made.helm.cluster.kubectl("delete", "secret", "signing-keys", "-n", namespace)
    made.helm.cluster.create(each for each in secrets(namespace) if each["metadata"]["name"] == "signing-keys")
    done = helm_test(made)
    assert done.returncode == 1
    assert "answered with 401" in done.stdout


def test_leases_survive_an_upgrade_and_are_deleted_with_the_release(
    kubelet: Callable[..., Kubelet],
) -> None:
    made = kubelet(IN_AWS)
    helm = made.helm

    def leases() -> dict[str, tuple[str, str]]:
        found = helm.cluster.list("leases", helm.namespace)
        holders = [each.get("spec", {}).get("holderIdentity") for each in found]
        return {
            each["metadata"]["name"]: (each["metadata"]["uid"], holder)
            for each, holder in zip(found, holders, strict=True)
        }

    eventually(lambda: leases()["keyturn-poller"][1])
    before = leases()
    assert before.keys() == {"keyturn-poller", "keyturn-event-path"}
    helm.upgrade({**IN_AWS, "logLevel": "DEBUG"})
    assert leases() == before
    made.kill()
    helm.uninstall()
    assert not leases()
