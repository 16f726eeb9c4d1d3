"""The node that the tests and the demo use runs pods the way Kubernetes specifies."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import images
from support.manifests import secret, workload
from support.reporting_consumers import RESTRICTED
from support.wait import eventually

SERVER: dict[str, Any] = {
    "image": images.BUSYBOX,
    "command": ["sh", "-c", "mkdir -p /tmp/www; echo found > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"],
    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
}
IN_POD = "/var/run/secrets/kubernetes.io/serviceaccount"


def pod(namespace: str, name: str, script: str, image: str = images.BUSYBOX, **spec: Any) -> dict[str, Any]:
    """Return a pod that runs a script. ``container`` has further fields of the container, and ``spec`` has further
    fields of the pod."""
    container = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


def service(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def log_of(control_plane: ControlPlane, namespace: str, name: str) -> str:
    """Wait until a pod has ended, and return its log."""
    eventually(
        lambda: control_plane.get("pod", name, namespace)["status"]["phase"] in ("Succeeded", "Failed"), seconds=30
    )
    return control_plane.kubectl("logs", name, "-n", namespace)


def ready(control_plane: ControlPlane, namespace: str, name: str) -> None:
    control_plane.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=120s")


def test_pod_runs_and_its_log_is_read(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create(
        [pod(namespace, "says", "echo $0 here; id -u", container={"securityContext": {"runAsUser": 65532}})]
    )
    assert log_of(control_plane, namespace, "says") == "sh here\n65532\n"


def test_failing_pod_reports_its_exit_code(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([pod(namespace, "fails", "exit 3")])
    log_of(control_plane, namespace, "fails")
    (status,) = control_plane.get("pod", "fails", namespace)["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 3


def test_exec_runs_a_command_in_the_container(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([pod(namespace, "waits", "sleep 600")])
    ready(control_plane, namespace, "waits")
    assert control_plane.kubectl("exec", "waits", "-n", namespace, "--", "hostname") == "waits\n"


def test_pod_reaches_the_api_server_as_its_service_account(control_plane: ControlPlane, namespace: str) -> None:
    """Python's own HTTP client runs in the pod. It uses the address, the CA and the token that every pod gets."""
    script = (
        "import json, ssl, urllib.error, urllib.request as u\n"
        f"token = open('{IN_POD}/token').read()\n"
        f"context = ssl.create_default_context(cafile='{IN_POD}/ca.crt')\n"
        "url = 'https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews'\n"
        "body = json.dumps({'apiVersion': 'authentication.k8s.io/v1', 'kind': 'SelfSubjectReview'}).encode()\n"
        "headers = {'authorization': 'Bearer ' + token, 'content-type': 'application/json'}\n"
        "reply = json.load(u.urlopen(u.Request(url, body, headers), context=context, timeout=10))\n"
        "print(reply['status']['userInfo']['username'])\n"
    )
    command = {"command": ["/opt/keyturn/bin/python", "-c", script]}
    control_plane.create([pod(namespace, "asks", "", images.RECEIVER, container=command)])
    assert log_of(control_plane, namespace, "asks") == f"system:serviceaccount:{namespace}:default\n"


def test_service_name_resolves_to_its_pods(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([pod(namespace, "web", "", container=SERVER), service(namespace, "web")])
    ready(control_plane, namespace, "web")
    for host in ("web", f"web.{namespace}.svc", f"web.{namespace}.svc.cluster.local"):
        name = f"asks-{host.replace('.', '-')}"
        # The node's proxy takes a second or two to learn of a new Service.
        ask = f"for i in 1 2 3 4 5; do wget -qO- http://{host}/ && exit; sleep 1; done; exit 1"
        control_plane.create([pod(namespace, name, ask)])
        assert log_of(control_plane, namespace, name).endswith("found\n")


def test_unknown_service_name_is_not_found(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([pod(namespace, "asks", "nslookup nobody.default.svc.cluster.local 2>&1")])
    assert "NXDOMAIN" in log_of(control_plane, namespace, "asks")


def test_mounted_secret_changes_under_a_running_pod(control_plane: ControlPlane, namespace: str) -> None:
    script = "while :; do cat /secret/key; sleep 0.1; done"
    volumes = [{"name": "secret", "secret": {"secretName": "db"}}]
    mounts = {"volumeMounts": [{"name": "secret", "mountPath": "/secret"}]}
    control_plane.create(
        [
            {**secret(namespace, "db"), "stringData": {"key": "old\n"}},
            pod(namespace, "reads", script, container=mounts, volumes=volumes),
        ]
    )
    ready(control_plane, namespace, "reads")

    def said() -> str:
        return control_plane.kubectl("logs", "reads", "-n", namespace, "--tail=1")

    eventually(lambda: said() == "old\n")
    patch = json.dumps({"data": {"key": b64encode(b"new\n").decode()}})
    control_plane.kubectl("patch", "secret", "db", "-n", namespace, f"--patch={patch}")
    eventually(lambda: said() == "new\n", seconds=30)
    assert control_plane.get("pod", "reads", namespace)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_pod_over_its_memory_limit_is_killed(control_plane: ControlPlane, namespace: str) -> None:
    def takes(name: str, megabytes: int) -> dict[str, Any]:
        script = f"held=$(dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null | tr '\\0' a); echo ${{#held}}"
        return pod(namespace, name, script, container={"resources": {"limits": {"memory": "64Mi"}}})

    control_plane.create([takes("modest", 8), takes("greedy", 80)])
    assert log_of(control_plane, namespace, "modest") == f"{8 << 20}\n"
    log_of(control_plane, namespace, "greedy")
    (status,) = control_plane.get("pod", "greedy", namespace)["status"]["containerStatuses"]
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_restricted_namespace_restricts_its_pods(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    with pytest.raises(KubectlFailed, match="violates PodSecurity"):
        control_plane.create([pod(namespace, "free", "true")])
    script = "touch /file 2>&1; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status"
    control_plane.create([pod(namespace, "bound", script, container={"securityContext": RESTRICTED})])
    assert log_of(control_plane, namespace, "bound").splitlines() == [
        "touch: /file: Read-only file system",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ]


def test_pods_of_a_deployment_roll(control_plane: ControlPlane, namespace: str) -> None:
    web = workload(namespace, "web", {"container": SERVER})
    web["spec"]["replicas"] = 2
    control_plane.create([web])
    for _ in range(2):
        control_plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=120s")
        control_plane.kubectl("rollout", "restart", "deployment/web", "-n", namespace)
    control_plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=120s")


def test_processes_of_a_pod_are_below_the_cgroup_of_the_enclosure(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create([pod(namespace, "waits", "exec sleep 7654")])
    ready(control_plane, namespace, "waits")
    # The pod becomes Ready a moment before its shell is replaced by `sleep`.
    (process,) = eventually(
        lambda: [each for each in Path("/proc").glob("[0-9]*") if command_of(each) == b"sleep\x007654\x00"]
    )
    cgroups = [line.split(":", 2)[2] for line in (process / "cgroup").read_text().splitlines()]
    assert all(each.startswith("/keyturn-node-") for each in cgroups if each != "/")
    assert any(each != "/" for each in cgroups)


def command_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # the process has ended in the meantime
        return b""
