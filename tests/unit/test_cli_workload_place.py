"""Rotations on the command line: the stage of a workload that reads a Secret."""

import pytest

from keyturn_cli.bound_secrets import Bound
from keyturn_cli.release import Settings
from keyturn_cli.rotation import Stage, workload_place
from keyturn_receiver.core.binding import Target, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.revision import Record, digest
from keyturn_receiver.core.rollout_progress import RolloutProgress, RolloutState
from keyturn_receiver.core.rollout_switch import Switch

COMPLETE = RolloutProgress(RolloutState.COMPLETE, 2, 2, 2)


@pytest.mark.parametrize("state", [RolloutState.UNFINISHED, RolloutState.FAILED])
@pytest.mark.parametrize("has_ended", [True, False])
def test_workload_whose_pod_fails_after_the_end_of_its_rollout_is_live(state: RolloutState, has_ended: bool) -> None:
    record = Record({"arn#AWSCURRENT": "v2"}, {"kept": "r2"})
    bound = Bound(Target("shop", "db"), "1", {}, read_spec({}, ()), record, frozenset({"kept"}))
    consumer = Consumer(
        WorkloadRef("Rollout", "shop", "web"),
        "1",
        {"db": Reads(whole=True)},
        {},
        {mark_name("db"): record.digest},
        Switch.ENABLED,
        progress=RolloutProgress(state, 2, 2, 1, has_ended=has_ended),
    )
    assert (workload_place(consumer, bound, {}, Settings(), 0.0).stage is Stage.LIVE) is has_ended


@pytest.mark.parametrize(
    ("keys", "stage"), [({"gone"}, Stage.HELD), ({"gone", "kept"}, Stage.HELD), ({"kept"}, Stage.LIVE)]
)
def test_workload_whose_key_is_gone_keeps_the_old_value(keys: set[str], stage: Stage) -> None:
    before = {"gone": "r1", "kept": "r2"}
    record = Record({"arn#AWSCURRENT": "v2"}, {"kept": "r2"})
    bound = Bound(Target("shop", "db"), "1", {}, read_spec({}, ()), record, frozenset({"kept"}))
    consumer = Consumer(
        WorkloadRef("Deployment", "shop", "web"),
        "1",
        {"db": Reads(keys=frozenset(keys))},
        {},
        {mark_name("db"): digest(before, keys)},
        Switch.ENABLED,
        progress=COMPLETE,
    )
    place = workload_place(consumer, bound, {}, Settings(), 0.0)
    assert place.stage is stage
    if stage is Stage.HELD:
        assert place.why == "its pods keep the old values: the Secret lacks a key that they need"
