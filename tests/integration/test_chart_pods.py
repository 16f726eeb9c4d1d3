"""The commands of the chart's pods. The tests run them on this machine instead of a kubelet, because kwok runs no
containers.

A receiver runs with the variables and the mounted files of its pod. For `helm test`, Helm creates the test pod, the
test runs the pod's command, and then sets the result that Helm waits for. Only ports and addresses are those of this
machine.
"""

import json
import os
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from helm_python.errors import HelmError

from keyturn_contract.signature import new_key
from keyturn_local.aws.sdk import REGION
from keyturn_local.aws.server import SIGNING_KEY, LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.environment import IMPORT_ROOTS
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, answers
from keyturn_receiver.settings import Settings
from support.chart_values import ANYWHERE, merged
from support.helm import Helm, helm_in_namespace
from support.wait import eventually

IN_AWS = {"aws": {"region": REGION}, "signingKey": {"secretId": SIGNING_KEY}}
IN_A_SECRET = {"signingKey": {"existingSecret": {"name": "signing-keys", "key": "keys"}}}
TLS = {"tls": {"secretName": "certificate"}}
# Foreign addresses, volumes and variables would not work on this machine, so HERE removes them. EVERYTHING_HERE also
# gives the Secrets the names that they have here.
HERE = {"aws": {"endpointUrl": ""}, "extraEnv": [], "extraEnvFrom": [], "extraVolumes": [], "extraVolumeMounts": []}
EVERYTHING_HERE = merged(merged(ANYWHERE, HERE), {**IN_AWS, **TLS})


class Kubelet:
    """Runs the commands of a release's pods on this machine."""

    def __init__(self, helm: Helm, aws: LocalAws, directory: Path) -> None:
        self.helm = helm
        self._aws = aws
        self._directory = directory
        self._port, self._operations_port = free_ports(2)
        self._receiver: Program | None = None

    def start(self) -> None:
        """Start a receiver with everything that the Deployment specifies for its pod, and wait until it is ready."""
        (deployment,) = self.helm.cluster.list("deployments", self.helm.namespace)
        pod = deployment["spec"]["template"]["spec"]
        account = self.helm.cluster.kubeconfig_for(self.helm.namespace, pod["serviceAccountName"], self._directory)
        (container,) = pod["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        theirs = {name: field.default for name, field in Settings.model_fields.items()}
        assert ports == {"notifications": theirs["port"], "operations": theirs["operations_port"]}
        environment = {
            **self._environment(pod),
            "KUBECONFIG": str(account),
            "KEYTURN_HOST": "127.0.0.1",
            "KEYTURN_PORT": str(self._port),
            "KEYTURN_OPERATIONS_PORT": str(self._operations_port),
        }
        command = [sys.executable, "-m", "keyturn_receiver"]  # the same command as in the image
        self._receiver = Program("receiver", command, self._directory, environment)
        self._receiver.wait_for(answers(f"http://127.0.0.1:{self._operations_port}/readyz"), 30)

    def kill(self) -> None:
        """Kill the receiver."""
        if self._receiver:
            self._receiver.kill()

    def heartbeat(self, pod: Any) -> subprocess.CompletedProcess[str]:
        """Run the command of the `helm test` pod until it ends."""
        (container,) = pod["containers"]
        assert container["command"] == ["/opt/keyturn/bin/python", "-m", "keyturn_receiver.self_test"]
        url, *more = container["args"]
        assert self._reached_by(url) == self.helm.ready_pods("app.kubernetes.io/component=receiver")
        here = urlsplit(url)._replace(netloc=f"127.0.0.1:{self._port}").geturl()
        command = [sys.executable, *container["command"][1:], here, *(self._local(pod, each) for each in more)]
        return subprocess.run(command, env=self._environment(pod), capture_output=True, text=True, timeout=60)

    def _reached_by(self, url: str) -> set[str]:
        """Return the pods that a URL inside the cluster reaches through its Service. The URL must lead to the port for
        notifications."""
        name, namespace, suffix = str(urlsplit(url).hostname).split(".")
        assert (namespace, suffix) == (self.helm.namespace, "svc")
        service = self.helm.cluster.get("service", name, namespace)["spec"]
        (port,) = service["ports"]
        assert (urlsplit(url).port, port["targetPort"]) == (port["port"], "notifications")
        selector = ",".join(f"{key}={value}" for key, value in service["selector"].items())
        return {each["metadata"]["name"] for each in self.helm.cluster.list("pods", namespace, selector)}

    def _environment(self, pod: Any) -> dict[str, str]:
        (container,) = pod["containers"]
        given = {each["name"]: self._local(pod, each["value"]) for each in container["env"]}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": IMPORT_ROOTS, **self._aws.environment(), **given}

    def _local(self, pod: Any, text: str) -> str:
        """Replace the path of a mounted Secret with the path of a copy on this machine."""
        (container,) = pod["containers"]
        for mount in container.get("volumeMounts", []):
            if mount["mountPath"] in text:
                text = text.replace(mount["mountPath"], str(self._mounted(pod, mount["name"])))
        return text

    def _mounted(self, pod: Any, name: str) -> Path:
        (volume,) = [each["secret"] for each in pod["volumes"] if each["name"] == name]
        folder = Path(mkdtemp(dir=self._directory))
        data = self.helm.cluster.get("secret", volume["secretName"], self.helm.namespace)["data"]
        items = volume.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            (folder / item["path"]).write_bytes(b64decode(data[item["key"]]))
        return folder


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


def helm_test(kubelet: Kubelet) -> subprocess.CompletedProcess[str]:
    """Let Helm create its test pod, run the command of the pod, and check that Helm's verdict matches the result."""
    helm = kubelet.helm
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(helm.client.test, "keyturn", timeout=60)
        (pod,) = eventually(lambda: helm.cluster.list("pods", helm.namespace, "app.kubernetes.io/component=test"))
        name = pod["metadata"]["name"]
        helm.cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Running", f"pod/{name}", "-n", helm.namespace)
        phase = "Failed"
        try:
            done = kubelet.heartbeat(pod["spec"])
            phase = "Failed" if done.returncode else "Succeeded"
        finally:  # otherwise Helm would wait until its timeout
            ended = json.dumps({"status": {"phase": phase}})
            helm.cluster.kubectl("patch", "pod", name, "-n", helm.namespace, "--subresource=status", "-p", ended)
    if done.returncode:
        with pytest.raises(HelmError, match="failed"):
            verdict.result()
    else:
        verdict.result()
    # A failed pod stays, so that its log can be read. A pod that has passed is deleted.
    left = helm.cluster.list("pods", helm.namespace, "app.kubernetes.io/component=test")
    assert bool(left) is bool(done.returncode)
    return done


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
