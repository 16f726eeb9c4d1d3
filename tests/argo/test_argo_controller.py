"""Restarts of Rollouts by Argo's own controller, which takes ten minutes to build. ``make test-argo`` runs them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.processes.program import Program
from support.argo import abort, borrower, promote, retry, revisions, rollout, running_controller, undefine
from support.cluster_state import annotations_of, list_events, replica_sets, warnings_of
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
SETTINGS = {"KEYTURN_ARGO_ROLLOUTS": "true"}
RIGHTS = {"rollouts": {"argoRollouts": True}}
# A pause without an end: Argo waits until somebody promotes the new revision. Other consumers do not wait for
# such a pause.
PAUSE = [{"setWeight": 50}, {"pause": {}}]
LONG_PAUSE = [{"setWeight": 50}, {"pause": {"duration": "1h"}}]
MakeEnv = Callable[..., FaultEnv]


@pytest.fixture(scope="module", autouse=True)
def argo(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    undefine(control_plane)
    with running_controller(control_plane, tmp_path_factory.mktemp("argo")) as controller:
        yield controller


def phase(env: FaultEnv, name: str) -> str:
    return str(env.cluster.get("rollout", name, env.namespace).get("status", {}).get("phase", ""))


def pods(env: FaultEnv, name: str) -> set[str]:
    """Return the names of a Rollout's pods that are not ending."""
    listed = env.cluster.list("pods", env.namespace, f"app={name}")
    return {each["metadata"]["name"] for each in listed if "deletionTimestamp" not in each["metadata"]}


def live(env: FaultEnv, name: str, count: int) -> bool:
    """Return whether a Rollout has exactly ``count`` Live Events."""
    return len(live_events(env, name)) == count


def live_events(env: FaultEnv, name: str) -> list[Any]:
    return list_events(env.cluster, env.namespace, "Rollout", name, reason="Live")


def wait_seen(env: FaultEnv, kind: str, *names: str) -> None:
    """Wait until the receiver has given each workload a mark, and Argo has made each Rollout healthy."""
    for name in names:
        eventually(lambda name=name: MARK in annotations_of(env.cluster, kind, env.namespace, name))
        eventually(lambda name=name: kind != "rollout" or phase(env, name) == "Healthy")


def test_rollouts_of_argos_own_controller_are_restarted_and_followed_to_their_end(make_env: MakeEnv) -> None:
    """Argo's controller carries out the restarts of three Rollouts. The canary gets a new revision, and is live only
    once it is promoted. The Rollout that is restarted by `restartAt` gets new pods of the same revision. The Rollout
    that uses the template of a Deployment gets a new revision. Each restarts once for each rotation."""
    env = make_env(**RIGHTS)
    receiver = env.receiver(**SETTINGS)
    env.create_bound_secret(consumers=())
    lender = workload(env.namespace, "lender", env_from("db"))
    lender["spec"]["replicas"] = 0
    canary = rollout(env.namespace, "canary", env_from("db"), replicas=2, strategy={"canary": {"steps": PAUSE}})
    timed = rollout(env.namespace, "timed", env_from("db"), "restart-at", replicas=2)
    env.cluster.create([lender, canary, timed, borrower(env.namespace, "borrower", "lender")])
    wait_seen(env, "rollout", "canary", "timed")
    wait_seen(env, "deployment", "lender")
    eventually(lambda: phase(env, "borrower") == "Healthy")

    for rotations in (1, 2):
        before = pods(env, "timed")
        assert env.send(env.rotate()).status == 200
        eventually(lambda: phase(env, "canary") == "Paused")
        eventually(lambda n=rotations: live(env, "timed", n))
        assert before.isdisjoint(pods(env, "timed"))
        assert live(env, "canary", rotations - 1)  # half of the canary's pods still have the old value
        promote(env.cluster, env.namespace, "canary")
        eventually(lambda n=rotations: live(env, "canary", n))
        assert phase(env, "canary") == "Healthy"
        eventually(lambda n=rotations: revisions(env.cluster, env.namespace, "borrower") == 1 + n)
        eventually(lambda: phase(env, "borrower") == "Healthy")
    env.let_settle(5)
    made = {name: revisions(env.cluster, env.namespace, name) for name in ("canary", "timed", "borrower")}
    assert made == {"canary": 3, "timed": 1, "borrower": 3}
    assert receiver.metric("keyturn_live_seconds_count", kind="Rollout") == 4
    for event in live_events(env, "canary"):
        assert "all 2 pods run version" in event["message"]
    env.assert_no_value_leaked()


