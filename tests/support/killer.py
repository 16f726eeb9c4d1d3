"""Kill points: a receiver is killed at one of its own calls to AWS or Kubernetes."""

import threading
from collections.abc import Callable

from keyturn_local.receiver.process import LocalReceiver
from support.fault_env import FaultEnv
from support.fault_proxy import Call, Cut, CutAfter, Fault


class Killer:
    """Kills a receiver at one of its calls, before or after the server handles it; the call gets no answer."""

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
        """Return the fault of a call, and kill the receiver if this is the call to die at. Later calls are cut."""
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
        """Kill the receiver once the server has handled the call."""
        if call is self._due:
            self._kill()

    def _kill(self) -> None:
        with self._lock:
            if not self.killed.is_set():
                self._receiver.kill()
                self.killed.set()


def is_effect(call: Call) -> bool:
    """Return whether a call belongs to a reconcile. Calls for the Lease, watches and lists do not."""
    return not call.watch and "/leases" not in call.path and call.action != "ListSecrets" and "limit" not in call.query


def kind_of(call: Call) -> str:
    """Return a short name for a call: its AWS action, or its method and resource."""
    resource = [part for part in call.path.split("/") if part.endswith("s")]
    return call.action or f"{call.method} {resource[-1]}"


def revive(env: FaultEnv, receiver: LocalReceiver) -> None:
    """Start a killed receiver again, with both proxies healed and the poller's Lease deleted."""
    env.kubernetes_proxy.heal()
    env.aws_proxy.heal()
    env.expire_lease()
    receiver.start()
