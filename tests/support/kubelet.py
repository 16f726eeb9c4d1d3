"""The commands of the chart's pods, run on this machine in place of a kubelet, because kwok runs no containers.

A receiver runs with the variables and mounted files of its pod, but with ports and addresses of this machine.
`helm test` creates its pod. This module runs the command of that pod, and writes the result into the pod's status for
Helm.
"""

import json
import os
import subprocess
import sys
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from helm_python.errors import HelmError

from keyturn_local.aws.server import LocalAws
from keyturn_local.processes.environment import IMPORT_ROOTS
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, answers
from keyturn_local.receiver.process import total
from keyturn_receiver.settings import Settings
from support.helm import Helm
from support.wait import eventually


class Kubelet:
    """Runs the commands of a release's pods on this machine."""

    def __init__(self, helm: Helm, aws: LocalAws, directory: Path) -> None:
        self.helm = helm
        self._aws = aws
        self._directory = directory
        self._port, self._operations_port = free_ports(2)
        self._receiver: Program | None = None

    def start(self) -> None:
        """Start a receiver with the variables and files that the Deployment specifies for its pod, and wait until it is
        ready."""
        (deployment,) = self.helm.cluster.list("deployments", self.helm.namespace)
        pod = deployment["spec"]["template"]["spec"]
        account = self.helm.cluster.kubeconfig_for(self.helm.namespace, pod["serviceAccountName"], self._directory)
        (container,) = pod["containers"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        theirs = {name: field.default for name, field in Settings.model_fields.items()}
        expected = {"notifications": theirs["port"], "operations": theirs["operations_port"]}
        if self._environment(pod)["KEYTURN_DELIVERIES"] == "false":
            del expected["notifications"]
        assert ports == expected
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

    @property
    def url(self) -> str:
        """The URL for deliveries, over plain HTTP."""
        return f"http://127.0.0.1:{self._port}/v1/notifications"

    def metrics(self) -> str:
        """Return the metrics of the receiver."""
        return httpx.get(f"http://127.0.0.1:{self._operations_port}/metrics", timeout=5).text

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        return total(self.metrics(), name, **labels)

    def kill(self) -> None:
        """Kill the receiver."""
        if self._receiver:
            self._receiver.kill()

    def heartbeat(self, pod: Any) -> subprocess.CompletedProcess[str]:
        """Run the command of the `helm test` pod until it ends."""
        (container,) = pod["containers"]
        assert container["command"] == ["/opt/keyturn/bin/python", "-m", "keyturn_receiver.self_test"]
        command = [sys.executable, *container["command"][1:]]
        if "args" in container:
            url, *more = container["args"]
            assert self._reached_by(url) == self.helm.ready_pods("app.kubernetes.io/component=receiver")
            here = urlsplit(url)._replace(netloc=f"127.0.0.1:{self._port}").geturl()
            command += [here, *(self._local(pod, each) for each in more)]
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


def helm_test(kubelet: Kubelet) -> subprocess.CompletedProcess[str]:
    """Run `helm test` in place of a kubelet: Helm creates its test pod, and this function runs the pod's command on
    this machine. Check that Helm's verdict matches the result, and return the result."""
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
        finally:  # even after an error, because Helm would otherwise wait until its timeout
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
