"""Rollout decision: which workloads read a Secret, and which of these are restarted."""

from typing import Any

import pytest

from keyturn_receiver.core.consumer import MAX_REFERENCES, Consumer, Reads, mark_name, read_consumer
from keyturn_receiver.core.rollout import RolloutAnnotation, baseline, rollout
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind

WHOLE = Reads(whole=True)
MARK = "revision.keyturn.dev/db"


def consumer(pod: dict[str, Any], marks: dict[str, str] | None = None, own: dict[str, str] | None = None) -> Consumer:
    workload = read_consumer(
        WORKLOAD_KINDS["Deployment"],
        {
            "metadata": {"namespace": "team", "name": "web", "resourceVersion": "1", "annotations": own},
            "spec": {"template": {"metadata": {"annotations": marks}, "spec": pod}},
        },
    )
    assert workload is not None
    return workload


def key_ref(key: str) -> dict[str, Any]:
    return {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}}]}


@pytest.mark.parametrize(
    ("pod", "reads"),
    [
        ({"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}, WHOLE),
        ({"initContainers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}, WHOLE),
        ({"containers": [key_ref("a"), key_ref("b")]}, Reads(keys=frozenset("ab"))),
        ({"volumes": [{"secret": {"secretName": "db"}}]}, WHOLE),
        ({"volumes": [{"secret": {"secretName": "db", "items": [{"key": "a"}]}}]}, Reads(keys=frozenset("a"))),
        ({"volumes": [{"projected": {"sources": [{"secret": {"name": "db"}}]}}]}, WHOLE),
        (
            {"volumes": [{"projected": {"sources": [{"secret": {"name": "db", "items": [{"key": "a"}]}}]}}]},
            Reads(keys=frozenset("a")),
        ),
        ({"imagePullSecrets": [{"name": "db"}]}, WHOLE),
        ({"containers": [key_ref("a"), {"envFrom": [{"secretRef": {"name": "db"}}]}]}, Reads(True, frozenset("a"))),
    ],
)
def test_every_way_to_read_a_secret_is_recognized(pod: dict[str, Any], reads: Reads) -> None:
    assert consumer(pod).reads == {"db": reads}


def test_keys_of_thousands_of_references_are_joined_in_linear_time() -> None:
    pod = {"containers": [key_ref(f"k{number}") for number in range(2 * MAX_REFERENCES)]}
    assert consumer(pod).reads == {"db": Reads(keys=frozenset(f"k{n}" for n in range(MAX_REFERENCES)))}


def test_volume_with_more_items_than_are_kept_reads_the_whole_secret() -> None:
    items = [{"key": f"k{number}"} for number in range(MAX_REFERENCES + 1)]
    assert consumer({"volumes": [{"secret": {"secretName": "db", "items": items}}]}).reads == {"db": WHOLE}


def test_workload_that_reads_no_secret_is_no_consumer() -> None:
    metadata = {"namespace": "team", "name": "web", "resourceVersion": "1"}
    pod = {"containers": [{"envFrom": [{"configMapRef": {"name": "db"}}]}], "volumes": [{"emptyDir": {}}]}
    assert (
        read_consumer(WORKLOAD_KINDS["Deployment"], {"metadata": metadata, "spec": {"template": {"spec": pod}}}) is None
    )


@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
def test_on_delete_is_manual_for_the_kinds_that_have_it(kind: WorkloadKind) -> None:
    workload = {
        "metadata": {"namespace": "team", "name": "web", "resourceVersion": "1"},
        "spec": {"template": {"spec": ENV_FROM}, "updateStrategy": {"type": "OnDelete"}},
    }
    parsed = read_consumer(kind, workload)
    assert parsed is not None
    assert parsed.ref.kind == kind.kind
    assert parsed.manual is (kind.kind in ("StatefulSet", "DaemonSet"))


def test_pod_template_is_read_from_where_the_kind_has_it() -> None:
    kind = WorkloadKind("CronJob", "batch/v1", "cronjobs", template=("spec", "jobTemplate", "spec", "template"))
    workload = {
        "metadata": {"namespace": "team", "name": "nightly", "resourceVersion": "1"},
        "spec": {"jobTemplate": {"spec": {"template": {"metadata": {"annotations": {MARK: "v1"}}, "spec": ENV_FROM}}}},
    }
    parsed = read_consumer(kind, workload)
    assert parsed is not None
    assert parsed.reads == {"db": WHOLE}
    assert parsed.marks == {MARK: "v1"}
    assert read_consumer(kind, {**workload, "spec": {"template": {"spec": ENV_FROM}}}) is None


ENV_FROM = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}
READS_A = {"containers": [key_ref("a")]}


def test_consumer_without_a_mark_gets_a_baseline_and_no_restart() -> None:
    mark = rollout(consumer(ENV_FROM), "db", {"a": "v1"})
    assert mark is not None
    assert not mark.restart


def test_consumer_with_a_baseline_restarts_when_a_revision_changes() -> None:
    mark = baseline(consumer(ENV_FROM), "db", {"a": "v1"})
    assert mark is not None
    marked = consumer(ENV_FROM, own={MARK: mark.value})
    assert baseline(marked, "db", {"a": "v1"}) is None
    assert rollout(marked, "db", {"a": "v1"}) is None
    restarted = rollout(marked, "db", {"a": "v2"})
    assert restarted is not None
    assert restarted.restart


def test_same_change_gives_the_same_mark_and_no_second_restart() -> None:
    marked = consumer(ENV_FROM, own={MARK: "older"})
    first, second = (rollout(marked, "db", {"a": "v2", "b": "v1"}) for _ in range(2))
    assert first == second
    assert first is not None
    assert rollout(consumer(ENV_FROM, marks={MARK: first.value}), "db", {"a": "v2", "b": "v1"}) is None


def test_change_of_an_unread_key_restarts_nothing() -> None:
    mark = baseline(consumer(READS_A), "db", {"a": "v1", "b": "v1"})
    assert mark is not None
    marked = consumer(READS_A, own={MARK: mark.value})
    assert rollout(marked, "db", {"a": "v1", "b": "v2"}) is None
    assert rollout(marked, "db", {"a": "v2", "b": "v2"}) == RolloutAnnotation(
        MARK, rollout(marked, "db", {"a": "v2"}).value, True
    )


def test_consumer_of_unmanaged_keys_gets_no_mark() -> None:
    assert rollout(consumer(READS_A), "db", {"b": "v1"}) is None


def test_mark_on_the_template_takes_precedence_over_the_baseline() -> None:
    mark = rollout(consumer(ENV_FROM), "db", {"a": "v2"})
    assert mark is not None
    assert rollout(consumer(ENV_FROM, marks={MARK: mark.value}, own={MARK: "older"}), "db", {"a": "v2"}) is None


def test_long_secret_names_give_valid_and_different_mark_names() -> None:
    names = {mark_name("a" * 253), mark_name("a" * 252 + "b"), mark_name("a" * 63)}
    assert len(names) == 3
    assert all(len(name.partition("/")[2]) <= 63 for name in names)
