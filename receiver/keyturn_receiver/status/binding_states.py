"""Index of the bindings with trouble. Each change of a binding updates the index. So a request for the page need not
look at all bindings."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.revision import HALTED, OK, REVERTED
from keyturn_receiver.errors import Temporary
from keyturn_receiver.reconcile.request import ReconcileResult, Request
from keyturn_receiver.status.fault_barrier import FaultBarrier

MAX_TEXT = 600  # characters of a status that are shown


class BindingState(StrEnum):
    """The state of a binding. ``FAILING``, ``HALTED`` and ``REVERTED`` usually end only after a person has acted.
    ``RETRYING`` and ``NEW`` usually end without that."""

    OK = "ok"
    FAILING = "failing"  # the status of the Secret names an error
    HALTED = "halted"  # a failed rollout halts the others
    REVERTED = "reverted"  # another writer reverts the restart of a workload
    RETRYING = "retrying"  # this replica tries again after an error
    NEW = "new"  # the Secret has no status yet


NEEDING_SOMEBODY = (BindingState.FAILING, BindingState.HALTED, BindingState.REVERTED)
_OF_ROLLOUTS = {HALTED: BindingState.HALTED, REVERTED: BindingState.REVERTED}


@dataclass(frozen=True, slots=True)
class Trouble:
    """The trouble of one binding: an error, a halted rollout, a restart that another writer reverts, or a missing
    status. ``since`` is the time at which this replica first saw the trouble, in seconds since 1970."""

    target: Target
    state: BindingState
    reason: str
    text: str
    since: float

    @property
    def needs_somebody(self) -> bool:
        """Whether a person usually has to change something to end the trouble."""
        return self.state in NEEDING_SOMEBODY


class BindingStates:
    """Index of the bindings with trouble. ``wall`` returns the time in seconds since 1970."""

    def __init__(self, secrets: SecretCache, wall: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._wall = wall
        self._told: dict[Target, Trouble] = {}  # troubles that the statuses of Secrets show
        self._retried: dict[Target, Trouble] = {}  # troubles from errors after which this replica tries again
        self._troubled: Counter[BindingState] = Counter()  # the number of bindings in each state except OK
        self._handlers: list[Callable[[], None]] = []
        self._barrier = FaultBarrier()
        self._size = 0

    def add_handler(self, on_change: Callable[[], None]) -> None:
        """Register ``on_change``, which is called after each change of the index."""
        self._handlers.append(on_change)

    def of(self, target: Target) -> Trouble | None:
        """Return the trouble of a binding, or None if it has no trouble."""
        told = self._told.get(target)
        return told if told and told.needs_somebody else self._retried.get(target) or told

    def needing_somebody(self) -> Iterator[Trouble]:
        """Yield the troubles that need a person, newest first."""
        return (each for each in reversed(self._told.values()) if each.needs_somebody)

    def counts(self) -> Counter[BindingState]:
        """Return the number of bindings in each state."""
        counts = Counter(self._troubled)
        counts[BindingState.OK] = len(self._secrets) - counts.total()
        return counts

    def state(self, target: Target) -> BindingState:
        """Return the state of a binding."""
        trouble = self.of(target)
        return trouble.state if trouble else BindingState.OK

    def on_secret(self, target: Target) -> None:
        """Update the index for a Secret that was added, changed or removed."""
        bound, size, before = self._secrets.get(target), len(self._secrets), self.of(target)
        changed = self._look(target, bound.status) if bound else self._forget(target)
        self._count(before, self.of(target))
        if changed or size != self._size:
            self._size = size
            self._changed()

    def _forget(self, target: Target) -> bool:
        told, retried = self._told.pop(target, None), self._retried.pop(target, None)
        return bool(told or retried)

    def _look(self, target: Target, status: str) -> bool:
        reason, _, text = status.partition(":")
        if status == OK:
            return self._told.pop(target, None) is not None
        known = self._told.get(target)
        text = printable(text.strip())[:MAX_TEXT]
        state = _OF_ROLLOUTS.get(reason, BindingState.FAILING) if status else BindingState.NEW
        if known and (known.state, known.reason, known.text) == (state, reason, text):
            return False
        since = known.since if known and known.reason == reason else self._wall()
        self._told.pop(target, None)  # the newest trouble comes last
        self._told[target] = Trouble(target, state, printable(reason)[:MAX_TEXT], text, since)
        return True

    def recorded(
        self, reconcile: Callable[[Target, Request], Awaitable[ReconcileResult]]
    ) -> Callable[[Target, Request], Awaitable[ReconcileResult]]:
        """Decorate a reconcile function, so that the index also has the errors after which this replica tries again."""

        async def run(target: Target, request: Request) -> ReconcileResult:
            result = await reconcile(target, request)
            self._barrier.call(self._keep, target, result)
            return result

        return run

    def _keep(self, target: Target, result: ReconcileResult) -> None:
        error, before = result.error, self.of(target)
        if isinstance(error, Temporary) and self._secrets.get(target):
            known = self._retried.get(target)
            since = known.since if known else self._wall()
            text = printable(str(error))[:MAX_TEXT]
            self._retried[target] = Trouble(target, BindingState.RETRYING, error.reason, text, since)
        elif not self._retried.pop(target, None):
            return
        self._count(before, self.of(target))
        self._changed()

    def _count(self, before: Trouble | None, after: Trouble | None) -> None:
        """Count a binding whose trouble has changed. To count 10,000 bindings for each snapshot would take the event
        loop 16 ms."""
        if before:
            self._troubled[before.state] -= 1
        if after:
            self._troubled[after.state] += 1

    def _changed(self) -> None:
        for on_change in self._handlers:
            on_change()
