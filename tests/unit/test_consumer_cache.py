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
