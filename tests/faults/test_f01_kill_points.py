"""F1: the receiver dies at each of its side effects.

These tests kill one receiver again and again. They have a file of their own because that receiver would also serve the
Secrets of any other environment in the same cluster.
"""

from collections.abc import Iterator

import pytest

from keyturn_local.aws.server import LocalAws
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.fault_env import FaultEnv
from support.fault_proxy import Call
from support.killer import Killer, is_effect, kind_of, revive
from support.wait import eventually

# The kinds of calls that one rotation makes. The tests kill the receiver twice at each of these calls: once before the
# call reaches the server, and once after the server has answered it.
EFFECTS = ("GetSecretValue", "PATCH secrets", "PATCH deployments", "POST events")


class Victim:
    """An environment with one bound Secret, its consumer, and a receiver that is killed again and again."""

    def __init__(self, env: FaultEnv) -> None:
        self.env = env
        self.receiver = env.receiver()  # the only replica, so it leads and sweeps after each restart
        env.create_bound_secret()

    def revive(self) -> None:
        """Start the killed receiver again, and wait until the cluster has converged."""
        revive(self.env, self.receiver)
        self.env.wait_converged()


@pytest.fixture(scope="module")
def shared_victim(
    control_plane: ControlPlane,
    session_aws: LocalAws,
    signing_key_id: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Victim]:
    with FaultEnv.start(control_plane, session_aws, signing_key_id, tmp_path_factory.mktemp("victim")) as env:
        yield Victim(env)


@pytest.fixture
def victim(shared_victim: Victim) -> Victim:
    """The victim with a running receiver, even if the previous test left the receiver dead."""
    shared_victim.env.kubernetes_proxy.heal()
    shared_victim.env.aws_proxy.heal()
    if not shared_victim.receiver.running:
        shared_victim.revive()
    return shared_victim


@pytest.mark.fault("F1")
def test_effects_of_one_rotation_are_the_kill_points(victim: Victim) -> None:
    """One rotation makes exactly the kinds of calls at which the receiver is killed."""
    assert {kind_of(call) for call in effects_of_one_rotation(victim.env)} == set(EFFECTS)


@pytest.mark.long
@pytest.mark.fault("F1")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("effect", EFFECTS)
def test_receiver_killed_at_a_side_effect_converges_after_its_restart(victim: Victim, effect: str, after: bool) -> None:
    """The receiver is killed with SIGKILL before or after it reads the value from AWS, writes the Secret, writes the
    Deployment, or posts an Event. After a restart it converges, although the notification is not sent again."""
    first = [True]

    def due(call: Call) -> bool:
        return kind_of(call) == effect and bool(first) and first.pop()

    killer = Killer(victim.env, victim.receiver, due, after)
    victim.env.send(victim.env.rotate(text=f"{effect}-{after}"))
    assert killer.killed.wait(10), f"{effect} did not come"
    victim.revive()


@pytest.mark.fault("F1")
def test_receiver_killed_after_its_answer_converges_after_its_restart(victim: Victim) -> None:
    """The receiver is killed with SIGKILL right after it has answered a delivery. After a restart it converges,
    although the notification is not sent again."""
    assert victim.env.send(victim.env.rotate(text="answered")).outcome == "applied"
    victim.receiver.kill()
    victim.revive()


def effects_of_one_rotation(env: FaultEnv) -> list[Call]:
    """Rotate once, and return one call of each kind. Reads of a Secret are left out, because the receiver makes them
    only if its watch lags behind."""
    before = len(env.kubernetes_proxy.calls), len(env.aws_proxy.calls)
    assert env.send(env.rotate()).outcome == "applied"
    eventually(lambda: any(kind_of(call) == "POST events" for call in env.kubernetes_proxy.calls[before[0] :]))
    calls = env.aws_proxy.calls[before[1] :] + env.kubernetes_proxy.calls[before[0] :]
    return list({kind_of(call): call for call in calls if is_effect(call) and call.method != "GET"}.values())
