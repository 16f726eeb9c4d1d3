"""F2: the receiver dies after it has written a Secret and before it has restarted the Secret's consumers."""

import pytest

from support.fault_env import FaultEnv
from support.killer import Killer, kind_of, revive


@pytest.mark.fault("F2")
def test_receiver_killed_before_the_rollouts_restarts_all_consumers_once(env: FaultEnv) -> None:
    """The receiver is killed after it has written a Secret, but before it has restarted the three consumers. Once the
    receiver runs again, it restarts each consumer exactly once."""
    receiver = env.receiver()
    env.create_bound_secret(consumers=("web", "worker", "batch"))
    killer = Killer(env, receiver, lambda call: kind_of(call) == "PATCH deployments", after=False)
    env.send(env.rotate())
    assert killer.killed.wait(10)
    assert env.is_current()
    assert not any(any(env.history.marks(each, "db")) for each in ("web", "worker", "batch"))
    revive(env, receiver)
    env.wait_converged()
    env.let_settle()
    assert [len([m for m in env.history.marks(each, "db") if m]) for each in ("web", "worker", "batch")] == [1, 1, 1]
