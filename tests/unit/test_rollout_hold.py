"""Holds of rollouts: settings because of which a changed pod template restarts none of the pods, or not all."""

from typing import Any

import pytest

from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, ON_DELETE, PAUSED, RolloutHold, read_hold
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.reconcile import event_messages

LOWER = "lower spec.updateStrategy.rollingUpdate.partition, which is {}, to restart them"
KEEPS_ALL = f"keeps all of its pods: {LOWER}"
KEEPS_SOME = RolloutHold(f"keeps its first 2 pods: {LOWER.format(2)}", every_pod=False)


def parted(partition: Any, **spec: Any) -> dict[str, Any]:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}
    return {"updateStrategy": strategy, **spec}


@pytest.mark.parametrize(
    ("kind", "spec", "hold"),
    [
        ("Deployment", {"replicas": 2}, None),
        ("Deployment", {}, None),
        ("Deployment", {"replicas": 0}, NO_REPLICAS),
        ("Deployment", {"replicas": 2, "paused": True}, PAUSED),
        ("Deployment", {"replicas": 0, "paused": True}, NO_REPLICAS),
        ("Deployment", {"updateStrategy": {"type": "OnDelete"}}, None),  # a Deployment has no such field
        ("DaemonSet", {}, None),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, ON_DELETE),
        ("DaemonSet", {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}}, None),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}, "replicas": 2}, ON_DELETE),
        ("StatefulSet", parted(0, replicas=2), None),
        ("StatefulSet", parted(None, replicas=2), None),
        ("StatefulSet", parted(2, replicas=3), KEEPS_SOME),
        ("StatefulSet", parted(1, replicas=3), RolloutHold(f"keeps its first pod: {LOWER.format(1)}", every_pod=False)),
        ("StatefulSet", parted(3, replicas=3), RolloutHold(KEEPS_ALL.format(3))),
        ("StatefulSet", parted(5, replicas=2), RolloutHold(KEEPS_ALL.format(5))),
        ("StatefulSet", parted(1), RolloutHold(KEEPS_ALL.format(1))),  # it has one replica by default
        ("StatefulSet", parted(5, replicas=0), NO_REPLICAS),
    ],
)
def test_hold_is_read_from_the_workload(kind: str, spec: dict[str, Any], hold: RolloutHold | None) -> None:
    assert read_hold(WORKLOAD_KINDS[kind], {"spec": spec}) == hold


def test_message_says_of_each_consumer_what_becomes_of_its_pods() -> None:
    def consumer(kind: str, name: str, hold: RolloutHold | None = None) -> Consumer:
        return Consumer(WorkloadRef(kind, "team", name), "1", {}, {}, {}, Switch.UNSET, hold)

    consumers = [
        consumer("Deployment", "web"),
        consumer("Deployment", "one", PAUSED),
        consumer("Deployment", "two", PAUSED),
        consumer("StatefulSet", "db", KEEPS_SOME),
    ]
    assert event_messages.applied(Record({"arn#AWSCURRENT": "v2"}), "password", consumers) == (
        "wrote password from version v2; restarting Deployment web, StatefulSet db;"
        f" Deployment one, Deployment two {PAUSED.text}; StatefulSet db {KEEPS_SOME.text}"
    )
