"""S29: several Secrets of one workload change together. The workload is restarted as few times as possible."""

import time

import pytest

from support.cluster_state import replica_sets
from support.fault_env import FaultEnv
from support.manifests import workload
from support.wait import eventually


def create_reader(env: FaultEnv, *names: str) -> None:
    """Create a Deployment that reads the Secrets of these names, and wait until its pods are ready and its baselines
    are written."""
    sources = [{"secretRef": {"name": name}} for name in names]
    env.create_objects(workload(env.namespace, "web", {"container": {"envFrom": sources}}))
    env.cluster.kubectl("rollout", "status", "deployment/web", "-n", env.namespace, "--timeout=120s")
    eventually(lambda: all(env.history.baseline("web", name) for name in names))


def has_all(env: FaultEnv, *names: str) -> bool:
    return all(env.has_latest("web", name) for name in names)


@pytest.mark.fault("S29")
@pytest.mark.parametrize("replicas", [1, 2])
def test_secrets_of_one_aws_secret_restart_their_reader_once(env: FaultEnv, replicas: int) -> None:
    """Three Secrets are bound to the same AWS secret, and one Deployment reads all of them. Each of three rotations
    makes one new ReplicaSet."""
    receivers = [env.receiver() for _ in range(replicas)]
    env.create_bound_secret(consumers=())
    env.bind_secret("db-1", "db")
    env.bind_secret("db-2", "db")
    names = ("db", "db-1", "db-2")
    eventually(lambda: all(env.is_current(name) for name in names))
    create_reader(env, *names)
    assert replica_sets(env.cluster, env.namespace, "web") == 1
    for number in range(1, 4):
        told = env.rotate()
        assert env.send(told, to=receivers[number % replicas]).status == 200
        eventually(lambda: has_all(env, *names))
        env.cluster.kubectl("rollout", "status", "deployment/web", "-n", env.namespace, "--timeout=120s")
        env.let_settle(3)
        assert replica_sets(env.cluster, env.namespace, "web") == 1 + number
    env.assert_no_value_leaked()


@pytest.mark.fault("S29")
def test_twenty_secrets_that_change_within_two_seconds_restart_their_reader_once(env: FaultEnv) -> None:
    """A Deployment reads twenty Secrets, each made from an AWS secret of its own. All rotate, one after the other. The
    receiver is killed while the restart waits. The next receiver restarts the Deployment once."""
    first = env.receiver()
    names = [f"db-{number}" for number in range(20)]
    for name in names:
        env.create_bound_secret(name, consumers=())
    create_reader(env, *names)
    begun = time.monotonic()
    for name in names:
        assert env.send(env.rotate(name)).status == 200
    seconds = time.monotonic() - begun
    first.kill()
    env.receiver()
    eventually(lambda: has_all(env, *names), seconds=60)
    env.cluster.kubectl("rollout", "status", "deployment/web", "-n", env.namespace, "--timeout=120s")
    env.let_settle(3)
    # A restart waits for ten seconds at most. If the rotations take long on a slow machine, the test allows one more
    # restart for every eight seconds.
    assert 2 <= replica_sets(env.cluster, env.namespace, "web") <= 2 + seconds // 8
    env.assert_no_value_leaked()
