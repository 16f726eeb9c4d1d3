"""The cache of consumers: what the workloads of one namespace name has a bound, and takes no room from the others."""

from typing import Any

import pytest

from keyturn_receiver.cluster.consumer_cache import MAX_READS, ConsumerCache, ConsumerIndex
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import MAX_REFERENCES
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

    cache.delete(workload("greedy", "w0", 0))  # which makes room
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
        ("1970-01-02T00:00:00Z", False),  # the clocks differ
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
        now += 100  # a change of a workload that is known already


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
