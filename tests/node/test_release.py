"""`helm install` on a real node. The kubelet probes the receivers, and a Service routes to them."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from keyturn_contract.message import Outcome
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.cluster import Cluster, KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.helm import PYTHON, RECEIVERS, InstalledRelease, deliver, installed_release, node_values
from support.sqs_like_sender import RetryingSender
from support.steady_load import SteadyLoad
from support.team import Team, team
from support.wait import eventually

NOBODY = 65532
GRACE_SECONDS = 30
DONE = {Outcome.APPLIED, Outcome.UNCHANGED, Outcome.SUPERSEDED}
TEN = tuple(f"db-{number}" for number in range(10))
ACCOUNT_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, aws: LocalAws, signing_key_id: str) -> Iterator[InstalledRelease]:
    """The installed chart with two receivers. A test that stops one of them waits until two are Ready again."""
    with installed_release(control_plane, node_values(aws, signing_key_id)) as running:
        yield running


@pytest.fixture(scope="module")
def own_team(control_plane: ControlPlane, aws: LocalAws, release: InstalledRelease) -> Iterator[Team]:
    with team(control_plane, aws, *TEN) as made:
        yield made


def two_serve(release: InstalledRelease) -> bool:
    """Return whether exactly two receivers exist and both are Ready."""
    listed = release.cluster.list("pods", release.namespace, RECEIVERS)
    return len(listed) == 2 and release.helm.ready_pods(RECEIVERS) == {pod["metadata"]["name"] for pod in listed}


def test_both_receivers_are_ready_by_the_probes_of_the_kubelet(release: InstalledRelease) -> None:
    pods = release.pods()
    assert len(pods) == 2
    for pod in pods:
        (status,) = pod["status"]["containerStatuses"]
        assert (status["started"], status["ready"], status["restartCount"]) == (True, True, 0)
        assert release.ask(pod, "/readyz").text == "ok\n"
        assert pod["status"]["qosClass"] == "Burstable"
    assert sum(release.metric(pod, "keyturn_poller_leader") for pod in pods) == 1


def test_receiver_runs_as_nobody_without_capabilities(release: InstalledRelease) -> None:
    for pod in release.pods():
        process = release.process(pod)
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
        assert not any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_receiver_writes_nothing_to_its_root(release: InstalledRelease) -> None:
    for pod in release.pods():
        mounts = [line.split() for line in (release.process(pod) / "mountinfo").read_text().splitlines()]
        (root,) = [mount for mount in mounts if mount[4] == "/"]
        assert "ro" in root[5].split(",")
        # The upper layer of the overlay holds everything that was written. Here these are only the mount points that
        # the runtime made.
        options = dict(option.partition("=")[::2] for option in root[-1].split(","))
        upper = Path(options["upperdir"])
        written = {f"/{file.relative_to(upper)}" for file in upper.rglob("*") if not file.is_dir()}
        assert written <= {mount[4] for mount in mounts}
        command = [PYTHON, "-c", "open('/file', 'w')"]
        with pytest.raises(KubectlFailed, match="Read-only file system"):
            release.cluster.kubectl("exec", pod["metadata"]["name"], "-n", release.namespace, "--", *command)


def test_receiver_has_its_own_service_account_with_the_rights_of_the_chart(
    release: InstalledRelease, tmp_path: Path
) -> None:
    pod = release.pods()[0]
    (container,) = pod["spec"]["containers"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [ACCOUNT_FILES]
    receiver = holding((release.process(pod) / "root" / ACCOUNT_FILES[1:] / "token").read_text(), release, tmp_path)
    assert receiver.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}") == (
        f"system:serviceaccount:{release.namespace}:keyturn"
    )

    def may(verb: str, what: str) -> bool:
        try:
            return receiver.kubectl("auth", "can-i", verb, what, "--namespace=default") == "yes\n"
        except KubectlFailed:  # `kubectl auth can-i` exits with an error if the answer is no
            return False

    assert all(map(may, ("list", "patch", "watch"), ("secrets", "deployments.apps", "namespaces")))
    forbidden = {
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "serviceaccounts/token"),
        ("delete", "secrets"),
        ("delete", "deployments.apps"),
        ("get", "configmaps"),
        ("get", "nodes"),
        ("patch", "clusterroles.rbac.authorization.k8s.io"),
    }
    assert not {each for each in forbidden if may(*each)}


def holding(token: str, release: InstalledRelease, directory: Path) -> Cluster:
    """Return the cluster, accessed with a token in place of the admin's credentials."""
    kubectl = release.cluster.command[0]
    content = json.loads(release.cluster.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
    content["users"][0]["user"] = {"token": token}
    file = directory / "kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(content))
    return Cluster(kubectl, file)


def test_receiver_logs_its_start(release: InstalledRelease) -> None:
    for pod in release.pods():
        assert [line["message"] for line in release.log(pod)].count("started") == 1


def test_helm_test_passes_through_the_service(release: InstalledRelease) -> None:
    told = release.helm.client.test("keyturn", timeout=60, logs=True)["logs"]
    assert f"http://keyturn.{release.namespace}.svc" in told


def test_rotation_delivered_to_the_service_is_applied(release: InstalledRelease, own_team: Team, key: bytes) -> None:
    for name in TEN[:3]:
        (result,) = deliver(release.url, key, own_team.rotate(name))
        assert (result.outcome, result.secrets) == (Outcome.APPLIED, (f"{own_team.namespace}/{name}",))
    assert own_team.is_current()


def test_upgrade_fails_no_delivery(
    release: InstalledRelease, own_team: Team, key: bytes, aws: LocalAws, signing_key_id: str
) -> None:
    before = {pod["metadata"]["uid"] for pod in release.pods()}
    with SteadyLoad(release.url, key, TEN, own_team.rotate) as load:
        eventually(lambda: load.answers["200"] > 100)
        release.helm.upgrade(node_values(aws, signing_key_id, drainSeconds=5))
        eventually(lambda: two_serve(release), 60)  # the old receivers go on serving until their drain is over
    assert not before & {pod["metadata"]["uid"] for pod in release.pods()}
    assert load.answers.keys() == {"200"}, load.trouble
    assert own_team.is_current()


def test_terminated_receiver_fails_no_delivery(release: InstalledRelease, own_team: Team, key: bytes) -> None:
    going = release.pods()[0]
    name = going["metadata"]["name"]
    finalizers(release, name, ["keyturn.dev/witness"])  # keeps the ended pod, to read its exit code
    try:
        with SteadyLoad(release.url, key, TEN[1:], own_team.rotate) as load:
            eventually(lambda: load.answers["200"] > 50)
            release.cluster.kubectl("delete", "pod", name, "-n", release.namespace, "--wait=false")
            latest = release.pod(name)["metadata"]
            eventually(lambda: "shutting down" in release.ask(going, "/readyz").text)
            # A sender that has not yet learned of the shutdown is still served.
            url = f"http://{going['status']['podIP']}:8080/v1/notifications"
            assert {result.outcome for result in deliver(url, key, own_team.rotate("db-0"))} <= DONE

            def ended() -> Any:
                return release.pod(name)["status"]["containerStatuses"][0]["state"].get("terminated")

            end = eventually(ended, 2 * GRACE_SECONDS)
    finally:
        finalizers(release, name, [])
    assert load.answers.keys() == {"200"}, load.trouble
    assert end["exitCode"] == 0
    assert latest["deletionGracePeriodSeconds"] == GRACE_SECONDS
    assert datetime.fromisoformat(end["finishedAt"]) <= datetime.fromisoformat(latest["deletionTimestamp"])
    eventually(lambda: two_serve(release), 60)


def finalizers(release: InstalledRelease, name: str, finalizers: list[str]) -> None:
    patch = json.dumps({"metadata": {"finalizers": finalizers}})
    release.cluster.kubectl("patch", "pod", name, "-n", release.namespace, "--type=merge", f"--patch={patch}")


def test_killed_receiver_is_restarted_and_loses_nothing(release: InstalledRelease, own_team: Team, key: bytes) -> None:
    pod = release.pods()[0]
    # There are many of these secrets, because a later rotation of the same secret could hide a lost one.
    late = [f"late-{number}" for number in range(30)]
    own_team.bind(*late)
    eventually(own_team.is_current)
    names = itertools.cycle(late)
    sender = RetryingSender(key, [release.url])

    def started_anew() -> Any:
        sender.send(own_team.rotate(next(names)))
        (status,) = release.pod(pod["metadata"]["name"])["status"]["containerStatuses"]
        return status["restartCount"] == 1 and status["ready"] and status["lastState"]["terminated"]["exitCode"]

    try:
        for name in TEN:
            sender.send(own_team.rotate(name))
        os.kill(int(release.process(pod).name), signal.SIGKILL)
        assert eventually(started_anew, 60) == 128 + signal.SIGKILL
        eventually(lambda: sender.idle, 60)
    finally:
        sender.close()
    assert own_team.is_current()
    assert two_serve(release)
