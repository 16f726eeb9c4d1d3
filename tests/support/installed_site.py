"""A site as the CLI sees it: the chart's Deployment with the pod of a receiver that runs on this machine."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyturn_local.kubernetes.chart import chart_objects
from keyturn_local.paths import ROOT
from keyturn_local.processes.environment import clean_environment
from support.site import Site
from support.wait import eventually

IMPORT_ROOTS = os.pathsep.join(str(ROOT / name) for name in ("lambda", "receiver", "cli"))


@dataclass(frozen=True)
class Done:
    """The result of a run of the CLI."""

    code: int
    out: str
    err: str

    def data(self) -> Any:
        """Return the output, decoded from JSON."""
        return json.loads(self.out)


class InstalledSite:
    """A site, and a Deployment whose pod has the address of the site's receiver.

    No kubelet runs the pod: it is not scheduled, and the test writes its status. The API server's proxy reaches the
    receiver at the pod's address.
    """

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self.release = f"{site.namespace}/keyturn"
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(site.endpoints.certificate.bundle)
        self._install()

    @property
    def pod(self) -> str:
        """The name of the receiver's pod."""
        (pod,) = self.site.cluster.list("pods", self.site.namespace, "app.kubernetes.io/component=receiver")
        return str(pod["metadata"]["name"])

    def set_ready(self, ready: bool) -> None:
        """Write the pod's status, with this condition ``Ready``."""
        status = {
            "phase": "Running",
            "podIP": own_address(),
            "podIPs": [{"ip": own_address()}],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
        self.patch("pod", self.pod, {"status": status}, "--subresource=status")

    def patch(self, kind: str, name: str, change: Any, *flags: str, namespace: str = "") -> None:
        """Change an object by a merge patch."""
        place = ["-n", namespace or self.site.namespace]
        self.site.cluster.kubectl("patch", kind, name, *place, "--type=merge", "-p", json.dumps(change), *flags)

    def run(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> Done:
        """Run the CLI to its end, with the rights of an admin in Kubernetes and in AWS."""
        with self.start(*arguments, before=before, **environment) as running:
            out, err = running.communicate(timeout=180)
        return Done(running.returncode, out, err)

    def start(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> "subprocess.Popen[str]":
        """Start the CLI. ``before`` is the command of a program that starts it, such as unshare with its options."""
        return subprocess.Popen(
            [*before, sys.executable, "-m", "keyturn_cli", *arguments],
            env={
                **clean_environment(),
                **self.site.deployment.emulator.environment(),
                "PYTHONPATH": IMPORT_ROOTS,
                "KUBECONFIG": str(self.site.cluster.kubeconfig),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def doctor(self, *arguments: str, **environment: str) -> Done:
        """Run the doctor for this release and its stack."""
        place = ("--release", self.release, "--stack", self.site.deployment.name)
        return self.run("doctor", *place, "-o", "json", *arguments, **environment)

    def _install(self) -> None:
        values = {
            "namespaces": [self.site.team],
            "replicas": 1,
            "signingKey": {"secretId": self.site.deployment.outputs["SigningKeySecretId"]},
            "tls": {"secretName": "keyturn-tls"},
        }
        (deployment,) = (each for each in chart_objects(self.site.namespace, values) if each["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        pod["schedulerName"] = "nobody"
        ports = {"notifications": self.site.receiver.url, "operations": self.site.receiver.operations_url}
        for port in pod["containers"][0]["ports"]:
            port["containerPort"] = int(ports[port["name"]].split(":")[2].split("/")[0])
        self.site.cluster.create([deployment])
        selector = "app.kubernetes.io/component=receiver"
        eventually(lambda: self.site.cluster.list("pods", self.site.namespace, selector))
        # A paused Deployment keeps its pod when a test changes its template.
        self.patch("deployment", "keyturn", {"spec": {"paused": True}})
        self.set_ready(True)


def own_address() -> str:
    """Return an address of this machine that is not loopback: the API server's proxy refuses loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # no packet is sent
        return str(probe.getsockname()[0])
