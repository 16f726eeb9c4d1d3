"""The command line and a release with real pods: `keyturn ui` through a real port-forward, `keyturn status`, and
`keyturn wait`."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from keyturn_contract.message import Notification, Outcome
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import images
from keyturn_local.processes.ports import free_ports
from keyturn_local.receiver.release import OPERATIONS_PORT, PAGE_PORT
from support import cli
from support.helm import PYTHON, RECEIVERS, InstalledRelease, deliver, installed_release, node_values
from support.manifests import account, workload
from support.reporting_consumers import ENV, KEY, Listener, bind_secrets, rotate_to, version_name
from support.wait import eventually

# The rights that `ui` needs (docs/cli.md). Without kubectl, it also needs the right to get pods/portforward.
RIGHTS = [
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]},
]
GET = {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get"]}
CONNECTED = "(pod {}; Ctrl-C ends it)\n"


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, aws: LocalAws, signing_key_id: str) -> Iterator[InstalledRelease]:
    with installed_release(control_plane, node_values(aws, signing_key_id, drainSeconds=0)) as running:
        yield running


def kubeconfig_with(release: InstalledRelease, name: str, rules: Sequence[Mapping[str, Any]], directory: Path) -> Path:
    """Return a kubeconfig of somebody who has only these rights, in the namespace of the release."""
    release.cluster.create(account(release.namespace, name, rules))
    return release.cluster.kubeconfig_for(release.namespace, name, directory)


@pytest.fixture(scope="module", params=["kubectl", "client"])
def path(request: pytest.FixtureRequest, release: InstalledRelease, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which kubectl is found, or one on which it is not, so that the official Python client forwards."""
    directory = tmp_path_factory.mktemp("path")
    if request.param == "kubectl":
        (directory / "kubectl").symlink_to(release.cluster.command[0])
    return str(directory)


def has_kubectl(path: str) -> bool:
    return (Path(path) / "kubectl").exists()


