"""A hundred rotations happen while the receivers' containers are killed in turn and the receivers are upgraded.

At the end, each Secret holds the last version, and so does every process that uses it. Once a rollout is complete, no
pod reports an older version. Each change of a Secret rolls its consumer out once, unless a receiver dies in between.
"""

import os
import random
import signal
import ssl
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyturn_contract.message import Notification
from keyturn_contract.signature import parse_key
from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_receiver.core.consumer import mark_name
from keyturn_receiver.core.revision import digest
from keyturn_receiver.core.unsettled import without_suffix
from support.background import PeriodicThread
from support.cluster_state import annotations_of
from support.helm import PYTHON, RECEIVERS, InstalledRelease, installed_release, node_values
from support.model.oracle import SecretOracle, Version, annotations, template_mark
from support.object_history import HistoryWatcher
from support.reporting_consumers import KEY, WAYS, Listener, Report, bind_secrets, pod_clock, rotate_to, version_name
from support.sqs_like_sender import RetryingSender
from support.wait import eventually

# Each consumer reads the Secret that has the consumer's name.
CONSUMERS = {**{way: [way] for way in WAYS}, "all": WAYS}
ROTATIONS = 100
PACE = 0.9  # seconds between rotations; a rollout takes about one second of CPU time
TWICE = 0.25  # the share of deliveries that are sent twice
KILL_SECONDS = 3.0  # the shortest time between two kills; each kill also waits until both receivers are Ready
MIN_KILLS = 5
TURN = "example.com/turn"  # an annotation of the receivers' pods, which the upgrade changes
RECEIVER = f"{PYTHON}\0-m\0keyturn_receiver\0".encode()


class Killer(PeriodicThread):
    """Kills the receivers' containers in turn with SIGKILL, but only while two receivers are Ready. The kubelet
    restarts them."""

    def __init__(self, release: InstalledRelease) -> None:
        super().__init__(KILL_SECONDS)
        self.kills = 0
        self._helm = release.helm
        self._last = 0

    def run_once(self) -> None:
        running = sorted(processes_of_receivers())
        if len(running) > 1 and len(self._helm.ready_pods(RECEIVERS)) > 1:
            self._last = next((process for process in running if process > self._last), running[0])
            with suppress(ProcessLookupError):  # the process has already ended
                os.kill(self._last, signal.SIGKILL)
                self.kills += 1


def processes_of_receivers() -> list[int]:
    """Return the ids of the receivers' processes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has already ended
            if (process / "cmdline").read_bytes() == RECEIVER:
                found.append(int(process.name))
    return found


@dataclass(frozen=True)
class Complete:
    """A complete rollout: at the time ``at``, all pods of the consumer had this mark, which is without its suffix."""

    at: float
    consumer: str
    mark: str


class Rollouts(PeriodicThread):
    """Polls Deployments and their pods, and adds every complete rollout to ``seen``."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        super().__init__(0.2)
        self.seen: list[Complete] = []
        # This uses HTTP because kubectl would take more CPU time than the rollouts themselves.
        self._http = httpx.Client(
            base_url=control_plane.url,
            headers={"Authorization": f"Bearer {control_plane.admin_token}"},
            verify=ssl.create_default_context(cafile=control_plane.ca_file),
        )
        self._namespace = namespace

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._http.close()

    def run_once(self) -> None:
        # Pods are listed after Deployments. If a rollout begins in between, the marks of the pods show it.
        deployments = self._list("apis/apps/v1", "deployments")
        pods = self._list("api/v1", "pods")
        at = pod_clock()
        for deployment in deployments:
            name = deployment["metadata"]["name"]
            mark = template_mark(deployment, name)
            marks = {annotations(pod).get(mark_name(name)) for pod in pods if pod["metadata"]["labels"]["app"] == name}
            complete = Complete(at, name, without_suffix(mark or ""))
            known = any((each.consumer, each.mark) == (name, complete.mark) for each in self.seen)
            if mark and not known and is_complete(deployment) and marks == {mark}:
                self.seen.append(complete)

    def _list(self, api: str, resource: str) -> list[Any]:
        reply = self._http.get(f"/{api}/namespaces/{self._namespace}/{resource}")
        return list(reply.raise_for_status().json()["items"])


def is_complete(deployment: Any) -> bool:
    """Return whether all pods of a Deployment exist, have the latest template and are available. Pods that are being
    deleted do not count."""
    status = deployment["status"]
    counts = {status.get(count) for count in ("replicas", "updatedReplicas", "availableReplicas")}
    is_current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return is_current and counts == {deployment["spec"]["replicas"]}


class Rotations:
    """The rotations of one AWS secret. ``moved`` has one time for each version: for the first version, the time at
    which this object was made, and for each later version, the time just after the rotation to it."""

    def __init__(self, aws: LocalAws, namespace: str, name: str) -> None:
        self.moved: list[float] = []
        self._aws = aws
        self._namespace = namespace
        self._name = name
        self._id = f"{namespace}/{name}"
        self._versions: dict[str, Version] = {}
        first = aws.secrets_manager().get_secret_value(SecretId=self._id)
        self._note(first["ARN"], first["VersionId"])

    @property
    def last(self) -> int:
        """The number of the current version."""
        return len(self.moved) - 1

    def rotate(self) -> Notification:
        """Rotate once, and return the notification."""
        told = rotate_to(self._aws, self._namespace, self._name, self.last + 1)
        self._note(told.subject, str(told.data.version_id))
        return told

    def oracle(self, states: Sequence[Any]) -> SecretOracle:
        """Check the states of the Secret against the versions that AWS has had. Return the oracle that checked them."""
        oracle = SecretOracle(self._versions, {self._id: list(self._versions)})
        oracle.check(states)
        return oracle

    def _note(self, arn: str, version_id: str) -> None:
        self.moved.append(pod_clock())
        self._versions[version_id] = Version(self._id, arn, version_id, version_name(self.last))


