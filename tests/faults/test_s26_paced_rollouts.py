"""S26: a Secret has many consumers, a canary among them does not become ready, and receivers die meanwhile."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from keyturn_local.receiver.process import LocalReceiver
from support.cluster_state import annotations_of, warnings_of
from support.fault_env import FaultEnv
from support.manifests import env_from, workload
from support.rollout_watcher import RolloutWatcher
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
READY_AFTER = "keyturn.dev/ready-after"  # on a pod template: when the simulated node makes its pods ready


@contextmanager
def watched(env: FaultEnv) -> Iterator[RolloutWatcher]:
    watcher = RolloutWatcher(env.cluster, env.namespace, MARK)
    try:
        yield watcher
    finally:
        watcher.close()


def deployment(env: FaultEnv, name: str, **annotations: str) -> dict[str, Any]:
    made = workload(env.namespace, name, env_from("db"))
    made["metadata"]["annotations"] = annotations
    return made


def replica_sets(env: FaultEnv) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in env.cluster.list("replicasets", env.namespace):
        app = each["metadata"]["labels"]["app"]
        counts[app] = counts.get(app, 0) + 1
    return counts


def are_ready(env: FaultEnv, count: int) -> Callable[[], bool]:
    def ask() -> bool:
        listed = env.cluster.list("deployments", env.namespace)
        return sum(each.get("status", {}).get("availableReplicas", 0) for each in listed) == count

    return ask


def restart_receiver(env: FaultEnv, receiver: LocalReceiver) -> None:
    receiver.kill()
    env.expire_lease()
    receiver.start()


@pytest.mark.fault("S26")
@pytest.mark.long
def test_three_hundred_consumers_are_restarted_ten_at_a_time_though_the_receiver_is_killed(env: FaultEnv) -> None:
    """Of 300 consumers, never more than ten are unfinished at a time; each is restarted once, though the receiver is
    killed three times meanwhile."""
    receiver, names = env.receiver(), [f"web-{number:03}" for number in range(300)]
    env.create_bound_secret(consumers=())
    env.cluster.create(deployment(env, name) for name in names)
    eventually(are_ready(env, 300), 120)
    with watched(env) as rollouts:
        env.send_until_accepted(env.rotate("db"))
        for count in (30, 110, 200):
            eventually(lambda count=count: len(rollouts.restarted) >= count, 120)
            restart_receiver(env, receiver)
        eventually(lambda: len(rollouts.restarted) == 300 and not rollouts.unfinished, 180)
        env.let_settle(3)
        assert 2 <= rollouts.most <= 10
    assert replica_sets(env) == dict.fromkeys(names, 2)