@pytest.fixture(scope="module")
def viewer(release: InstalledRelease, path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of somebody who has only the rights that `ui` needs."""
    name, rules = ("viewer", RIGHTS) if has_kubectl(path) else ("viewer-without-kubectl", [*RIGHTS, GET])
    return kubeconfig_with(release, name, rules, tmp_path_factory.mktemp("viewer"))


class Ui:
    """A running `keyturn ui`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.url, self.pod = self.connected()

    def connected(self) -> tuple[str, str]:
        """Read the next line of the output, and return the page's URL and the name of the pod."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        url, _, about = line.partition("  ")
        pod = about.split()[1].removesuffix(";")
        assert about == CONNECTED.format(pod)
        return url, pod

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=10)

    def replica(self) -> str:
        """Return the name of the replica that serves the page, or an empty string if there is no answer."""
        try:
            return str(self.get("v1/status").json()["replica"]["name"])
        except httpx.HTTPError:
            return ""

    def interrupt(self) -> str:
        """Press Ctrl-C, check that the command ends as after Ctrl-C, and return what it wrote to stderr."""
        self.process.send_signal(signal.SIGINT)
        _, told = self.process.communicate(timeout=20)
        assert self.process.returncode == 130, told
        with pytest.raises(httpx.ConnectError):
            self.get("")
        return told


@contextmanager
def running_ui(release: InstalledRelease, kubeconfig: Path, path: str) -> Iterator[Ui]:
    (port,) = free_ports(1)
    arguments = ("ui", "--no-browser", "--port", str(port), "--release", f"{release.namespace}/keyturn")
    process = subprocess.Popen(
        cli.command(*arguments),
        env=cli.environment(kubeconfig, PATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ui = Ui(process)
        assert ui.url == f"http://127.0.0.1:{port}/"
        yield ui
    finally:
        process.kill()
        process.wait()


def test_page_is_forwarded_until_ctrl_c(release: InstalledRelease, viewer: Path, path: str) -> None:
    with running_ui(release, viewer, path) as ui:
        page = ui.get("")
        assert page.status_code == 200
        assert "<title>Keyturn</title>" in page.text
        assert page.text.endswith("</html>")
        status = ui.get("v1/status").json()
        assert status["replica"]["name"] == ui.pod
        assert status["replica"]["installation"] == f"{release.namespace}/keyturn"
        # A browser opens several connections at once.
        with ThreadPoolExecutor(8) as threads:
            assert {each.text for each in threads.map(lambda _: ui.get(""), range(24))} == {page.text}
        for _ in range(3):  # a stream that its reader closes ends nothing else
            with httpx.stream("GET", f"{ui.url}v1/stream", timeout=10) as stream:
                assert "event: snapshot" in next(stream.iter_text())
        assert ui.get("v1/status", Host="keyturn.example.com").status_code == 403
        assert ui.replica() == ui.pod
        assert ui.interrupt() == ""


def test_page_is_served_by_another_pod_once_its_pod_is_deleted(
    release: InstalledRelease, viewer: Path, path: str
) -> None:
    with running_ui(release, viewer, path) as ui:
        assert ui.replica() == ui.pod
        release.cluster.kubectl("delete", "pod", ui.pod, "-n", release.namespace, "--wait=true")
        other = eventually(lambda: {ui.replica()} - {"", ui.pod}, 90).pop()
        assert ui.connected() == (ui.url, other)
        told = ui.interrupt()
    assert told.startswith(f"The connection to pod {ui.pod} has ended: ")
    assert told.endswith(". Connecting again.\n")
    print(f"\n{told.strip()}")
    eventually(lambda: len(release.helm.ready_pods(RECEIVERS)) == 2)


def test_open_page_goes_on_with_another_pod(
    release: InstalledRelease, viewer: Path, path: str, browser: Browser
) -> None:
    with running_ui(release, viewer, path) as ui, browser.new_page() as page:
        page.set_default_timeout(90_000)
        page.goto(ui.url)
        expect(page.get_by_role("status")).to_have_text("live", timeout=90_000)
        expect(page.locator("#replica")).to_have_text(ui.pod)
        release.cluster.kubectl("delete", "pod", ui.pod, "-n", release.namespace, "--wait=true")
        expect(page.locator("#notice")).to_contain_text("This is another replica now", timeout=90_000)
        expect(page.get_by_role("status")).to_have_text("live", timeout=90_000)
        _, other = ui.connected()
        expect(page.locator("#replica")).to_have_text(other)
        ui.interrupt()
        expect(page.get_by_role("status")).to_have_text("reconnecting", timeout=90_000)
        expect(page.locator("#notice")).to_contain_text(
            "If keyturn ui or kubectl port-forward has ended, run it again."
        )
    eventually(lambda: len(release.helm.ready_pods(RECEIVERS)) == 2)


def test_missing_right_to_forward_is_said(release: InstalledRelease, path: str, tmp_path: Path) -> None:
    """Since Kubernetes 1.35, the right to get pods/portforward is not enough."""
    name = "stranger" if has_kubectl(path) else "stranger-without-kubectl"
    kubeconfig = kubeconfig_with(release, name, [*RIGHTS[:2], GET], tmp_path)
    ran = cli.run(kubeconfig, "ui", "--no-browser", "--release", f"{release.namespace}/keyturn", env={"PATH": path})
    assert (ran.code, ran.out) == (1, "")
    print(f"\n{ran.err.strip()}")
    assert "orbidden" in ran.err
    assert "right to create" in ran.err
    assert "pods/portforward" in ran.err


def test_page_is_reached_from_neither_node_nor_pod_nor_api_server(release: InstalledRelease) -> None:
    """The operations port of the same pod, reached in the same ways, shows that the ways themselves are open."""
    served, neighbour = release.pods()
    address, name = served["status"]["podIP"], served["metadata"]["name"]
    assert release.ask(served, "/readyz").text == "ok\n"
    with pytest.raises(httpx.ConnectError, match="Connection refused"):
        httpx.get(f"http://{address}:{PAGE_PORT}/", timeout=5)

    def from_neighbour(port: int) -> str:
        program = f"""
import socket
try:
    socket.create_connection(("{address}", {port}), 5).close()
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""
        command = ["exec", neighbour["metadata"]["name"], "-n", release.namespace, "--", PYTHON, "-c", program]
        return release.cluster.kubectl(*command).strip()

    assert (from_neighbour(OPERATIONS_PORT), from_neighbour(PAGE_PORT)) == ("connected", "ConnectionRefusedError")
    proxied = f"/api/v1/namespaces/{release.namespace}/pods/{name}"
    assert release.cluster.kubectl("get", "--raw", f"{proxied}:{OPERATIONS_PORT}/proxy/readyz") == "ok\n"
    with pytest.raises(KubectlFailed, match="connection refused"):
        release.cluster.kubectl("get", "--raw", f"{proxied}:{PAGE_PORT}/proxy/")
    service = release.cluster.get("service", "keyturn", release.namespace)
    assert PAGE_PORT not in {port["targetPort"] for port in service["spec"]["ports"]}


def version_of(notification: Notification) -> str:
    assert notification.data.version_id
    return notification.data.version_id


def test_wait_for_live_ends_once_the_pods_run_the_version(
    release: InstalledRelease, control_plane: ControlPlane, aws: LocalAws, namespace: str, key: bytes
) -> None:
    bind_secrets(control_plane, aws, namespace, "db")
    with Listener() as listener:
        control_plane.create([listener.consumer(namespace, ENV, "db")])
        eventually(lambda: listener.first(ENV, ENV, 0))
        baseline = "{.metadata.annotations.revision\\.keyturn\\.dev/db}"
        eventually(
            lambda: control_plane.kubectl("get", "deployment", ENV, "-n", namespace, "-o", f"jsonpath={baseline}")
        )
        before = listener.pods(ENV)
        notification = rotate_to(aws, namespace, "db", 1)
        version = version_of(notification)
        place = (f"{namespace}/db", "--version", version, "--release", f"{release.namespace}/keyturn")
        command = cli.command("wait", *place, "--for", "live", "--timeout", "90s", "-o", "json")
        environment = cli.environment(control_plane.kubeconfig)
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as waiting:
            (result,) = deliver(release.url, key, notification)
            assert result.outcome is Outcome.APPLIED
            out, err = waiting.communicate(timeout=120)
        assert (waiting.returncode, err) == (0, "")
        # At the end of the wait, the new pod has the value.
        new = {each for each in listener.reports if each.pod not in before}
        assert {each.version for each in new} == {version_name(1)}
    places = {each["name"]: each["stage"] for each in json.loads(out)["places"]}
    assert places == {f"Secret {namespace}/db": "applied", f"Deployment {namespace}/{ENV}": "live"}
    ran = cli.run(control_plane.kubeconfig, "status", namespace, "-o", "json")
    (row,) = ran.data["items"]  # type: ignore[index,call-overload]
    assert (ran.code, row["status"], row["consumers"]) == (0, "ok", 1)
    assert row["versionIds"] == [version]
    shown = cli.run(control_plane.kubeconfig, "status", f"{namespace}/db")
    assert (version[:8] in shown.out, version_name(1) in shown.out + out) == (True, False)


def test_wait_for_live_fails_if_the_new_pods_fail(
    release: InstalledRelease, control_plane: ControlPlane, aws: LocalAws, namespace: str, key: bytes
) -> None:
    """The pods are never ready with the second version."""
    bind_secrets(control_plane, aws, namespace, "db")
    held = {"name": "HELD", "valueFrom": {"secretKeyRef": {"name": "db", "key": KEY}}}
    probe = {"exec": {"command": ["sh", "-c", f'[ "$HELD" = {version_name(0)} ]']}, "periodSeconds": 1}
    container = {
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sleep", "600"],
        "env": [held],
        "readinessProbe": probe,
    }
    made = workload(namespace, "web", {"container": container, "terminationGracePeriodSeconds": 1})
    made["spec"] |= {"progressDeadlineSeconds": 10}
    control_plane.create([made])
    control_plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    baseline = "{.metadata.annotations.revision\\.keyturn\\.dev/db}"
    eventually(lambda: control_plane.kubectl("get", "deployment", "web", "-n", namespace, "-o", f"jsonpath={baseline}"))
    notification = rotate_to(aws, namespace, "db", 1)
    deliver(release.url, key, notification)
    place = (f"{namespace}/db", "--version", version_of(notification), "--release", f"{release.namespace}/keyturn")
    ran = cli.run(control_plane.kubeconfig, "wait", *place, "--for", "live", "--timeout", "50s")
    print(f"\n{ran.err.strip()}")
    assert ran.code == 4, ran
    assert f"Deployment {namespace}/web" in ran.err
