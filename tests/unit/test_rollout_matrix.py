"""The whole matrix of rollouts, decided by the core: each kind, reference, state of the key and level of the switch."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache
from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import Consumer, read_consumer
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import is_behind, rollout
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind
from keyturn_receiver.core.write_times import REMOVED, WriteTime
from keyturn_receiver.reconcile.rollout_policy import RolloutPolicy
from support.manifests import workload
from support.rollout_matrix import AFTER, AFTER_MOVED, BEFORE, TEXTS, Reference, levels, references, switch

# The times of the first write, of the creation of the workload and its pod, and of the rotation, in seconds since 1970.
FIRST, CREATED, ROTATED = 100, 200, 300
RECORD_BEFORE = Record(revisions=BEFORE, write_times=dict.fromkeys(BEFORE, WriteTime(FIRST, appeared=True)))
RECORD_AFTER = Record(
    revisions=AFTER,
    write_times={**RECORD_BEFORE.write_times, "a": WriteTime(ROTATED)},
)
RECORD_MOVED = Record(
    revisions=AFTER_MOVED,
    write_times={
        "a": WriteTime(ROTATED),
        "b": WriteTime(FIRST, appeared=True),
        "new": WriteTime(ROTATED, appeared=True),
        REMOVED: WriteTime(ROTATED),
    },
)


def policy(chart: str, in_namespace: str | None) -> RolloutPolicy:
    namespaces = NamespaceCache()
    namespaces.update(namespaces.transform({"metadata": {"name": "team", "annotations": switch(in_namespace)}}))
    return RolloutPolicy(namespaces, Switch(chart))


POLICY = {(chart, text): policy(chart, text) for chart in ("enabled", "disabled") for text in TEXTS}
SPECS = {text: read_spec({"keyturn.dev/secret-id": "team/db", **switch(text)}) for text in TEXTS}


def manifest(kind: WorkloadKind, reference: Reference, on_workload: str | None, on_template: str | None) -> Any:
    made = workload("team", "web", copy.deepcopy(reference.pod), kind.kind)
    made["metadata"] |= {
        "resourceVersion": "1",
        "uid": "u",
        "creationTimestamp": f"1970-01-01T00:{CREATED // 60:02}:{CREATED % 60:02}Z",
        "annotations": {**(reference.own or {}), **switch(on_workload)},
    }
    made["spec"]["template"]["metadata"]["annotations"] = {**(reference.on_template or {}), **switch(on_template)}
    return made


def consumer(kind: WorkloadKind, made: Mapping[str, Any]) -> Consumer | None:
    return read_consumer(kind, made)


def is_due(kind: WorkloadKind, made: Any, name: str) -> bool:
    """Return whether the rotation restarts the workload, if the switch lets it. The workload and its pod are older than
    the rotation, and the workload was marked before the rotation."""
    before = consumer(kind, made)
    if before is None or name not in ("db", "moved"):
        return False
    record = RECORD_MOVED if name == "moved" else RECORD_AFTER
    settled = rollout(before, name, RECORD_BEFORE)
    if settled:
        assert not settled.restart
        made["metadata"]["annotations"][settled.name] = settled.value
    after = consumer(kind, made)
    assert after
    mark = rollout(after, name, record, RECORD_BEFORE)
    if mark is None:
        return False
    pod = Pod(after.reads, CREATED)
    return mark.restart or (mark.undecided and is_behind(pod, name, record, mark, False))


@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
def test_core_decides_every_cell_as_the_oracle_does(kind: WorkloadKind) -> None:
    cells, wrong = 0, []
    for reference in references():
        due = is_due(kind, manifest(kind, reference, None, None), reference.secret)
        made = {(own, inner): consumer(kind, manifest(kind, reference, own, inner)) for own in TEXTS for inner in TEXTS}
        for chart in ("enabled", "disabled"):
            for each in levels(chart):
                found = made[each.workload, each.template]
                permitted = found is not None and POLICY[chart, each.namespace].permits(
                    found, Target("team", reference.secret), SPECS[each.secret]
                )
                cells += 1
                if (due and permitted) != (reference.restarts and each.restarts):
                    wrong.append((reference.name, each))
    assert wrong[:10] == []
    assert cells > 40_000
