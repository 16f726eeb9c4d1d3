"""Readers that Keyturn does not restart: which pods and CronJobs count, and what is said of them."""

from typing import Any

import pytest

from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.unrestarted import (
    MAX_NAMED,
    Reader,
    Report,
    Sort,
    has_to_be_told,
    message_to_one,
    read_cron_job,
    read_running_pod,
)
from keyturn_receiver.core.workload_kinds import GROUP_VERSIONS
from keyturn_receiver.core.write_times import WriteTime

CHANGED = frozenset({"a"})
RECORD = Record(
    version_ids={"arn": "v2"},
    revisions={"a": "v2", "b": "v1", "new": "v2"},
    write_times={"a": WriteTime(2000), "b": WriteTime(1000), "new": WriteTime(2000, appeared=True)},
)


def spec(key: str = "a", of: str = "db") -> dict[str, Any]:
    return {"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": of, "key": key}}}]}]}


def pod(at: int = 1500, owner: str = "", of: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    minutes, seconds = divmod(at, 60)
    made: dict[str, Any] = {"name": "p", "uid": "p-uid", "creationTimestamp": f"1970-01-01T00:{minutes}:{seconds:02}Z"}
    if owner:
        kind, _, name = owner.partition("/")
        kind, _, group = kind.partition(".")
        version = f"{group}/v1" if group else GROUP_VERSIONS.get(kind, "example.com/v1")
        reference = {"apiVersion": version, "kind": kind, "name": name, "uid": "o-uid", "controller": True}
        made["ownerReferences"] = [reference]
    return {"metadata": {**made, **metadata}, "spec": of or spec(), "status": {"phase": "Running"}}


def cron_job(of: dict[str, Any], **annotations: str) -> dict[str, Any]:
    template = {"metadata": {"annotations": annotations}, "spec": of}
    return {"metadata": {"name": "nightly", "uid": "c"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}


@pytest.mark.parametrize(
    ("owner", "sort", "name", "about"),
    [
        ("", Sort.POD, "Pod p", ("Pod", "p", "p-uid")),
        ("ReplicaSet/old", Sort.REPLICA_SET, "ReplicaSet old", ("ReplicaSet", "old", "o-uid")),
        ("Job/migrate", Sort.JOB, "Job migrate", ("Job", "migrate", "o-uid")),
        ("CloneSet/x", Sort.OTHER, "CloneSet x", ("Pod", "p", "p-uid")),
        ("Node/n", Sort.OTHER, "Node n", ("Pod", "p", "p-uid")),
        # Kinds of other API groups have the same names.
        *(
            (f"{kind}/x", Sort.OTHER, f"{kind} x", ("Pod", "p", "p-uid"))
            for kind in (
                "StatefulSet.apps.kruise.io",
                "DaemonSet.apps.kruise.io",
                "Deployment.example.com",
                "Rollout.rollouts.kruise.io",
                "ReplicaSet.example.com",
                "Job.batch.volcano.sh",
            )
        ),
    ],
)
def test_pod_stands_for_its_controller(owner: str, sort: Sort, name: str, about: tuple[str, str, str]) -> None:
    reader = read_running_pod(pod(owner=owner))
    assert reader is not None
    subject = reader.subject
    assert (reader.sort, reader.name, (subject.kind, subject.name, subject.uid)) == (sort, name, about)


def test_owner_that_is_no_controller_does_not_count() -> None:
    owners = [{"kind": "Backup", "name": "x", "uid": "u"}, {"kind": "StatefulSet", "name": "y", "controller": False}]
    reader = read_running_pod(pod(ownerReferences=owners))
    assert reader is not None
    assert reader.sort is Sort.POD


@pytest.mark.parametrize("owner", ["StatefulSet/db", "DaemonSet/agent"])
def test_pod_that_keyturn_restarts_is_left_out(owner: str) -> None:
    assert read_running_pod(pod(owner=owner)) is None


@pytest.mark.parametrize("version", ["apps/v1", "apps/v2beta1"])
def test_version_of_the_api_group_does_not_count(version: str) -> None:
    owner = {"apiVersion": version, "kind": "StatefulSet", "name": "db", "uid": "u", "controller": True}
    assert read_running_pod(pod(ownerReferences=[owner])) is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_pod_that_has_ended_is_left_out(phase: str) -> None:
    assert read_running_pod({**pod(), "status": {"phase": phase}}) is None
    assert read_running_pod(pod(deletionTimestamp="1970-01-01T00:00:01Z")) is None


# The pod, whether it has to be told, and the keys that have changed.
CASES: dict[str, tuple[dict[str, Any], bool, frozenset[str] | None]] = {
    "older than the change": (pod(1999), True, CHANGED),
    "younger than the change": (pod(2000), False, CHANGED),
    "another key": (pod(500, of=spec("b")), False, CHANGED),
    "another key, with any changed": (pod(500, of=spec("b")), True, None),
    "another key, younger than its change": (pod(1000, of=spec("b")), False, None),
    "another Secret": (pod(of=spec("a", "cache")), False, CHANGED),
    "a key that was not there": (pod(of=spec("new")), False, frozenset({"new"})),
    "all keys": (pod(of={"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}), True, CHANGED),
    "a volume": (pod(of={"volumes": [{"secret": {"secretName": "db"}}]}), True, CHANGED),
    "by name": (pod(of={"containers": []}, annotations={"keyturn.dev/reads": "cache, db"}), True, CHANGED),
    "pulls its image": (pod(of={"imagePullSecrets": [{"name": "db"}]}), False, CHANGED),
    "no time": (pod(creationTimestamp=None), True, CHANGED),
}


@pytest.mark.parametrize("name", CASES)
def test_pod_is_told_if_it_may_use_an_older_value_of_a_changed_key(name: str) -> None:
    made, expected, changed = CASES[name]
    reader = read_running_pod(made)
    assert reader is not None
    assert has_to_be_told(reader, "db", changed, RECORD, frozenset()) is expected


@pytest.mark.parametrize(
    ("owner", "labels", "restarted", "expected"),
    [
        ("ReplicaSet.example.com/web-5d9", {"pod-template-hash": "5d9"}, {"web"}, True),
        ("ReplicaSet/web-5d9", {"pod-template-hash": "5d9"}, {"web"}, False),
        ("ReplicaSet/web-5d9", {"pod-template-hash": "5d9"}, {"other"}, True),  # its Deployment is gone
        ("ReplicaSet/web-5d9", {}, {"web"}, True),  # without the label, it is no ReplicaSet of a Deployment
        ("ReplicaSet/web-5d9", {"pod-template-hash": "7c8"}, {"web"}, True),
        ("ReplicaSet/web-5d9", {"rollouts-pod-template-hash": "5d9"}, {"web"}, False),
        (f"ReplicaSet/{'w' * 249}-5d9", {"pod-template-hash": "5d9"}, {"w" * 253}, False),  # the name was cut
        (f"ReplicaSet/{'w' * 248}-5d9", {"pod-template-hash": "5d9"}, {"w" * 253}, True),
        ("Job/web-5d9", {"pod-template-hash": "5d9"}, {"web"}, True),
        ("", {}, {""}, False),
    ],
)
def test_replica_set_of_a_deployment_that_keyturn_restarts_is_not_told(
    owner: str, labels: dict[str, str], restarted: set[str], expected: bool
) -> None:
    reader = read_running_pod(pod(owner=owner, labels=labels))
    assert reader is not None
    assert has_to_be_told(reader, "db", CHANGED, RECORD, restarted) is expected


def test_rollout_of_argo_is_named_in_place_of_its_replica_set() -> None:
    reader = read_running_pod(pod(owner="ReplicaSet/web-5d9", labels={"rollouts-pod-template-hash": "5d9"}))
    assert reader is not None
    assert (reader.sort, reader.name) == (Sort.OTHER, "Rollout web")
    assert reader.subject.kind == "ReplicaSet"
    assert has_to_be_told(reader, "db", CHANGED, RECORD, frozenset())


def test_cron_job_is_told_at_each_change_of_a_key_that_it_reads() -> None:
    assert has_to_be_told(read_cron_job(cron_job(spec())), "db", CHANGED, RECORD, frozenset())
    assert not has_to_be_told(read_cron_job(cron_job(spec("b"))), "db", CHANGED, RECORD, frozenset())
    assert not has_to_be_told(read_cron_job(cron_job(spec("new"))), "db", frozenset({"new"}), RECORD, frozenset())
    by_name = read_cron_job(cron_job({}, **{"keyturn.dev/reads": "db", "keyturn.dev/rollout": "disabled"}))
    assert has_to_be_told(by_name, "db", CHANGED, RECORD, frozenset())
    assert by_name.switch is Switch.DISABLED


def test_report_names_few_readers_of_each_sort() -> None:
    report = Report()
    for number in range(10_000):
        for owner in ("", "ReplicaSet/old", "Job/j"):
            reader = read_running_pod(pod(owner=owner, name=f"p{number:05}"))
            assert reader is not None
            report.add(reader)
    assert report.message("v2") == (
        "version v2; not restarted: "
        + ", ".join(f"Pod p{number:05}" for number in range(MAX_NAMED))
        + " and more (a bare pod keeps what it read by env or subPath until you create it again); ReplicaSet old (its"
        " pods keep what they read by env or subPath until you delete them); Job j (a run that has begun goes on with"
        " what it has read)"
    )
    assert len(report.subjects) == MAX_NAMED + 2
    assert report.warning


def test_report_says_that_not_all_pods_were_looked_at() -> None:
    report = Report(cut=True)
    report.add(read_cron_job(cron_job(spec())))
    assert report.message("v2") == (
        "version v2; not restarted: CronJob nightly (the next run reads the new value); not all pods of this namespace"
        " were looked at"
    )
    assert not report.warning
    assert report.subjects == []  # nothing is wrong with a CronJob


@pytest.mark.parametrize("sort", [sort for sort in Sort if sort is not Sort.CRON_JOB])
def test_every_sort_of_reader_has_words_of_its_own(sort: Sort) -> None:
    told = message_to_one(sort, "db", "v2")
    assert told.startswith("Secret db: a key that it reads has changed with version v2; ")
    assert len({message_to_one(each, "db", "v2") for each in Sort if each is not Sort.CRON_JOB}) == len(Sort) - 1


def test_long_name_is_shortened_in_messages_alone() -> None:
    reader: Reader | None = read_running_pod(pod(owner=f"{'K' * 300}/{'n' * 300}"))
    assert reader is not None
    assert len(reader.name) < 130
