"""F1 to F3: the receiver dies between any two of its side effects."""

import threading
from collections.abc import Callable

import pytest

from keyturn_local.receiver.process import LocalReceiver
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, CutAfter, Fault
from support.wait import eventually


class Killer:
    """Kills a receiver at one of its calls: before the server behind is asked, or after, unanswered either way."""

    def __init__(self, env: FaultEnv, receiver: LocalReceiver, is_due: Callable[[Call], bool], after: bool) -> None:
        self._receiver = receiver
        self._is_due = is_due
        self._after = after
        self._lock = threading.Lock()
        self._due: Call | None = None
        self.killed = threading.Event()
        for proxy in (env.kubernetes_proxy, env.aws_proxy):
            proxy.fault_for = self.fault_for
            proxy.on_answered = self.on_answered

    def fault_for(self, call: Call) -> Fault:
        """The fault of a call; calls after the kill are cut."""
        if self.killed.is_set():
            return Cut()
        if not is_effect(call) or not self._is_due(call):
            return None
        if self._after:
            self._due = call
            return CutAfter()
        self._kill()
        return Cut()

    def on_answered(self, call: Call, status: int) -> None:
        """End it, now that the server behind has done what was asked."""
        if call is self._due:
            self._kill()

    def _kill(self) -> None:
        with self._lock:
            if not self.killed.is_set():
                self._receiver.kill()
                self.killed.set()


def is_effect(call: Call) -> bool:
    """Whether a call belongs to a reconcile: not the Lease's, nor one that watches or lists."""
    return not call.watch and "/leases" not in call.path and call.action != "ListSecrets" and "limit" not in call.query


def kind_of(call: Call) -> str:
    """A call in a word."""
    resource = [part for part in call.path.split("/") if part.endswith("s")]
    return call.action or f"{call.method} {resource[-1]}"


def revive(env: FaultEnv, receiver: LocalReceiver) -> None:
    """Start a killed receiver again, on a cluster and an AWS that work."""
    env.kubernetes_proxy.heal()
    env.aws_proxy.heal()
    env.expire_lease()
    receiver.start()


@pytest.mark.fault("F1")
def test_killed_at_each_side_effect(env: FaultEnv) -> None:
    """Killed with -9 before and after each of its calls to AWS and Kubernetes, and after it has answered: restarted,
    it converges, without the notification."""
    receiver = env.receiver()  # what polls is the one that is started again, once
    env.create_bound_secret()
    effects = [kind_of(call) for call in effects_of_one_rotation(env, receiver)]
    assert {"GetSecretValue", "PATCH secrets", "PATCH deployments", "POST events"} <= set(effects)

    killed_at = []
    for effect in effects:
        for after in (False, True):
            first = [True]

            def due(call: Call, effect: str = effect, first: list[bool] = first) -> bool:
                return kind_of(call) == effect and bool(first) and first.pop()

            killer = Killer(env, receiver, due, after)
            env.send(env.rotate(text=f"{effect}-{after}"))
            assert killer.killed.wait(10), f"{effect} did not come"
            killed_at.append((effect, after))
            revive(env, receiver)
            env.wait_converged()
    assert len(killed_at) == 2 * len(effects)

    assert env.send(env.rotate(text="answered")).outcome == "applied"
    receiver.kill()
    revive(env, receiver)
    env.wait_converged()


def effects_of_one_rotation(env: FaultEnv, receiver: LocalReceiver) -> list[Call]:
    """The calls that one rotation makes, in their order, each kind once; but for reads of a Secret, which come only
    where the watch lags."""
    before = len(env.kubernetes_proxy.calls), len(env.aws_proxy.calls)
    assert env.send(env.rotate()).outcome == "applied"
    eventually(lambda: any(kind_of(call) == "POST events" for call in env.kubernetes_proxy.calls[before[0] :]))
    calls = env.aws_proxy.calls[before[1] :] + env.kubernetes_proxy.calls[before[0] :]
    return list({kind_of(call): call for call in calls if is_effect(call) and call.method != "GET"}.values())


@pytest.mark.fault("F2")
def test_killed_between_the_secret_and_its_rollouts(env: FaultEnv) -> None:
    """Killed between the Secret and its rollouts: all three consumers are restarted afterwards, once."""
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


@pytest.mark.fault("F3")
@pytest.mark.parametrize("after", [7, 25, 49])
def test_killed_with_some_of_fifty_targets_done(env: FaultEnv, after: int) -> None:
    """Fifty Secrets bound to one AWS secret, killed with 7, 25, 49 of them written: the rest is, and nothing twice."""
    receiver = env.receiver()
    env.create_aws_secret("db")
    names = [f"db-{number}" for number in range(50)]
    for name in names:
        env.bind_secret(name, to="db")
    eventually(lambda: all(env.is_current(name) for name in names), 60)
    for name in (names[0], names[-1]):
        env.create_consumers(name, f"web-{name}")
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
    for name in names:
        assert len(env.history.data_history(name)) == 3, name  # empty, the first value, the next
