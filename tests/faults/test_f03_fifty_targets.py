"""F3: the receiver dies when it has written only some of fifty Secrets.

All cases share one environment. No other environment may run in the same cluster, for the reason given in
test_f01_kill_points.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.receiver.process import LocalReceiver
from support.fault_env import FaultEnv
from support.fault_proxy import Call
from support.killer import Killer, kind_of, revive
from support.wait import eventually


@dataclass
class Targets:
    """Fifty Secrets that are bound to the same AWS secret. Two of them have a consumer."""

    env: FaultEnv
    receiver: LocalReceiver
    names: Sequence[str]

    def changes(self) -> list[int]:
        """Return, for each Secret, how many states its data has gone through, including the empty one."""
        return [len(self.env.history.data_history(name)) for name in self.names]


@pytest.fixture(scope="module")
def targets(
    control_plane: ControlPlane,
    session_aws: LocalAws,
    signing_key_id: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Targets]:
    with FaultEnv.start(control_plane, session_aws, signing_key_id, tmp_path_factory.mktemp("targets")) as env:
        made = Targets(env, env.receiver(), [f"db-{number}" for number in range(50)])
        env.create_aws_secret("db")
        for name in made.names:
            env.bind_secret(name, to="db")
        eventually(lambda: all(env.is_current(name) for name in made.names), 60)
        for name in (made.names[0], made.names[-1]):
            env.create_consumers(name, f"web-{name}")
        env.let_settle()
        assert made.changes() == [2] * len(made.names)  # empty, and the first value
        yield made


@pytest.mark.fault("F3")
@pytest.mark.parametrize("after", [7, 25, 49])
def test_receiver_killed_among_fifty_targets_writes_the_rest_once(targets: Targets, after: int) -> None:
    """Fifty Secrets are bound to one AWS secret, and the receiver is killed when 7, 25 or 49 of them are written. After
    a restart, the notification is sent again, and the receiver writes the remaining Secrets. The data of each Secret
    changes exactly once."""
    env, receiver, before = targets.env, targets.receiver, targets.changes()
    written: list[str] = []

    def due(call: Call) -> bool:
        if kind_of(call) == "PATCH secrets":
            written.append(call.path)
        return len(written) > after

    told = env.rotate("db")
    killer = Killer(env, receiver, due, after=False)
    env.send(told)
    assert killer.killed.wait(15)
    revive(env, receiver)
    assert env.send_until_accepted(told).outcome in ("applied", "unchanged")
    env.wait_converged()
    env.let_settle()
    assert targets.changes() == [count + 1 for count in before]
