"""S17: a consumer is created while no watch shows it. It is restarted if its pods have read an older value."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.cluster_state import annotations_of, replica_sets
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, Edit, Fault
from support.manifests import env_from, secret, workload
from support.wait import eventually

BLIND_SECONDS = 20
MARK = "revision.keyturn.dev/db"
READS_VALUE: dict[str, Any] = {
    "container": {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": "value"}}}]}
}


def cut(call: Call) -> Fault:
    return Cut() if call.method == "GET" and call.path.endswith("/deployments") else None


def silence(call: Call) -> Fault:
    return Edit(lambda line: None) if call.watch and call.path.endswith("/deployments") else None


def blind(env: FaultEnv, fault: Callable[[Call], Fault] = cut) -> float:
    """Make the receivers blind to Deployments. Return the monotonic time once they are blind."""
    env.kubernetes_proxy.fault_for = fault
    before = len(env.kubernetes_proxy.calls)
    eventually(lambda: [call for call in env.kubernetes_proxy.calls[before:] if call.watch and fault(call)])
    env.let_settle(3)  # by then, a watch that was already open has ended, because watches last 2 s
    return time.monotonic()


def restarts(env: FaultEnv, *consumers: str) -> list[int]:
    return [replica_sets(env.cluster, env.namespace, consumer) - 1 for consumer in consumers]


def is_marked(env: FaultEnv, consumer: str, kind: str = "deployment") -> bool:
    return MARK in annotations_of(env.cluster, kind, env.namespace, consumer) or is_restarted(env, consumer, kind)


def is_restarted(env: FaultEnv, consumer: str, kind: str) -> bool:
    template = env.cluster.get(kind, consumer, env.namespace)["spec"]["template"]
    return MARK in template["metadata"].get("annotations", {})


@pytest.mark.fault("S17")
@pytest.mark.long
@pytest.mark.parametrize("fault", [cut, silence])
def test_consumer_created_while_the_watch_is_blind_is_restarted_once(
    env: FaultEnv, fault: Callable[[Call], Fault]
) -> None:
    """The watch of Deployments is cut, or delivers nothing, for 20 s. Meanwhile a consumer is created, and its secret
    rotates, possibly in the same second. Once the watch works, the consumer is restarted exactly once. A consumer that
    was created after the rotation is not restarted."""
    env.receiver(KEYTURN_WATCH_SECONDS="2", KEYTURN_RESYNC_SECONDS="3600")
    env.create_bound_secret(consumers=("seen",))
    since = blind(env, fault)
    env.create_consumers("db", "unseen", seen=False)
    assert env.send(env.rotate()).status == 200
    eventually(env.is_current)
    env.let_settle(1.1)
    env.create_consumers("db", "later", seen=False)
    assert restarts(env, "seen", "unseen", "later") == [1, 0, 0]
    env.let_settle(max(0.0, since + BLIND_SECONDS - time.monotonic()))
    env.kubernetes_proxy.heal()
    env.wait_converged(60)
    assert restarts(env, "seen", "unseen", "later") == [1, 1, 0]
    assert env.send(env.rotate()).status == 200
    env.wait_converged()
    assert restarts(env, "seen", "unseen", "later") == [2, 2, 1]


@pytest.mark.fault("S17")
def test_replica_that_starts_restarts_a_consumer_that_no_replica_has_seen(env: FaultEnv) -> None:
    """A replica that is blind to Deployments carries a rotation and is killed. The replica that starts in its place
    is the first to see a consumer that was created before the rotation, and restarts it exactly once."""
    env.receiver(KEYTURN_WATCH_SECONDS="2")
    env.create_bound_secret(consumers=())
    blind(env)
    env.create_consumers("db", "unseen", seen=False)
    assert env.send(env.rotate()).status == 200
    eventually(env.is_current)
    env.receivers[0].kill()
    env.kubernetes_proxy.heal()
    env.receiver()
    env.wait_converged()
    env.let_settle()
    assert restarts(env, "unseen") == [1]


@pytest.mark.fault("S17")
def test_every_kind_of_workload_is_decided_by_the_ages_of_its_pods(env: FaultEnv) -> None:
    """StatefulSets and DaemonSets that no replica has seen are restarted, too, and a workload whose pods have been
    replaced since the rotation is not."""
    env.receiver()
    env.create_bound_secret(consumers=())
    env.receivers[0].stop()
    kinds = {"Deployment": "fresh", "StatefulSet": "set", "DaemonSet": "agents"}
    made = [workload(env.namespace, name, env_from("db"), kind) for kind, name in kinds.items()]
    env.cluster.create(made)
    for name in kinds.values():
        eventually(lambda name=name: env.cluster.list("pods", env.namespace, f"app={name}"))
    env.receiver(KEYTURN_ROLLOUTS="false")  # applies the rotation, and sees no workload
    assert env.send_until_accepted(env.rotate()).status == 200
    eventually(env.is_current)
    env.receivers[1].stop()
    env.let_settle(1.1)
    env.cluster.kubectl("delete", "pods", "-n", env.namespace, "-l", "app=fresh", "--force", "--grace-period=0")
    eventually(lambda: env.cluster.list("pods", env.namespace, "app=fresh"))
    env.receiver()
    for kind, name in kinds.items():
        eventually(lambda kind=kind, name=name: is_marked(env, name, kind.lower()))
    restarted = {name: is_restarted(env, name, kind.lower()) for kind, name in kinds.items()}
    assert restarted == {"fresh": False, "set": True, "agents": True}
    env.wait_converged()


@pytest.mark.fault("S17")
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_workload_that_is_created_again_over_its_old_pods_is_restarted(env: FaultEnv, seen: bool) -> None:
    """A StatefulSet waits for its rollout window after a rotation. Somebody deletes it without its pods, and creates it
    again, as is usual after a change of `volumeClaimTemplates`. It adopts the pods, which are older than the value. So
    it is restarted, also if no receiver runs at that time."""
    env.receiver()
    env.create_bound_secret(consumers=())
    made = workload(env.namespace, "web", env_from("db"), "StatefulSet")
    made["metadata"]["annotations"] = {"keyturn.dev/rollout-window": "0 3 29 2 * for 1h"}
    env.cluster.create([made])
    (old,) = eventually(lambda: env.cluster.list("pods", env.namespace, "app=web"))
    eventually(lambda: is_marked(env, "web", "statefulset"))
    env.let_settle(1.1)
    assert env.send(env.rotate()).status == 200
    env.let_settle(1.1)
    if not seen:
        env.receivers[0].stop()
    env.cluster.kubectl("delete", "statefulset", "web", "-n", env.namespace, "--cascade=orphan")
    made["metadata"]["annotations"] = {}
    env.cluster.create([made])
    (kept,) = env.cluster.list("pods", env.namespace, "app=web")
    assert kept["metadata"]["uid"] == old["metadata"]["uid"]
    if not seen:
        env.receiver()
    eventually(lambda: is_restarted(env, "web", "statefulset"))
    env.wait_converged()


@pytest.mark.fault("S17")
def test_first_installation_in_any_order_restarts_nobody(env: FaultEnv) -> None:
    """A Deployment that needs a key is created before its Secret, together with the Secret, or after the Secret is
    filled. The Deployment is not restarted."""
    env.receiver()
    env.create_aws_secret("db")
    bound = secret(env.namespace, "db", f"{env.namespace}/db")
    env.cluster.create([workload(env.namespace, "before", dict(READS_VALUE))])
    env.let_settle(2)
    env.cluster.create([bound, workload(env.namespace, "with", dict(READS_VALUE))])
    eventually(lambda: is_marked(env, "before") and is_marked(env, "with"))
    env.cluster.create([workload(env.namespace, name, pod) for name, pod in LATER.items()])
    for name in LATER:
        eventually(lambda name=name: is_marked(env, name))
    env.let_settle(3)
    assert restarts(env, "before", "with", *LATER) == [0] * (2 + len(LATER))
    env.assert_no_value_leaked()


LATER = {"after": dict(READS_VALUE), "after-all-keys": env_from("db")}


@pytest.mark.fault("S17")
def test_consumer_that_lost_its_marks_is_restarted_only_if_its_pods_are_behind(env: FaultEnv) -> None:
    """Somebody removes Keyturn's annotations, or turns rollouts off and on again. Pods that have the current value are
    left alone; pods that are older than the last rotation are restarted."""
    env.receiver()
    env.create_bound_secret(consumers=("current", "off"))
    deployment = ("deployment/off", "-n", env.namespace)
    env.cluster.kubectl("annotate", *deployment, "keyturn.dev/rollout=disabled", f"{MARK}-")
    env.let_settle(1.1)
    assert env.send(env.rotate()).status == 200
    eventually(lambda: restarts(env, "current", "off") == [1, 0])
    env.let_settle(1.1)
    for name in ("current", "off"):
        patch = json.dumps({"metadata": {"annotations": {MARK: None}}})
        env.cluster.kubectl("patch", "deployment", name, "-n", env.namespace, "--type=merge", "-p", patch)
    env.cluster.kubectl("annotate", *deployment, "keyturn.dev/rollout-")
    eventually(lambda: restarts(env, "current", "off") == [1, 1])
    env.let_settle(3)
    assert restarts(env, "current", "off") == [1, 1]
    env.wait_converged()
