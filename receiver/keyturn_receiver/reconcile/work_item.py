"""The state that the work queue keeps for one binding."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.reconcile.fight_backoff import FightBackoff
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request


class Phase(StrEnum):
    """The phase of a binding in the work queue."""

    IDLE = "idle"  # no request is open
    QUEUED = "queued"  # waits for a slot
    RUNNING = "running"
    BACKING_OFF = "backing off"  # the reconcile failed with a transient error, and a timer will queue it again
    FAILED = "failed"  # the reconcile failed with a permanent error, and only a new request queues it again


@dataclass(slots=True)
class Turn:
    """A requested reconcile that waits or runs. ``request`` is what it has to serve. ``result`` is the future of its
    result. ``asked_at`` is the time of the request, in monotonic seconds."""

    request: Request
    result: "asyncio.Future[ReconcileResult]"
    asked_at: float


@dataclass(slots=True)
class WorkItem:
    """The state of one binding.

    ``turn`` is the run that waits (QUEUED) or runs (RUNNING). ``rerun`` is the run that was requested while another one
    was RUNNING. ``retry`` is the request that the next attempt will serve (BACKING_OFF). ``unmet_since`` is the time of
    the oldest unmet request that a retry can still meet. If no retry can help until the Secret changes,
    ``terminal_version`` is the resource version of the Secret. Otherwise it is empty. ``check_timer`` starts a drift
    check. ``fight`` counts the repairs of a Secret that another writer keeps reverting. ``was_held_up`` is true if the
    run had to wait because its namespace had taken its full share of the slots. All times are monotonic seconds.
    """

    group: Hashable
    phase: Phase = field(default=Phase.IDLE, init=False)
    turn: Turn | None = field(default=None, init=False)
    rerun: Turn | None = field(default=None, init=False)
    priority: Cause = field(default=Cause.POLL, init=False)  # the priority with which the run took its slot
    task: "asyncio.Task[None] | None" = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    was_held_up: bool = field(default=False, init=False)
    settled_at: float = field(default=0.0, init=False)  # until this time, the caches may not show our own writes yet
    retry: Request | None = field(default=None, init=False)
    retry_timer: asyncio.TimerHandle | None = field(default=None, init=False)
    attempts: int = field(default=0, init=False)  # consecutive attempts that failed with a transient error
    failing: bool = field(default=False, init=False)
    unmet_since: float | None = field(default=None, init=False)
    terminal_version: str = field(default="", init=False)
    check_timer: asyncio.TimerHandle | None = field(default=None, init=False)
    fight: FightBackoff = field(default_factory=FightBackoff, init=False)

    def cancel_retry(self) -> Request | None:
        """Cancel the next attempt, and return the request that it would have served."""
        if self.retry_timer:
            self.retry_timer.cancel()
        retry, self.retry, self.retry_timer = self.retry, None, None
        return retry

    def cancel_check(self) -> None:
        """Cancel the pending drift check."""
        if self.check_timer:
            self.check_timer.cancel()
            self.check_timer = None
