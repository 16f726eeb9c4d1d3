"""The control plane for tests and the demo: it is real, starts quickly, can run several times at once, and leaves
nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from keyturn_local.kubernetes.cluster import Cluster, KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.environment import IMPORT_ROOTS
from support.manifests import workload
from support.wait import eventually


def test_control_plane_is_kubernetes_1_35_or_newer(control_plane: ControlPlane) -> None:
    version = control_plane.kubectl("version")
    server = version.partition("Server Version: v")[2].split(".")
    assert (int(server[0]), int(server[1])) >= (1, 35)


def test_rollouts_of_every_kind_complete(control_plane: ControlPlane, namespace: str) -> None:
    kinds = ("Deployment", "StatefulSet", "DaemonSet")
    control_plane.create(workload(namespace, kind.lower(), {}, kind) for kind in kinds)
    for kind in kinds:
        control_plane.kubectl("rollout", "status", f"{kind}/{kind.lower()}", "-n", namespace, "--timeout=120s")
        control_plane.kubectl("rollout", "restart", f"{kind}/{kind.lower()}", "-n", namespace)
        control_plane.kubectl("rollout", "status", f"{kind}/{kind.lower()}", "-n", namespace, "--timeout=120s")


def test_pod_becomes_ready_after_the_time_it_asks_for_or_never(control_plane: ControlPlane, namespace: str) -> None:
    objects = [workload(namespace, name, {}) for name in ("slow", "never", "quick")]
    for made, after in zip(objects, ("2s", "never", None), strict=True):
        if after:
            made["spec"]["template"]["metadata"]["annotations"] = {"keyturn.dev/ready-after": after}
    control_plane.create(objects)

    def ready(name: str) -> int:
        return int(control_plane.get("deployment", name, namespace)["status"].get("readyReplicas", 0))

    eventually(lambda: ready("quick"))
    eventually(lambda: ready("slow"))
    assert not ready("never")
    (pod,) = control_plane.list("pods", namespace, "app=slow")
    (at,) = (each["lastTransitionTime"] for each in pod["status"]["conditions"] if each["type"] == "Ready")
    took = datetime.fromisoformat(at) - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    assert took.total_seconds() >= 2


def test_rbac_is_on(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": namespace}}
    control_plane.create([account])
    nobody = Cluster(control_plane.command[0], control_plane.kubeconfig_for(namespace, "nobody", tmp_path))
    with pytest.raises(KubectlFailed, match="forbidden"):
        nobody.kubectl("get", "secrets", "-n", namespace)


def test_deleting_a_namespace_takes_what_is_in_it(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([workload(namespace, "web", {})])
    control_plane.kubectl("delete", "namespace", namespace, "--timeout=120s")


def test_two_control_planes_run_beside_each_other_and_leave_nothing(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    with ControlPlane.start(tmp_path, nodes=0) as second:
        assert second.url != control_plane.url
        second.kubectl("create", "namespace", "only-here")
        with pytest.raises(KubectlFailed):
            control_plane.kubectl("get", "namespace", "only-here")
        assert processes_of(tmp_path)
    assert not processes_of(tmp_path)


def test_killed_parent_leaves_no_process_of_the_control_plane(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from keyturn_local.kubernetes.control_plane import ControlPlane\n"
        "ControlPlane.start(pathlib.Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": IMPORT_ROOTS},
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"ready\n"
        # These are etcd, API server, controllers, scheduler and kwok, and at least one guard.
        assert len(processes_of(tmp_path)) >= 6
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    eventually(lambda: not processes_of(tmp_path), seconds=10)


def processes_of(directory: Path) -> list[int]:
    """Return the ids of all processes, except this one, that have the directory in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in command:
                found.append(int(entry.name))
    return found


def test_control_plane_with_cached_programs_is_ready_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    with ControlPlane.start(tmp_path):
        took = time.monotonic() - started
    print(f"ready after {took:.1f} s")
    assert took < 60  # an idle machine takes 5 s; this limit only detects a hang


