"""The state of one binding in the work queue. No other class keeps any."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum

from keyturn_receiver.reconcile.fight_backoff import FightBackoff
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request


class Phase(StrEnum):
    """Where a binding is between a request and its result."""

    IDLE = "idle"  # nothing is asked for
    QUEUED = "queued"  # waits for a slot
    RUNNING = "running"
    BACKING_OFF = "backing off"  # failed for now; a timer queues it again
    FAILED = "failed"  # only a person can help; a new request queues it again


@dataclass(slots=True)
class Turn:
    """One run that was asked for: what it serves, who waits for it, and since when (monotonic seconds)."""

    request: Request
    result: "asyncio.Future[ReconcileResult]"
    asked_at: float


@dataclass(slots=True)
class WorkItem:
    """Phase and memory of one binding.

    ``turn``: the run that waits (QUEUED) or goes on (RUNNING). ``rerun``: what was asked for while RUNNING. ``retry``:
    what the next attempt serves (BACKING_OFF). ``unmet_since``: since when a request has not been met that trying again
    can meet. ``terminal_version``: the Secret's resource version that only a person can help; empty: there is none.
    ``check_timer``: drift is looked at again when it fires. All times are monotonic seconds.
    """

    group: Hashable
    phase: Phase = field(default=Phase.IDLE, init=False)
    turn: Turn | None = field(default=None, init=False)
    rerun: Turn | None = field(default=None, init=False)
    priority: Cause = field(default=Cause.POLL, init=False)  # that the run took its slot with
    task: "asyncio.Task[None] | None" = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    settled_at: float = field(default=0.0, init=False)  # until then the watches may be behind our own writes
    retry: Request | None = field(default=None, init=False)
    retry_timer: asyncio.TimerHandle | None = field(default=None, init=False)
    attempts: int = field(default=0, init=False)  # that have failed for now, in a row
    failing: bool = field(default=False, init=False)
    unmet_since: float | None = field(default=None, init=False)
    terminal_version: str = field(default="", init=False)
    check_timer: asyncio.TimerHandle | None = field(default=None, init=False)
    fight: FightBackoff = field(default_factory=FightBackoff, init=False)

    def cancel_retry(self) -> Request | None:
        """Stop the timer of the next attempt; return what that attempt was to serve."""
        if self.retry_timer:
            self.retry_timer.cancel()
        retry, self.retry, self.retry_timer = self.retry, None, None
        return retry

    def cancel_check(self) -> None:
        """Stop the timer of the next look at drift."""
        if self.check_timer:
            self.check_timer.cancel()
            self.check_timer = None
