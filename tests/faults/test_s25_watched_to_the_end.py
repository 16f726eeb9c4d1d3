"""S25: a rollout gets stuck, or the leader is killed during a rollout. The end of the rollout is told once."""

import json
import os
import signal

import pytest

from support.cluster_state import list_events
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.wait import eventually

NOWHERE = {"no-node": "has-this"}


def told(env: FaultEnv, reason: str, kind: str = "Deployment", name: str = "web") -> list[str]:
    listed = list_events(env.cluster, env.namespace, kind, name, reason=reason)
    return [event["message"] for event in listed]


def patch(env: FaultEnv, spec: object) -> None:
    env.cluster.kubectl(
        "patch", "deployment", "web", "-n", env.namespace, "--type=merge", "-p", json.dumps({"spec": spec})
    )


def create_consumer(env: FaultEnv) -> None:
    """Create a consumer, and wait until it has its baseline. Then pause it, and change its template so that its next
    pods find no node."""
    env.create_bound_secret(consumers=())
    made = workload(env.namespace, "web", env_from("db"))
    made["spec"] |= {"progressDeadlineSeconds": 600, "replicas": 2}
    env.create_objects(made)
    env.cluster.kubectl("rollout", "status", "deployment/web", "-n", env.namespace, "--timeout=120s")
    eventually(lambda: env.history.baseline("web", "db"))
    patch(env, {"paused": True})
    patch(env, {"template": {"spec": {"nodeSelector": NOWHERE}}})


def pid_of_leader(env: FaultEnv) -> int:
    lease = env.cluster.get("lease", "keyturn-poller", env.receiver_namespace)
    return int(str(lease["spec"].get("holderIdentity") or "-0").rpartition("-")[2])


@pytest.mark.fault("S25")
@pytest.mark.parametrize("replicas", [1, 2])
def test_leader_is_killed_between_the_mark_and_the_end(env: FaultEnv, replicas: int) -> None:
    """The leader is killed with SIGKILL after it has marked a consumer, and before the consumer's pods are ready.
    Another replica, or the next process, tells of the end of the rollout. The end is told once, even if a leader is
    killed again after that."""
    running = [env.receiver() for _ in range(replicas)]
    create_consumer(env)
    eventually(lambda: pid_of_leader(env))
    assert env.send(env.rotate()).status == 200
    eventually(lambda: env.has_latest("web"))
    os.kill(pid_of_leader(env), signal.SIGKILL)
    eventually(lambda: any(not each.running for each in running))
    patch(env, {"paused": False, "template": {"spec": {"nodeSelector": None}}})
    env.cluster.kubectl("rollout", "status", "deployment/web", "-n", env.namespace, "--timeout=120s")
    if replicas == 1:
        running = [env.receiver()]
    env.expire_lease()
    (message,) = eventually(lambda: told(env, "Live"), seconds=90)
    assert "all 2 pods run version " in message
    assert eventually(lambda: told(env, "Live", "Secret", "db"))
    (alive,) = (each for each in running if each.running)
    eventually(lambda: alive.metric("keyturn_live_seconds_count", kind="Deployment") == 1)

    alive.kill()
    again = env.receiver()
    env.expire_lease()
    eventually(lambda: again.metric("keyturn_poller_leader") == 1, seconds=90)
    env.let_settle(5)
    assert told(env, "Live") == [message]
    assert len(told(env, "Live", "Secret", "db")) == 1
    assert again.metric("keyturn_live_seconds_count", kind="Deployment") == 0
    env.assert_no_value_leaked()


@pytest.mark.fault("S25")
def test_stuck_rollout_is_told_once_across_leaders_and_ends_live(env: FaultEnv) -> None:
    """A rollout exceeds its deadline, because its pods find no node. One Warning tells why, and a change of leader adds
    no second one. When the rollout is mended, its end is told, and the metric of stuck rollouts falls to 0."""
    first = env.receiver()
    create_consumer(env)
    patch(env, {"progressDeadlineSeconds": 2})
    assert env.send(env.rotate()).status == 200
    eventually(lambda: env.has_latest("web"))
    patch(env, {"paused": False})
    (message,) = eventually(lambda: told(env, "RolloutStuck"), seconds=60)
    assert "(ProgressDeadlineExceeded; pod web-" in message
    assert "Unschedulable" in message
    eventually(lambda: told(env, "RolloutStuck", "Secret", "db"))
    first.kill()
    second = env.receiver()
    env.expire_lease()
    eventually(lambda: second.metric("keyturn_rollouts_stuck") == 1, seconds=90)
    env.let_settle(5)
    assert told(env, "RolloutStuck") == [message]
    assert not told(env, "Live")
    patch(env, {"template": {"spec": {"nodeSelector": None}}})
    (live,) = eventually(lambda: told(env, "Live"), seconds=60)
    assert "all 2 pods run version " in live
    eventually(lambda: second.metric("keyturn_rollouts_stuck") == 0)
    assert env.has_latest("web")
