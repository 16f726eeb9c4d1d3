"""Logs and traces carry the EventBridge id of a rotation, and metrics measure each leg of its propagation."""

import json
from uuid import UUID

from keyturn_local.bench.stub_aws import CANARY
from support.fault_env import FaultEnv
from support.otlp_collector import OtlpCollector
from support.wait import eventually

LEGS = ("notification_age", "queue", "fetch", "apply", "rollout", "reconcile", "propagation")


def test_rotation_is_one_trace_from_delivery_to_rollout(env: FaultEnv, collector: OtlpCollector) -> None:
    receiver = env.receiver(**collector.settings)
    env.create_bound_secret()
    told = env.rotate()
    assert env.send(told).outcome == "applied"
    receiver.stop()  # the receiver sends its remaining spans when it stops

    mine = [span for span in collector.spans if span.trace_id == UUID(told.id).bytes]
    assert {span.name for span in mine} == {"delivery", "reconcile", "fetch", "apply", "rollout"}
    # There is more than one reconcile if another client wrote the workload in the meantime.
    reconciles = {span.span_id: span for span in mine if span.name == "reconcile"}
    assert {span.name for span in mine if span.parent_span_id in reconciles} == {"fetch", "apply", "rollout"}
    for reconcile in reconciles.values():
        attributes = {each.key: each.value.string_value for each in reconcile.attributes}
        assert attributes == {"secret": f"{env.namespace}/db", "cause": "notification"}
    assert CANARY not in str(collector.spans)


def test_log_lines_of_a_rotation_have_the_id_of_its_event(env: FaultEnv) -> None:
    receiver = env.receiver()
    env.create_bound_secret()
    told = env.rotate()
    assert env.send(told).outcome == "applied"

    def about() -> set[str]:
        return {line["message"] for line in map(json.loads, receiver.log.splitlines()) if told.id in json.dumps(line)}

    eventually(lambda: about() == {"delivery", "applied", "restarted"})


def test_propagation_is_measured_leg_by_leg(env: FaultEnv) -> None:
    receiver = env.receiver()
    env.create_bound_secret()
    before = {leg: receiver.metric(f"keyturn_{leg}_seconds_count") for leg in LEGS}
    assert env.send(env.rotate()).outcome == "applied"
    for leg in LEGS:
        assert receiver.metric(f"keyturn_{leg}_seconds_count") > before[leg], leg
    eventually(lambda: receiver.metric("keyturn_staleness_seconds") == 0)
    assert receiver.metric("keyturn_rollouts_total", kind="Deployment") == 1
