"""The real node: kubelet, kube-proxy and the cluster's DNS. They connect to a control plane that already runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import cgroups, enclosure, images, network, programs
from keyturn_local.node.runtime import HOME, SOCKET, Runtime
from keyturn_local.processes.program import Program, Stoppable, answers

NAME = "node"
KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    # The kubelet accepts every request, because only programs in the enclosure can reach it.
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "clusterDNS": [network.HOST],
    "clusterDomain": network.DOMAIN,
    "containerRuntimeEndpoint": f"unix://{SOCKET}",
    "configMapAndSecretChangeDetectionStrategy": "Watch",
    "resolvConf": "",
    # Containers restart after a short time, because tests kill them and wait for the restart.
    "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    # With these settings, the kubelet also starts on a machine that has cgroups of version 1, swap, or a full disk.
    "failCgroupV1": False,
    "cgroupDriver": "cgroupfs",
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    "makeIPTablesUtilChains": False,
    "oomScoreAdj": 0,
    "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
    "imageGCHighThresholdPercent": 100,
}
PROXY: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "bindAddress": network.HOST,
    "clusterCIDR": network.PODS,
    "hostnameOverride": NAME,
    "iptables": {"localhostNodePorts": False},
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    "oomScoreAdj": 0,
}


class Node(Stoppable):
    """A running node. At the end of the enclosure, its pods and everything else that it has created on the machine are
    gone."""

    def __init__(self, directory: Path, control_plane: ControlPlane) -> None:
        self._directory = directory
        self._control_plane = control_plane
        self._running: list[Runtime | Program] = []

    @classmethod
    def start(cls, directory: Path, control_plane: ControlPlane, sync_seconds: int = 60) -> Self:
        """Start the node with all images. Wait until it is Ready. The control plane must listen on network.HOST.

        ``sync_seconds`` is the kubelet's ``syncFrequency``, and its default is the same as the kubelet's. A change of a
        Secret reaches the volumes in pods within 1.5 times ``sync_seconds``. Raises StartFailed, programs.NotFound and
        images.NotFound. Raises EnclosureError outside of an enclosure.
        """
        node = cls(directory, control_plane)
        try:
            node._start(sync_seconds)
        except BaseException:
            node.stop()
            raise
        return node

    def tag(self, image: str, name: str) -> None:
        """Give an image a second name. Pods can then use it as if it had been pulled from a registry under this
        name."""
        (runtime,) = (each for each in self._running if isinstance(each, Runtime))
        runtime.tag(image, name)

    def stop(self) -> None:
        """Stop the node's programs."""
        while self._running:
            self._running.pop().stop()

    def _start(self, sync_seconds: int) -> None:
        cgroup = enclosure.cgroup()
        cgroups.make(cgroup)
        paths = programs.resolve()
        archives = images.resolve()
        runtime = Runtime(self._directory, paths)
        self._running.append(runtime)
        for archive in archives:
            runtime.add(archive)
        kubeconfig = str(self._control_plane.kubeconfig)
        proxy = _write("kube-proxy", {**PROXY, "clientConnection": {"kubeconfig": kubeconfig}})
        environment = paths.environment()
        self._run(paths.kubernetes / "kube-proxy", environment, f"--config={proxy}")
        dns = self._run(paths.coredns, environment, f"-conf={self._corefile()}")
        dns.wait_for(answers(f"http://{network.HOST}:8181/ready"), 30)
        own = {"cgroupRoot": f"/{cgroup}", "syncFrequency": f"{sync_seconds}s"}
        kubelet = self._run(
            paths.kubernetes / "kubelet",
            environment,
            f"--config={_write('kubelet', {**KUBELET, **own})}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={network.HOST}",
            f"--root-dir={HOME / 'kubelet'}",
        )
        kubelet.wait_for(self._ready, 60)

    def _run(self, path: Path, environment: Mapping[str, str], *flags: str) -> Program:
        program = Program(path.name, [path, *flags], self._directory, environment)
        self._running.append(program)
        return program

    def _corefile(self) -> Path:
        file = HOME / "Corefile"
        file.write_text(
            f"""{network.DOMAIN} in-addr.arpa {{
    bind {network.HOST}
    errors
    ready {network.HOST}:8181
    kubernetes {network.DOMAIN} in-addr.arpa {{
        kubeconfig {self._control_plane.kubeconfig}
        pods disabled
    }}
}}
"""
        )
        return file

    def _ready(self) -> bool:
        condition = '{.status.conditions[?(@.type=="Ready")].status}'
        status = self._control_plane.kubectl("get", "node", NAME, "--ignore-not-found", "-o", f"jsonpath={condition}")
        return status == "True"


def _write(name: str, config: dict[str, Any]) -> Path:
    file = HOME / f"{name}.json"
    file.write_text(json.dumps(config))
    return file
