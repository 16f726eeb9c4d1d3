"""S30: a value returns while workloads wait for their restart. Those with a pod that has read the value in between are
restarted, and the others keep their pods."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from keyturn_receiver.core.restart_way import RESTART
from keyturn_receiver.core.rollout_window import WINDOW
from support.cluster_state import annotations_of, replica_sets
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.wait import eventually

CLOSED = "0 3 29 2 * for 1h"
MARK = "revision.keyturn.dev/db"
UNSETTLED = "keyturn.dev/unsettled"
LONG_AGO = "2020-01-01T00:00:00Z"
RENEWED, STAYS = "renewed", "stays"  # a workload that gets a new pod in between, and one that does not


def create_waiting_workloads(env: FaultEnv, **annotations: str) -> None:
    """Create Deployments whose window is closed, and wait until their pods are older than anything that follows."""
    for name in (RENEWED, STAYS):
        made = workload(env.namespace, name, env_from("db"))
        made["metadata"]["annotations"] = {WINDOW: CLOSED, **annotations}
        env.cluster.create([made])
    for name in (RENEWED, STAYS):
        eventually(lambda name=name: MARK in annotations_of(env.cluster, "deployment", env.namespace, name))
        eventually(lambda name=name: is_ready(env, name))
        for pod in live_pods(env, name):
            age(env, pod)
    env.let_settle(1.1)  # Kubernetes tells times in whole seconds


def age(env: FaultEnv, pod: Any) -> None:
    """Make the containers of a pod old, because the kubelet's clock may differ by a minute."""
    state = {"name": "main", "state": {"running": {"startedAt": LONG_AGO}}}
    patch = json.dumps({"status": {"containerStatuses": [state]}})
    name = pod["metadata"]["name"]
    env.cluster.kubectl("patch", "pod", name, "-n", env.namespace, "--subresource=status", "-p", patch)


def live_pods(env: FaultEnv, name: str) -> list[Any]:
    listed = env.cluster.list("pods", env.namespace, f"app={name}")
    return [pod for pod in listed if not pod["metadata"].get("deletionTimestamp")]


def uids(env: FaultEnv, name: str) -> set[str]:
    return {str(pod["metadata"]["uid"]) for pod in live_pods(env, name)}


def uid(env: FaultEnv, name: str) -> str:
    """Return the UID of the only pod of a Deployment."""
    (found,) = uids(env, name)
    return found


def is_ready(env: FaultEnv, name: str) -> bool:
    return available(env, name) == 1 and len(live_pods(env, name)) == 1


def available(env: FaultEnv, name: str) -> int:
    status = env.cluster.get("deployment", name, env.namespace).get("status", {})
    return int(status.get("availableReplicas", 0))


def is_replaced(env: FaultEnv, name: str, former: str) -> bool:
    return is_ready(env, name) and former not in uids(env, name)


def renew_pod(env: FaultEnv) -> str:
    """Delete a pod, as the drain of a node does. Return the UID of the pod that replaces it."""
    env.let_settle(1.1)
    former = uid(env, RENEWED)
    env.cluster.kubectl("delete", "pod", "-l", f"app={RENEWED}", "-n", env.namespace, "--wait=false")
    eventually(lambda: is_replaced(env, RENEWED, former))
    return uid(env, RENEWED)


def open_windows(env: FaultEnv) -> None:
    env.cluster.kubectl("annotate", "deployment", "--all", "-n", env.namespace, f"{WINDOW}-")


def has_suffix(env: FaultEnv, name: str) -> bool:
    """Return whether the mark says that the pods of a workload were looked at after the value had returned."""
    return "~" in annotations_of(env.cluster, "deployment", env.namespace, name).get(MARK, "")


