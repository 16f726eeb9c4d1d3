"""Imitates what EKS and AWS add to a cluster, in the enclosure of a real node: EKS Pod Identity and a load balancer.

- Pod Identity: the webhook that gives pods of an associated ServiceAccount a token and the variables of AWS's SDKs, and
  the agent that exchanges the token for the role's credentials.
  https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
- The AWS Load Balancer Controller with a network load balancer, which ends TLS with the certificate of ACM.
- The DNS record of the receivers' host name.

The associations and the roles are those of the emulated AWS, which decides who may assume which role.
"""

import asyncio
import base64
import contextlib
import json
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import trustme

from keyturn_local.kubernetes.cluster import Cluster, KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import network

AGENT = "169.254.170.23"  # the agent's address in every EKS cluster
AUDIENCE = "pods.eks.amazonaws.com"
TOKEN = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount"
LOAD_BALANCER = "10.2.0.2"
LOAD_BALANCER_CLASS = "service.k8s.aws/nlb"
ANNOTATION = "service.beta.kubernetes.io/aws-load-balancer"


@contextmanager
def address(ip: str) -> Iterator[None]:
    """Give the enclosure one more address, which pods can reach, too."""
    subprocess.run(["ip", "address", "add", f"{ip}/32", "dev", "lo"], check=True)  # noqa: S607 - the machine's own ip
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "del", f"{ip}/32", "dev", "lo"], check=True)  # noqa: S607


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def reply(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# --- Pod Identity ---------------------------------------------------------------------------------------------------


@contextmanager
def pod_identity(
    cluster: ControlPlane, name: str, client: Callable[[str], Any], environment: Mapping[str, str]
) -> Iterator[None]:
    """Provide Pod Identity for the EKS cluster ``name`` while the block runs.

    ``client`` returns a client for an AWS service. ``environment`` has the variables, such as the region, that pods of
    an associated ServiceAccount get in addition to those of Pod Identity.
    """
    # The SDKs wait only two seconds for the agent. So the agent's clients are built before the first request.
    eks, sts = client("eks"), client("sts")
    api_server = httpx.Client(
        base_url=cluster.url,
        verify=ssl.create_default_context(cafile=str(cluster.ca_file)),
        headers={"Authorization": f"Bearer {cluster.admin_token}"},
        timeout=10,
    )

    def association(namespace: str, account: str) -> Any:
        found = eks.list_pod_identity_associations(clusterName=name, namespace=namespace, serviceAccount=account)[
            "associations"
        ]
        return found[0] if found else None

    class Webhook(_Quiet):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            pod = request["object"]
            patch: list[Any] = []
            if association(request["namespace"], pod["spec"].get("serviceAccountName", "default")):
                patch = _patch(pod, environment)
            response = {
                "uid": request["uid"],
                "allowed": True,
                "patchType": "JSONPatch",
                "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
            }
            self.reply(200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})

    class Agent(_Quiet):
        def do_GET(self) -> None:
            review = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": self.headers["Authorization"], "audiences": [AUDIENCE]},
            }
            reviewed = api_server.post("/apis/authentication.k8s.io/v1/tokenreviews", json=review)
            status = reviewed.raise_for_status().json()["status"]
            if not status.get("authenticated"):
                self.reply(400, {"message": "the token is not of this cluster"})
                return
            _, _, namespace, account = status["user"]["username"].split(":")
            found = association(namespace, account)
            if not found:
                self.reply(404, {"message": f"no association for {namespace}/{account}"})
                return
            details = eks.describe_pod_identity_association(clusterName=name, associationId=found["associationId"])
            tags = {
                "eks-cluster-name": name,
                "kubernetes-namespace": namespace,
                "kubernetes-service-account": account,
            }
            given = sts.assume_role(
                RoleArn=details["association"]["roleArn"],
                RoleSessionName=f"eks-{name}-{account}",
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )["Credentials"]
            self.reply(
                200,
                {
                    "AccessKeyId": given["AccessKeyId"],
                    "SecretAccessKey": given["SecretAccessKey"],
                    "Token": given["SessionToken"],
                    "Expiration": given["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            )

    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(network.HOST).configure_cert(server_side)
    webhook = ThreadingHTTPServer((network.HOST, 0), Webhook)
    webhook.socket = server_side.wrap_socket(webhook.socket, server_side=True)
    configuration = _webhook_configuration(webhook.server_port, authority.cert_pem.bytes())
    with address(AGENT), api_server, _serving(webhook), _serving(ThreadingHTTPServer((AGENT, 80), Agent)):
        cluster.create([configuration])
        try:
            yield
        finally:
            cluster.delete([configuration])


def _patch(pod: Any, environment: Mapping[str, str]) -> list[Any]:
    variables = {
        **environment,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{AGENT}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": f"{TOKEN}/eks-pod-identity-token",
    }
    added = [{"name": key, "value": value} for key, value in variables.items()]
    mount = {"name": "eks-pod-identity-token", "mountPath": TOKEN, "readOnly": True}
    source = {"audience": AUDIENCE, "expirationSeconds": 86400, "path": "eks-pod-identity-token"}
    volume = {"name": mount["name"], "projected": {"sources": [{"serviceAccountToken": source}]}}
    patch = []
    for number, container in enumerate(pod["spec"]["containers"]):
        at = f"/spec/containers/{number}"
        patch.append({"op": "add", "path": f"{at}/env", "value": [*container.get("env", []), *added]})
        patch.append({"op": "add", "path": f"{at}/volumeMounts", "value": [*container.get("volumeMounts", []), mount]})
    patch.append({"op": "add", "path": "/spec/volumes", "value": [*pod["spec"].get("volumes", []), volume]})
    return patch


def _webhook_configuration(port: int, authority: bytes) -> Any:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "pod-identity-webhook"},
        "webhooks": [
            {
                "name": "pod-identity-webhook.amazonaws.com",
                "clientConfig": {
                    "url": f"https://{network.HOST}:{port}/mutate",
                    "caBundle": base64.b64encode(authority).decode(),
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


# --- Load balancer --------------------------------------------------------------------------------------------------


@contextmanager
def _listener(certificate: ssl.SSLContext, target: tuple[str, int]) -> Iterator[None]:
    """Run the TLS listener of a network load balancer, whose targets use TCP, while the block runs."""
    loop = asyncio.new_event_loop()
    started, ended = threading.Event(), asyncio.Event()
    writers: set[asyncio.StreamWriter] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    async def connected(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            backend, request = await asyncio.wait_for(asyncio.open_connection(*target), 3)
        except OSError:
            answer.close()  # no healthy target
            return
        writers.update({answer, request})
        await asyncio.gather(copy(client, request), copy(backend, answer))
        writers.difference_update({answer, request})

    async def serve() -> None:
        async with await asyncio.start_server(connected, LOAD_BALANCER, 443, ssl=certificate):
            started.set()
            await ended.wait()
            for writer in writers:
                writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert started.wait(5)
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@contextmanager
def load_balancer_controller(
    cluster: Cluster, region: str, certificates: Mapping[str, ssl.SSLContext]
) -> Iterator[None]:
    """Give a load balancer to the first Service of the controller's class, while the block runs.

    ``certificates`` are the certificates in ACM, by ARN. As in AWS, a Service that names another certificate gets no
    load balancer.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_control, args=(cluster, region, certificates, ended), daemon=True)
    thread.start()
    try:
        with address(LOAD_BALANCER):
            yield
    finally:
        ended.set()
        thread.join()


def _control(cluster: Cluster, region: str, certificates: Mapping[str, ssl.SSLContext], ended: threading.Event) -> None:
    while not ended.wait(0.5):
        listed = json.loads(cluster.kubectl("get", "services", "-A", "-o", "json"))["items"]
        for service in listed:
            if service["spec"].get("loadBalancerClass") != LOAD_BALANCER_CLASS:
                continue
            annotations = service["metadata"]["annotations"]
            assert annotations[f"{ANNOTATION}-backend-protocol"] == "tcp"
            certificate = certificates[annotations[f"{ANNOTATION}-ssl-cert"]]
            (port,) = service["spec"]["ports"]
            assert port["port"] == 443
            with _listener(certificate, (service["spec"]["clusterIP"], 443)):
                name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
                host = f"k8s-{namespace}-{name}-0123456789-0123456789abcdef.elb.{region}.amazonaws.com"
                status = {"status": {"loadBalancer": {"ingress": [{"hostname": host}]}}}
                patch = ("--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")
                with contextlib.suppress(KubectlFailed):  # the Service has been deleted in the meantime
                    cluster.kubectl("patch", "service", name, "-n", namespace, *patch)
                ended.wait()


# --- DNS ------------------------------------------------------------------------------------------------------------


class Names:
    """The host names that the enclosure's programs can resolve, as if they were in a DNS zone."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "hosts"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make programs resolve these names, in addition to those of /etc/hosts, while the block runs."""
        self._file.write_text(Path("/etc/hosts").read_text())
        subprocess.run(["mount", "--bind", self._file, "/etc/hosts"], check=True)  # noqa: S607 - the machine's own mount
        try:
            yield
        finally:
            subprocess.run(["umount", "/etc/hosts"], check=True)  # noqa: S607

    def add(self, name: str, ip: str) -> None:
        """Add the address of a host name."""
        with self._file.open("a") as file:
            file.write(f"{ip} {name}\n")
