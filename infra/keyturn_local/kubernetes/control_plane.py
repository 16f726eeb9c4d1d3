"""A Kubernetes control plane on loopback: the stock API server, etcd, controllers and scheduler. kwok simulates nodes.

docs/design.md#facts-about-the-tools explains some of the flags. kwok makes pods Ready by the stages in
infra/control_plane/kwok. If there is a real node (node/), kwok does not run. The API server then listens on an address
that pods can reach, pods get tokens, and Services route to pods.
"""

import secrets
import ssl
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyturn_local.kubernetes.cluster import Cluster, write_kubeconfig
from keyturn_local.kubernetes.rest_client import RestClient
from keyturn_local.paths import INFRA
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, StartFailed, Stoppable, answers
from keyturn_local.toolchain import binaries

CONTEXT = "keyturn-local"
DRAIN_SECONDS = 3
STAGES = INFRA / "control_plane" / "kwok"
CONTROLLERS = (
    "deployment,replicaset,statefulset,daemonset,garbagecollector,namespace,serviceaccount-controller,job-controller"
    ",disruption-controller"
)
REAL_POD_CONTROLLERS = "endpoints-controller,endpointslice-controller,root-ca-certificate-publisher-controller"


class ControlPlane(Cluster, Stoppable):
    """A running control plane. Use it as a context manager, or call ``stop``."""

    def __init__(self, directory: Path, programs: Path, host: str = "") -> None:
        super().__init__(programs / "kubectl", directory / "kubeconfig")
        self.directory = directory
        self._programs = programs
        self._running: list[Program] = []
        self.admin_token = secrets.token_urlsafe(16)
        self.etcd_port, self._peer_port, self.port, self._kwok_port = free_ports(4)
        self._real_node = bool(host)
        self._host = host or "127.0.0.1"
        self.url = f"https://{self._host}:{self.port}"
        self.ca_file = directory / "certificates" / "apiserver.crt"  # self-signed, so the certificate is its own CA

    @classmethod
    def start(cls, directory: Path, nodes: int = 1, host: str = "") -> Self:
        """Start a control plane whose files are in ``directory``. Wait until its simulated nodes are Ready.

        If ``host`` is given, the control plane is for a real node, and kwok does not run. ``host`` is an address of
        this machine that pods can reach. Raises StartFailed or binaries.NotFound.
        """
        directory.mkdir(parents=True, exist_ok=True)
        control_plane = cls(directory, binaries.resolve(), host)
        try:
            control_plane._start(nodes)
        except BaseException:
            control_plane.stop()
            raise
        return control_plane

    def add_nodes(self, count: int) -> None:
        """Add simulated nodes, and wait until they are Ready."""
        names = [f"node-{secrets.token_hex(3)}" for _ in range(count)]
        labels = {"kubernetes.io/os": "linux"}  # one of the labels that a kubelet puts on its node
        self.create(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}} for name in names
        )
        self.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *(f"node/{name}" for name in names))

    def get(self, kind: str, name: str, namespace: str) -> Any:
        """Read one object, without kubectl. Raises KubectlFailed if it does not exist."""
        return self._rest.get(kind, name, namespace)

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Any]:
        """Read the objects of one kind in a namespace, without kubectl."""
        return self._rest.list(kind, namespace, selector)

    def create(self, objects: Iterable[Any]) -> None:
        """Create objects, without kubectl."""
        self._rest.create(objects)

    def delete(self, objects: Iterable[Any], wait: bool = True) -> None:
        """Delete objects. If ``wait`` is true, kubectl waits until they are gone. Otherwise kubectl is not used. An
        object that does not exist is not an error."""
        if wait:
            super().delete(objects)
        else:
            self._rest.delete(objects)

    def delete_all(self, kind: str, namespace: str) -> None:
        """Delete all objects of one kind in a namespace, without kubectl. Do not wait until they are gone."""
        self._rest.delete_all(kind, namespace)

    def create_token(self, service_account: str, namespace: str) -> str:
        """Return a token of a ServiceAccount. The token is valid for a day."""
        return self._rest.create_token(service_account, namespace, 86400)

    @cached_property
    def _rest(self) -> RestClient:
        return RestClient(self.url, self.ca_file, self.admin_token)

    def stop(self) -> None:
        """Stop all programs. The API server stops before etcd, because it needs etcd until it has stopped.

        If watches are open, the API server would need a minute to stop. So each program that is still running after
        DRAIN_SECONDS seconds is killed.
        """
        while self._running:
            self._running.pop().stop(DRAIN_SECONDS)

    def _start(self, nodes: int) -> None:
        self._write_files()
        self._run_etcd()
        api_server = self._run_api_server()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # there is no CA file yet; all later connections verify the server
        api_server.wait_for(answers(f"{self.url}/readyz", context), 60)
        self._run_controllers()
        if not self._real_node:
            self._run_kwok()
        if nodes:
            self._wait_for_default_namespace()
        if nodes and not self._real_node:
            self.add_nodes(nodes)

    def _run_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        etcd = self._run(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8589934592",  # the limit of managed control planes; some tests write gigabytes
        )
        etcd.wait_for(answers(f"{client}/health"), 30)

    def _run_api_server(self) -> Program:
        key = self.directory / "service-account.key"
        real = [
            f"--advertise-address={self._host}",
            "--kubelet-preferred-address-types=InternalIP",
            "--disable-admission-plugins=TaintNodesByCondition",
        ]
        # Simulated pods do not need tokens, or anything else that the admission plugin ServiceAccount adds.
        simulated = ["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"]
        return self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            f"--bind-address={self._host}",
            f"--cert-dir={self.ca_file.parent}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--service-account-issuer={self.url}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            *(real if self._real_node else simulated),
        )

    def _run_controllers(self) -> None:
        # The kubeconfig names the file of the API server's certificate. The API server has created this file by now.
        self._write_kubeconfig(self.kubeconfig, self.admin_token)
        kubeconfig = f"--kubeconfig={self.kubeconfig}"
        controllers = f"{CONTROLLERS},{REAL_POD_CONTROLLERS}" if self._real_node else CONTROLLERS
        self._run(
            "kube-controller-manager",
            kubeconfig,
            f"--controllers={controllers}",
            f"--root-ca-file={self.ca_file}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        self._run(
            "kube-scheduler",
            kubeconfig,
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )

    def _run_kwok(self) -> None:
        stages = [f"--config={stage}" for stage in sorted(STAGES.glob("*.yaml"))]
        self._run(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            "--manage-all-nodes=true",
            f"--server-address=127.0.0.1:{self._kwok_port}",
            *stages,
        )

    def _wait_for_default_namespace(self) -> None:
        end = time.monotonic() + 30
        while not self.kubectl("get", "namespace", "default", "--ignore-not-found"):
            if time.monotonic() > end:
                raise StartFailed("namespace default was not created in 30 s")
            time.sleep(0.05)

    def _run(self, name: str, *flags: str) -> Program:
        program = Program(name, [self._programs / name, *flags], self.directory)
        self._running.append(program)
        return program

    def _write_files(self) -> None:
        tokens = self.directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{self.admin_token},admin,admin,system:masters\n")
        key = self.directory / "service-account.key"
        key.touch(mode=0o600)
        key.write_bytes(
            rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
            )
        )

    def _write_kubeconfig(self, file: Path, token: str) -> None:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": CONTEXT, "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}
            ],
            "users": [{"name": CONTEXT, "user": {"token": token}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
            "current-context": CONTEXT,
        }
        write_kubeconfig(file, content)