@pytest.mark.fault("S30")
@pytest.mark.parametrize("way", ["template", "evict"])
def test_roll_back_restarts_only_workloads_with_a_pod_of_the_time_in_between(
    make_env: Callable[..., FaultEnv], way: str
) -> None:
    """AWSCURRENT moves to a new version and back while the rollout window is closed. Meanwhile one of two workloads
    gets a new pod, and then the receiver is killed. When the window opens, the pod of that workload is replaced, and
    that of the other is not. The next rotation restarts both."""
    env = make_env(rollouts={"evict": way == "evict"})
    receiver = env.receiver()
    env.create_bound_secret(consumers=())
    create_waiting_workloads(env, **{RESTART: way})
    first, stays = env.version_id(), uid(env, STAYS)
    env.send_until_accepted(env.rotate())
    eventually(env.is_current)
    between = renew_pod(env)
    env.send_until_accepted(env.move_label(first))
    eventually(env.is_current)
    assert UNSETTLED in annotations_of(env.cluster, "secret", env.namespace, "db")
    receiver.kill()
    env.expire_lease()
    receiver.start()
    env.let_settle(2)
    assert uid(env, RENEWED) == between

    open_windows(env)
    eventually(lambda: is_replaced(env, RENEWED, between))
    eventually(lambda: has_suffix(env, STAYS))
    assert uid(env, STAYS) == stays
    assert replica_sets(env.cluster, env.namespace, STAYS) == 1
    renewed = uid(env, RENEWED)
    env.let_settle(3)
    assert uid(env, RENEWED) == renewed
    env.send_until_accepted(env.rotate())
    eventually(lambda: is_replaced(env, RENEWED, renewed) and is_replaced(env, STAYS, stays))
    assert UNSETTLED not in annotations_of(env.cluster, "secret", env.namespace, "db")
    env.assert_no_value_leaked()


@pytest.mark.fault("S30")
@pytest.mark.long
def test_roll_back_during_a_rollout_makes_a_new_template(env: FaultEnv) -> None:
    """AWSCURRENT moves to a new version and back during the rollout of a workload. Meanwhile its old pod is created
    again from the former template, so it reads the new value. The workload does not go back to the former template,
    which would keep this pod, but gets a new one."""
    env.receiver()
    env.create_bound_secret(consumers=())
    made = workload(env.namespace, RENEWED, env_from("db"))
    made["spec"]["minReadySeconds"] = 12  # so long does a rollout take
    env.cluster.create([made])
    eventually(lambda: is_ready(env, RENEWED))
    env.send_until_accepted(env.rotate())
    eventually(lambda: replica_sets(env.cluster, env.namespace, RENEWED) == 2 and is_ready(env, RENEWED))
    (old,) = live_pods(env, RENEWED)
    age(env, old)
    first = env.version_id()
    env.let_settle(1.1)
    env.send_until_accepted(env.rotate())
    eventually(lambda: len(live_pods(env, RENEWED)) == 2)
    env.let_settle(1.1)
    env.cluster.kubectl("delete", "pod", old["metadata"]["name"], "-n", env.namespace, "--wait=false")
    eventually(lambda: len(live_pods(env, RENEWED)) == 2 and old["metadata"]["uid"] not in uids(env, RENEWED))
    between = uids(env, RENEWED)
    env.send_until_accepted(env.move_label(first))
    eventually(lambda: is_ready(env, RENEWED) and not between & uids(env, RENEWED))
    assert replica_sets(env.cluster, env.namespace, RENEWED) == 4


@pytest.mark.fault("S30")
def test_value_of_a_watched_secret_returns(env: FaultEnv) -> None:
    """Another controller changes a watched Secret and changes it back while the rollout window is closed. Meanwhile one
    of two workloads gets a new pod. When the window opens, only that workload is restarted."""
    env.receiver()
    metadata = {"namespace": env.namespace, "name": "db", "labels": {"keyturn.dev/watch": "true"}}
    env.cluster.create([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"a": "one"}}])
    create_waiting_workloads(env)

    def write(value: str) -> None:
        kept = annotations_of(env.cluster, "secret", env.namespace, "db")
        patch = json.dumps({"stringData": {"a": value}})
        env.cluster.kubectl("patch", "secret", "db", "-n", env.namespace, "--type=merge", "-p", patch)
        eventually(lambda: annotations_of(env.cluster, "secret", env.namespace, "db") != kept)

    write("two")
    between = renew_pod(env)
    write("one")
    env.let_settle(2)
    assert uid(env, RENEWED) == between
    open_windows(env)
    eventually(lambda: replica_sets(env.cluster, env.namespace, RENEWED) == 2)
    eventually(lambda: has_suffix(env, STAYS))
    assert replica_sets(env.cluster, env.namespace, STAYS) == 1
    env.let_settle(3)
    assert [replica_sets(env.cluster, env.namespace, name) for name in (RENEWED, STAYS)] == [2, 1]