class TestRestClient:
    """The control plane answers the most frequent calls itself, as kubectl would."""

    @pytest.mark.parametrize(
        "name", ["secret", "secrets", "deploy", "Deployment", "lease", "ns", "sa", "clusterrole", "sa,roles,leases"]
    )
    def test_objects_are_those_that_kubectl_prints(
        self, control_plane: ControlPlane, namespace: str, name: str
    ) -> None:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "idle", "namespace": namespace}}
        labels = {"app": "web"}
        control_plane.create(
            [
                workload(namespace, "web", {}),
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace}},
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": "free", "namespace": namespace, "labels": labels},
                },
                account,
            ]
        )
        listed = {each["metadata"]["uid"]: each for each in control_plane.list(name, namespace)}
        printed = {each["metadata"]["uid"]: each for each in Cluster.list(control_plane, name, namespace)}
        assert listed.keys() & printed.keys()
        for uid in listed.keys() & printed.keys():  # namespaces of earlier tests may go meanwhile
            listed[uid]["metadata"].pop("managedFields", None)  # kubectl leaves them out
            if listed[uid]["metadata"]["resourceVersion"] == printed[uid]["metadata"]["resourceVersion"]:
                assert printed[uid] == listed[uid]
        selected = [each["metadata"]["uid"] for each in control_plane.list(name, namespace, "app=web")]
        assert selected == [each["metadata"]["uid"] for each in Cluster.list(control_plane, name, namespace, "app=web")]
        first = control_plane.list(name, namespace)[0]["metadata"]["name"]
        assert control_plane.get(name.partition(",")[0], first, namespace)["metadata"]["name"] == first

    @pytest.mark.parametrize(
        ("refused", "text"),
        {
            "no such object": (
                lambda cluster, namespace: cluster.get("secret", "none", namespace),
                r'Error from server \(NotFound\): secrets "none" not found$',
            ),
            "no such kind": (
                lambda cluster, namespace: cluster.get("sectres", "db", namespace),
                'the server doesn\'t have a resource type "sectres"$',
            ),
            "object exists": (
                lambda cluster, namespace: cluster.create([workload(namespace, "web", {})] * 2),
                r'Error from server \(AlreadyExists\): .*deployments\.apps "web" already exists$',
            ),
            "misspelt field": (
                lambda cluster, namespace: cluster.create([{**workload(namespace, "web", {}), "sepc": {}}]),
                'unknown field "sepc"',
            ),
        }.values(),
    )
    def test_refusals_are_those_of_kubectl(
        self, control_plane: ControlPlane, namespace: str, refused: Callable[[Cluster, str], object], text: str
    ) -> None:
        kubectl = Cluster(control_plane.command[0], control_plane.kubeconfig)
        for cluster in (kubectl, control_plane):
            with pytest.raises(KubectlFailed, match=text):
                refused(cluster, namespace)
            control_plane.delete_all("deployment", namespace)
            eventually(lambda: not control_plane.list("deployments", namespace))

    def test_refused_object_keeps_no_other_from_being_created(
        self, control_plane: ControlPlane, namespace: str
    ) -> None:
        bad = {**workload(namespace, "bad", {}), "sepc": {}}
        with pytest.raises(KubectlFailed, match="sepc"):
            control_plane.create([bad, workload(namespace, "good", {})])
        assert [each["metadata"]["name"] for each in control_plane.list("deployments", namespace)] == ["good"]

    def test_deleted_objects_are_gone_and_missing_ones_are_no_error(
        self, control_plane: ControlPlane, namespace: str
    ) -> None:
        made = [workload(namespace, name, {}) for name in ("one", "two", "three")]
        control_plane.create(made)
        control_plane.delete([*made[:1], workload(namespace, "none", {})], wait=False)
        eventually(lambda: len(control_plane.list("deployments", namespace)) == 2)
        control_plane.delete_all("deployment", namespace)
        eventually(lambda: not control_plane.list("deployments", namespace))
        eventually(lambda: not control_plane.list("replicasets", namespace))
