"""The prediction of `keyturn explain` where the caller may not read everything that decides."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keyturn_cli import prediction
from keyturn_cli.bound_secrets import read_bound
from keyturn_cli.prediction import Change, Fate, Outcome, Scene, fates, needs_pods
from keyturn_cli.release import Settings
from keyturn_receiver.core.consumer import read_consumer
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_hold import PAUSED
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from support.manifests import env_from, secret, workload

UNDECIDED = RolloutAnnotation("keyturn.dev/mark", "v", restart=False, undecided=True)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A Secret and a workload of which the pods decide whether it is restarted."""
    monkeypatch.setattr(prediction, "_mark", lambda *_: UNDECIDED)
    deployment = workload("shop", "web", env_from("db"))
    deployment["metadata"] |= {"uid": "1", "resourceVersion": "1"}
    consumer = read_consumer(WORKLOAD_KINDS["Deployment"], deployment)
    assert consumer
    return Scene(read_bound(secret("shop", "db", "shop/db")), [consumer], None, Settings(), 0.0)


def predicted(scene: Scene, pods: Sequence[Pod] | None) -> Fate:
    (consumer,) = needs_pods(scene, Change())
    (fate,) = fates(Scene(scene.bound, scene.consumers, None, Settings(), 0.0, {consumer.ref: pods}), Change())
    return fate


def test_workload_whose_pods_are_not_known_is_not_taken_for_one_without_pods(scene: Scene) -> None:
    assert predicted(scene, []).outcome is Outcome.UNCONCERNED
    fate = predicted(scene, None)
    assert fate.outcome is Outcome.RESTARTS
    assert fate.why == "only if one of its pods has the old value; you may not list its pods"
    (consumer,) = scene.consumers
    held = predicted(replace(scene, consumers=[replace(consumer, hold=PAUSED)]), None)
    assert (held.outcome, held.why) == (Outcome.HELD, PAUSED.text)


@pytest.mark.parametrize(("keys", "why"), [("a", ""), ("ab", "not restarted, because a new pod would not start")])
def test_workload_that_a_change_leaves_without_a_required_key_is_not_restarted(keys: str, why: str) -> None:
    env = [{"name": key, "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}} for key in keys]
    deployment = workload("shop", "web", {"container": {"env": env}})
    deployment["metadata"] |= {"uid": "1", "resourceVersion": "1"}
    consumer = read_consumer(WORKLOAD_KINDS["Deployment"], deployment)
    assert consumer
    change = Change({"a": "1", "b": "1"}, Record(revisions={"a": "2"}), ("a", "b"), frozenset("a"))
    scene = Scene(read_bound(secret("shop", "db", "shop/db")), [consumer], {}, Settings(), 0.0)
    (fate,) = fates(scene, change)
    assert (fate.outcome, fate.why) == (Outcome.UNCONCERNED if why else Outcome.RESTARTS, why)
    assert fate.missing == (("b",) if why else ())
