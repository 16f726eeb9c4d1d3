"""Kills a receiver at one of its own calls to AWS or Kubernetes."""

import threading
from collections.abc import Callable

from keyturn_local.receiver.process import LocalReceiver
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, CutAfter, Fault


class Killer:
    """Kills a receiver at one of its calls, before or after the server handles the call. The call gets no answer."""

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
        """Return the fault of a call. If the receiver is to die before this call reaches the server, kill it now. Calls
        after its death are cut."""
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
        """Kill the receiver if this is the call after which it is to die."""
        if call is self._due:
            self._kill()

    def _kill(self) -> None:
        with self._lock:
            if not self.killed.is_set():
                self._receiver.kill()
                self.killed.set()


def is_effect(call: Call) -> bool:
    """Return whether a call belongs to a reconcile. Watches, lists and calls about the Lease do not."""
    return not call.watch and "/leases" not in call.path and call.action != "ListSecrets" and "limit" not in call.query


def kind_of(call: Call) -> str:
    """Return a short name for a call: the AWS action, or the method and the resource."""
    resource = [part for part in call.path.split("/") if part.endswith("s")]
    return call.action or f"{call.method} {resource[-1]}"


def revive(env: FaultEnv, receiver: LocalReceiver) -> None:
    """Heal both proxies, delete the leader's Lease, and start a killed receiver again."""
    env.kubernetes_proxy.heal()
    env.aws_proxy.heal()
    env.expire_lease()
    receiver.start()