def test_blue_green_is_live_once_argo_has_promoted_it(make_env: MakeEnv) -> None:
    """A blue-green Rollout without automatic promotion gets new pods, and is not live before somebody promotes it. A
    blue-green Rollout with automatic promotion is live although nobody promotes it."""
    env = make_env(**RIGHTS)
    env.receiver(**SETTINGS)
    env.create_bound_secret(consumers=())
    strategies: dict[str, dict[str, Any]] = {"auto": {}, "manual": {"autoPromotionEnabled": False}}
    for name, strategy in strategies.items():
        service = {"metadata": {"namespace": env.namespace, "name": name}, "spec": {"ports": [{"port": 80}]}}
        service["spec"]["selector"] = {"app": name}
        blue_green = {"blueGreen": {"activeService": name, "scaleDownDelaySeconds": 1, **strategy}}
        made = rollout(env.namespace, name, env_from("db"), replicas=2, strategy=blue_green)
        env.cluster.create([{"apiVersion": "v1", "kind": "Service", **service}, made])
    wait_seen(env, "rollout", *strategies)
    env.send(env.rotate())
    eventually(lambda: live(env, "auto", 1))
    eventually(lambda: phase(env, "manual") == "Paused")
    env.let_settle(3)
    assert live(env, "manual", 0)
    promote(env.cluster, env.namespace, "manual")
    eventually(lambda: live(env, "manual", 1))
    assert {name: revisions(env.cluster, env.namespace, name) for name in strategies} == {"auto": 2, "manual": 2}
    env.assert_no_value_leaked()


def test_revision_that_argo_aborts_is_stuck_and_halts_the_others_until_it_is_retried(make_env: MakeEnv) -> None:
    """A canary goes first, and somebody aborts its new revision. A Warning says that the canary is stuck, and the next
    consumer waits. Once the revision is retried and promoted, the canary is live, and the next consumer is
    restarted."""
    env = make_env(**RIGHTS)
    env.receiver(**SETTINGS)
    env.create_bound_secret(consumers=())
    canary = rollout(env.namespace, "canary", env_from("db"), replicas=2, strategy={"canary": {"steps": LONG_PAUSE}})
    canary["metadata"]["annotations"]["keyturn.dev/rollout-order"] = "1"
    later = workload(env.namespace, "later", env_from("db"))
    later["metadata"]["annotations"] = {"keyturn.dev/rollout-order": "2"}
    env.cluster.create([canary, later])
    wait_seen(env, "rollout", "canary")
    wait_seen(env, "deployment", "later")
    env.send(env.rotate())
    eventually(lambda: phase(env, "canary") == "Paused")
    env.let_settle(3)
    assert replica_sets(env.cluster, env.namespace, "later") == 1
    abort(env.cluster, env.namespace, "canary")
    eventually(lambda: phase(env, "canary") == "Degraded")
    eventually(lambda: "RolloutStuck" in warnings_of(env.cluster, env.namespace, "canary", "Rollout"))
    env.let_settle(3)
    assert replica_sets(env.cluster, env.namespace, "later") == 1
    retry(env.cluster, env.namespace, "canary")
    eventually(lambda: phase(env, "canary") == "Paused")
    promote(env.cluster, env.namespace, "canary")
    eventually(lambda: live(env, "canary", 1))
    eventually(lambda: replica_sets(env.cluster, env.namespace, "later") == 2)
    env.assert_no_value_leaked()