@pytest.mark.timeout(400)
def test_hundred_rotations_are_in_use_despite_kills_and_an_upgrade(
    control_plane: ControlPlane, aws: LocalAws, signing_key_id: str, namespace: str
) -> None:
    key = parse_key(aws.secrets_manager().get_secret_value(SecretId=signing_key_id)["SecretString"])
    chart = node_values(aws, signing_key_id, drainSeconds=5)
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    chance = random.Random(9)  # noqa: S311 - the same choices in each run
    with (
        installed_release(control_plane, chart) as release,
        closing(HistoryWatcher(control_plane, namespace)) as witness,
        closing(RetryingSender(key, [release.url])) as sender,
        Listener() as listener,
        Rollouts(control_plane, namespace) as rollouts,
        ThreadPoolExecutor(1) as hand,
    ):
        bind_secrets(control_plane, aws, namespace, *CONSUMERS)
        control_plane.create(listener.consumer(namespace, name, name, ways) for name, ways in CONSUMERS.items())
        eventually(lambda: all(witness.baseline(name, name) and listener.pods(name) for name in CONSUMERS))
        rotations = {name: Rotations(aws, namespace, name) for name in CONSUMERS}
        begun = pod_clock()
        with Killer(release) as killer:
            for number in range(ROTATIONS):
                told = rotations[chance.choice(list(CONSUMERS))].rotate()
                for _ in range(1 + (chance.random() < TWICE)):
                    sender.send(told)
                if number == ROTATIONS // 2:
                    upgrade = hand.submit(release.helm.upgrade, {**chart, "podAnnotations": {TURN: "2"}}, timeout=150)
                time.sleep(max(0.0, begun + (number + 1) * PACE - pod_clock()))
            upgrade.result()
            eventually(lambda: killer.kills >= MIN_KILLS, 60)
        took = pod_clock() - begun
        eventually(lambda: sender.idle, 60)
        for name, each in rotations.items():
            eventually(lambda name=name, each=each: holds(witness, name, each.last), 60)
            control_plane.kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=120s")
            mark = witness.marks(name, name)[-1]
            eventually(lambda mark=mark: any(seen.mark == mark for seen in rollouts.seen), 60)
        time.sleep(3)  # time in which pods could report a wrong version, and followers could act too late

        assert {annotations(pod)[TURN] for pod in release.pods()} == {"2"}
        changed, rolled, versions = 0, 0, {}
        for name, each in rotations.items():
            oracle = each.oracle(witness.states("secrets", name))
            changes = {digest(told.revisions, told.revisions): told.data[KEY].decode() for told in oracle.applied}
            marks = [mark for mark in witness.marks(name, name) if mark]
            check_marks(marks, list(changes)[1:])  # without the first change, which filled the Secret
            # Nothing else has rolled the Deployment out or created pods.
            told = annotations_of(control_plane, "deployment", namespace, name)
            assert int(told["deployment.kubernetes.io/revision"]) == len(marks) + 1
            assert len(listener.pods(name)) <= len(marks) + 1
            (pod,) = control_plane.list("pods", namespace, f"app={name}")
            last = {way: listener.last(name)[pod["metadata"]["name"], way] for way in CONSUMERS[name]}
            assert set(last.values()) == {version_name(each.last)}
            changed, rolled, versions = changed + len(changes) - 1, rolled + len(marks), {**versions, **changes}
        told_late = late(listener.reports, rollouts.seen, versions)
        assert not told_late
        print(
            f"\n{ROTATIONS} rotations in {took:.0f} s, {killer.kills} kills, answered {dict(sender.status_counts)}\n"
            f"{changed} changes applied, {rolled} rollouts, {len(rollouts.seen)} of them seen complete\n"
            f"label moved -> new value in use: {quantiles(listener, rotations)}"
        )
        assert changed - rolled <= killer.kills


def holds(witness: HistoryWatcher, name: str, number: int) -> bool:
    """Return whether a Secret holds this version with the status "ok" and its consumer has the matching mark."""
    data, told = witness.current(name)
    revisions = witness.revisions(name)[-1]
    marks = witness.marks(name, name)
    in_order = (data, told["keyturn.dev/status"]) == ({KEY: version_name(number).encode()}, "ok")
    return in_order and marks[-1] == digest(revisions, revisions)


def check_marks(marks: Sequence[str], changes: Sequence[str]) -> None:
    """Check that each change has at most one rollout, that the rollouts follow the order of the changes, and that the
    last change has a rollout. If a receiver dies between a change and its rollout, the next change may take over the
    rollout."""
    remaining = iter(changes)
    assert all(mark in remaining for mark in marks), "rolled twice for a change, or backwards"
    assert marks[-1] == changes[-1], "not rolled for the last change"


def late(
    told: Sequence[Report], seen: Sequence[Complete], versions: Mapping[str, str]
) -> list[tuple[Report, Complete]]:
    """Return the reports of an older version that arrived after the rollout of a newer version was complete. Each is
    returned with that rollout."""
    return [
        (each, complete)
        for complete in seen
        for each in told
        if each.consumer == complete.consumer and each.at > complete.at and each.version < versions[complete.mark]
    ]


def quantiles(listener: Listener, rotations: Mapping[str, Rotations]) -> str:
    """Describe how long it took until a version was first reported. Versions that were never reported do not count."""
    took = [
        first.at - moved
        for name, each in rotations.items()
        for number, moved in enumerate(each.moved)
        if number and (first := listener.first(name, CONSUMERS[name][0], number))
    ]
    return f"p50 {statistics.median(took):.2f} s, max {max(took):.2f} s, of {len(took)} versions"
