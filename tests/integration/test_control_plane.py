"""The control plane for tests and the demo: it is real, starts quickly, can run several times at once, and leaves
nothing behind."""

import os
import signal
import subprocess
import sys
import time
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
        assert len(processes_of(tmp_path)) >= 6  # etcd, API server, controllers, scheduler, kwok and their guards
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
