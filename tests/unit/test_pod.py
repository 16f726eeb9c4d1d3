"""Pods of a consumer: which ones are behind what their Secret has."""

from dataclasses import replace
from typing import Any

import pytest

from keyturn_receiver.core.consumer import Reads, WorkloadRef
from keyturn_receiver.core.pod import Pod, read_pod
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import CLOCK_SECONDS, RolloutAnnotation, is_behind
from keyturn_receiver.core.write_times import WriteTime

MARK = "revision.keyturn.dev/db"
WRITTEN = 1_000  # the second of the last write
AFTER = "1970-01-01T00:17:41Z"  # CLOCK_SECONDS and one second after WRITTEN
SOON = "1970-01-01T00:16:50Z"
WHOLE, NEEDS_A = Reads(whole=True), Reads(keys=frozenset("a"))
UNMARKED = RolloutAnnotation(MARK, "present", restart=False, undecided=True)
MARKED = replace(UNMARKED, marked=True)
ENV_FROM = {"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}
FILES = {"volumes": [{"secret": {"secretName": "db"}}]}


def record(**times: WriteTime) -> Record:
    return Record(revisions=dict.fromkeys(times, "v2"), write_times=times)


def pod(spec: dict[str, Any], status: dict[str, Any] | None = None, **annotations: str) -> Pod:
    metadata = {
        "name": "web-1",
        "uid": "uid",
        "creationTimestamp": "1970-01-01T00:10:00Z",
        "ownerReferences": [{"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": "web-1"}],
        "labels": {"pod-template-hash": "1"},
        "annotations": annotations,
    }
    ref = WorkloadRef("Deployment", "team", "web")
    made = read_pod({"metadata": metadata, "spec": spec, "status": status or {}}, ref, "u")
    assert made
    return made


def running(at: str, name: str = "app") -> dict[str, Any]:
    return {"name": name, "state": {"running": {"startedAt": at}}}


def test_pod_that_was_made_from_a_marked_template_is_new_whatever_its_time() -> None:
    """A template is marked after the Secret is written, often in the same second."""
    written = record(a=WriteTime(WRITTEN))
    made = Pod({"db": WHOLE}, WRITTEN, marks={MARK: "present"})
    assert not is_behind(made, "db", written, MARKED, False)
    assert is_behind(replace(made, marks={MARK: "older"}), "db", written, MARKED, False)
    assert pod({"containers": [ENV_FROM]}, **{MARK: "present", "other": "x"}).marks == {MARK: "present"}


def test_pod_of_a_marked_workload_that_is_of_the_second_of_the_write_is_behind() -> None:
    """The workload's mark may be older than the write, so the pod may have started before the write, in the same
    second."""
    made = Pod({"db": WHOLE}, WRITTEN)
    assert is_behind(made, "db", record(a=WriteTime(WRITTEN)), MARKED, False)
    assert not is_behind(made, "db", record(a=WriteTime(WRITTEN)), UNMARKED, False)
    assert not is_behind(replace(made, created=WRITTEN + 1), "db", record(a=WriteTime(WRITTEN)), MARKED, False)


@pytest.mark.parametrize("reads", [WHOLE, NEEDS_A])
def test_time_that_no_release_has_recorded_leaves_behind_a_marked_workload(reads: Reads) -> None:
    """Release 0.2 recorded no times. If it crashed between a write and the restarts, the restarts are still due."""
    unknown = Record(revisions={"a": "v2", "b": "v1"}, write_times={"b": WriteTime(1)})
    made = Pod({"db": reads}, WRITTEN)
    assert is_behind(made, "db", unknown, MARKED, False)
    assert not is_behind(made, "db", unknown, UNMARKED, False)  # an upgrade restarts nobody
    known = replace(unknown, write_times={"a": WriteTime(1), "b": WriteTime(1), "": WriteTime(1)})
    assert not is_behind(made, "db", known, MARKED, False)


def test_key_that_returns_with_a_secret_made_anew_leaves_behind_pods_that_have_started() -> None:
    """If the workload has no mark, a container that needs a new key has not started without the key. If the workload
    has a mark, its pods may have read the key in the Secret's former life."""
    anew = record(a=WriteTime(WRITTEN, appeared=True))
    made = Pod({"db": NEEDS_A}, WRITTEN - 100)
    assert is_behind(made, "db", anew, MARKED, False)
    assert not is_behind(replace(made, has_started=False), "db", anew, MARKED, False)
    assert not is_behind(made, "db", anew, UNMARKED, False)


def test_removal_of_a_key_that_a_marked_workload_names_leaves_its_pods_behind() -> None:
    gone = Record(revisions={"a": "v1"}, write_times={"a": WriteTime(1), "": WriteTime(WRITTEN)})
    made = Pod({"db": Reads(keys=frozenset("ab"))}, WRITTEN - 100)
    assert is_behind(made, "db", gone, MARKED, False)
    assert not is_behind(replace(made, created=WRITTEN + 1), "db", gone, MARKED, False)
    assert not is_behind(replace(made, reads={"db": NEEDS_A}), "db", gone, MARKED, False)


@pytest.mark.parametrize(
    ("spec", "status", "behind"),
    [
        ({"containers": [ENV_FROM]}, {"containerStatuses": [running(AFTER)]}, False),
        # The kubelet's clock may be off by up to CLOCK_SECONDS.
        ({"containers": [ENV_FROM]}, {"containerStatuses": [running(SOON)]}, True),
        ({"containers": [ENV_FROM]}, {"containerStatuses": [{"name": "app", "state": {"waiting": {}}}]}, True),
        ({"containers": [ENV_FROM]}, {}, True),
        # The start of a container does not repeat the reads of files.
        ({"containers": [ENV_FROM], **FILES}, {"containerStatuses": [running(AFTER)]}, True),
        # All containers that read the Secret have to have started again.
        (
            {"containers": [ENV_FROM, {**ENV_FROM, "name": "second"}]},
            {"containerStatuses": [running(AFTER), running(SOON, "second")]},
            True,
        ),
        (
            {"containers": [ENV_FROM, {"name": "second"}]},
            {"containerStatuses": [running(AFTER), running(SOON, "second")]},
            False,
        ),
        # A sidecar starts again in place; an init container does not.
        (
            {"initContainers": [{**ENV_FROM, "restartPolicy": "Always"}], "containers": []},
            {"initContainerStatuses": [running(AFTER)]},
            False,
        ),
        (
            {"initContainers": [{**ENV_FROM, "name": "init"}], "containers": [ENV_FROM]},
            {"containerStatuses": [running(AFTER)]},
            True,
        ),
    ],
)
def test_container_that_was_started_again_has_read_its_variables_anew(
    spec: dict[str, Any], status: dict[str, Any], behind: bool
) -> None:
    assert CLOCK_SECONDS == 60
    assert is_behind(pod(spec, status), "db", record(a=WriteTime(WRITTEN)), UNMARKED, False) is behind


@pytest.mark.parametrize(
    ("status", "started"),
    [
        ({}, True),  # nothing is known
        ({"phase": "Running"}, True),
        ({"phase": "Pending"}, False),
        ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "x"}}}]}, False),
        ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]}, True),
        (
            {
                "phase": "Pending",
                "containerStatuses": [{"state": {"waiting": {}}, "lastState": {"terminated": {"a": 1}}}],
            },
            True,
        ),
    ],
)
def test_pod_has_started_if_one_of_its_containers_has(status: dict[str, Any], started: bool) -> None:
    assert pod({"containers": [ENV_FROM]}, status).has_started is started


def test_pod_is_ready_if_its_condition_says_so() -> None:
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}]
    assert not pod({}, {"conditions": conditions}).is_ready
    conditions[1]["status"] = "True"
    assert pod({}, {"conditions": conditions}).is_ready
