"""The cache of consumers: the references that the workloads of one namespace make to Secrets are bounded, so they take
no room from other namespaces."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import MAX_READS, ConsumerCache, ConsumerIndex
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import MAX_REFERENCES, Consumer, read_consumer
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS


def workload(namespace: str, name: str, secrets: int) -> dict[str, Any]:
    sources = [{"secret": {"name": f"{name}-{number}"}} for number in range(secrets)]
    return {
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"},
        "spec": {"template": {"spec": {"volumes": [{"projected": {"sources": sources}}]}}},
    }


def test_namespace_that_names_too_many_secrets_loses_its_own_last_ones_alone(caplog: pytest.LogCaptureFixture) -> None:
    index = ConsumerIndex()
    cache = ConsumerCache(WORKLOAD_KINDS["Deployment"], index)
    many = MAX_READS // MAX_REFERENCES + 1
    for number in range(many):
        cache.update(cache.transform(workload("greedy", f"w{number}", MAX_REFERENCES)))
    cache.update(cache.transform(workload("team", "web", 3)))
    assert [bool(index.of(Target("greedy", f"w{n}-0"))) for n in range(many)] == [True] * (many - 1) + [False]
    assert index.of(Target("team", "web-2"))
    (warning,) = caplog.messages
    assert "namespace greedy name more than" in warning

    cache.delete(workload("greedy", "w0", 0))  # the deletion makes room
    cache.update(cache.transform(workload("greedy", f"w{many - 1}", MAX_REFERENCES)))
    assert index.of(Target("greedy", f"w{many - 1}-0"))


def test_workload_that_changes_counts_once() -> None:
    index = ConsumerIndex()
    cache = ConsumerCache(WORKLOAD_KINDS["Deployment"], index)
    for _ in range(2 * MAX_READS // MAX_REFERENCES):
        cache.update(cache.transform(workload("team", "web", MAX_REFERENCES)))
    assert index.of(Target("team", "web-0"))


@pytest.mark.parametrize(
    ("created", "late"),
    [
        ("1970-01-01T00:16:40Z", False),
        ("1970-01-01T00:16:37Z", False),
        ("1970-01-01T00:16:36Z", True),
        ("1970-01-02T00:00:00Z", False),  # in the future, so the clocks differ
        (None, False),
    ],
)
def test_workload_that_is_new_here_but_created_long_ago_is_seen_late_until_it_is_gone(
    created: str | None, late: bool
) -> None:
    now = 1_000.0
    index = ConsumerIndex()
    cache = ConsumerCache(WORKLOAD_KINDS["Deployment"], index, lambda: now)
    obj = workload("team", "web", 1)
    obj["metadata"]["creationTimestamp"] = created
    for _ in range(2):
        cache.update(cache.transform(obj))
        (consumer,) = index.of(Target("team", "web-0"))
        assert consumer.seen_late is late
        now += 100  # the next update changes a workload that is known already


def test_workload_that_a_list_shows_first_is_seen_late() -> None:
    index = ConsumerIndex()
    cache = ConsumerCache(WORKLOAD_KINDS["Deployment"], index, lambda: 1_000.0)
    known, other = workload("team", "known", 1), workload("team", "other", 1)
    for obj in (known, other):
        obj["metadata"]["creationTimestamp"] = "1970-01-01T00:16:40Z"
    cache.update(cache.transform(known))
    cache.replace([cache.transform(known), cache.transform(other)])
    late = {name: index.of(Target("team", f"{name}-0"))[0].seen_late for name in ("known", "other")}
    assert late == {"known": False, "other": True}


@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "replaced in a list"])
@pytest.mark.parametrize(("uid", "late"), [("second", True), ("first", False)])
def test_workload_that_is_created_again_is_seen_late(is_deleted: bool, uid: str, late: bool) -> None:
    """It may have adopted the pods of the former one, which are older than it."""
    index = ConsumerIndex()
    cache = ConsumerCache(WORKLOAD_KINDS["StatefulSet"], index, lambda: 1_000.0)
    obj = workload("team", "web", 1)
    obj["metadata"] |= {"uid": "first", "creationTimestamp": "1970-01-01T00:16:30Z"}
    cache.update(cache.transform(obj))
    if is_deleted:
        cache.delete(obj)
    obj["metadata"] |= {"uid": uid, "creationTimestamp": "1970-01-01T00:16:40Z"}
    for _ in range(2):
        cache.update(cache.transform(obj))
        (consumer,) = index.of(Target("team", "web-0"))
        assert consumer.seen_late is late


def _change(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(obj: dict[str, Any]) -> None:
        *path, last = field.split(".")
        for name in path:
            obj = obj.setdefault(name, {})
        obj[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _change("status", {"observedGeneration": 3, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}),
        _change("metadata", {"uid": "2"}),
        _change("metadata.annotations", {"keyturn.dev/rollout": "disabled"}),
        _change("metadata.annotations", {"keyturn.dev/rollout": "never"}),  # an unknown value, which is a fault
        _change("metadata.annotations", {"revision.keyturn.dev/db": "1"}),  # a mark
        _change("metadata.labels", {"keyturn.dev/bind": "true"}),  # a fault, because workloads have no such label
        _change("metadata.generation", 4),
    ],
)
@pytest.mark.parametrize("fault", [{}, {"keyturn.dev/rollout": "alwys"}])
@pytest.mark.parametrize("name", ["Deployment", "Rollout"])
def test_change_is_read_as_if_the_workload_had_not_been_known(
    change: Callable[[dict[str, Any]], None], fault: dict[str, str], name: str
) -> None:
    kind, index = WORKLOAD_KINDS[name], ConsumerIndex()
    cache = ConsumerCache(kind, index)
    before = workload("team", "db", 1)
    before["metadata"] |= {"uid": "1", "generation": 3, "annotations": {"keyturn.dev/reads": "db", **fault}}
    cache.update(cache.transform(before))

    after = deepcopy(before)
    change(after)
    after["metadata"] = {**before["metadata"], **after["metadata"], "resourceVersion": "2"}
    if after["metadata"]["generation"] != 3:
        after["spec"]["template"]["spec"]["volumes"] = []
        after["spec"]["paused"] = True
    read = cache.transform(after)
    anew, former = read_consumer(kind, after), read_consumer(kind, before)
    assert read == anew != former
    assert isinstance(read, Consumer)
    assert anew
    assert former
    # ``specified`` tells whether the pod template may be another one.
    of_spec = {key: after["metadata"][key] == before["metadata"][key] for key in ("uid", "generation")}
    assert (read.specified == former.specified) is all(of_spec.values())
    assert read.specified == anew.specified


def test_template_is_not_read_again_while_only_the_status_changes() -> None:
    cache = ConsumerCache(WORKLOAD_KINDS["Deployment"], ConsumerIndex())
    obj = workload("team", "web", 1)
    obj["metadata"] |= {"uid": "1", "generation": 3}
    first = cache.transform(obj)
    cache.update(first)
    second = cache.transform({**obj, "status": {"observedGeneration": 3}})
    assert isinstance(first, Consumer)
    assert isinstance(second, Consumer)
    assert second.reads is first.reads
