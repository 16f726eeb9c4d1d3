"""The work queue: one reconcile at a time for each binding, many beside each other, alike requests joined.

Whatever fails for now is tried again by itself, with growing delays, until it is done or nobody asks for it any more.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass, replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import Conflict, KeyturnError, Temporary
from keyturn_receiver.reconcile.fair_queue import PriorityQueues
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.telemetry.metrics import Metrics

CONFLICT_TRIES = 5  # at once; somebody else's write is done when the conflict is known
MAX_DELAY = 60.0  # seconds between two tries

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pending:
    request: Request
    done: "asyncio.Future[ReconcileResult]"
    since: float


class WorkQueue:
    """Runs ``work`` for bindings; what is asked for while a binding is being worked on joins its next turn.

    ``group`` tells which bindings wait for the same thing; ``now`` gives monotonic seconds.
    """

    def __init__(
        self,
        work: Callable[[Target, Request], Awaitable[ReconcileResult]],
        places: int,
        group: Callable[[Target], Hashable],
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._metrics = metrics
        self._now = now
        self._lines = PriorityQueues(places, group)
        self._pending: dict[Target, _Pending] = {}
        self._running: dict[Target, tuple[asyncio.Task[None], float]] = {}
        self._retries: dict[Target, tuple[asyncio.TimerHandle, Request]] = {}
        self._failures: dict[Target, int] = {}
        self._owed: dict[Target, float] = {}
        self._failing: set[Target] = set()
        self._closing = False

    def submit(self, target: Target, request: Request) -> "asyncio.Future[ReconcileResult]":
        """Ask for a reconcile; the future gives what came of it, or the KeyturnError it ended with.

        The future is shared: who is tired of waiting must not cancel it.
        """
        pending = self._pending.get(target)
        if pending:
            before = pending.request.priority
            pending.request |= request
            if pending.request.priority is not before:
                self._lines.promote(target, before, pending.request.priority)
            return pending.done
        if retry := self._retries.pop(target, None):
            timer, failed = retry
            timer.cancel()
            request |= failed  # this is the next try, and has to serve what that was for
        done: asyncio.Future[ReconcileResult] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_looked_at)
        self._pending[target] = _Pending(request, done, self._now())
        self._owed.setdefault(target, self._now())
        if not self._lines.is_at_work(target):
            self._lines.wait(target, request.priority)
            self._fill_places()
        return done

    def forget(self, target: Target) -> None:
        """Keep nothing about a binding that is no more."""
        if retry := self._retries.pop(target, None):
            retry[0].cancel()
        self._failures.pop(target, None)
        self._failing.discard(target)
        if target not in self._pending and target not in self._running:
            self._owed.pop(target, None)

    def mark_recovered(self, target: Target) -> None:
        """Count a binding as failing no longer: another replica has made it true. A retry that is due stays so."""
        if target not in self._retries:
            self._failing.discard(target)

    async def close(self, grace: float) -> None:
        """Take no more retries, and give what waits and runs ``grace`` seconds to end."""
        self._closing = True
        for timer, _ in self._retries.values():
            timer.cancel()
        end = self._now() + grace
        while self._running and self._now() < end:
            await asyncio.wait([task for task, _ in self._running.values()], timeout=end - self._now())

    def depth(self, priority: Cause) -> int:
        """How many bindings wait for their turn with this priority."""
        return self._lines.depth(priority)

    def failing(self) -> int:
        """How many bindings ended their last reconcile here with an error, and are still not true."""
        return len(self._failing)

    def oldest_unmet(self) -> float:
        """Seconds since the oldest request that has not been met; one that only a person can meet does not count."""
        return max(0.0, self._now() - min(self._owed.values())) if self._owed else 0.0

    def longest_running(self) -> float:
        """Seconds that the longest of the reconciles under way has taken so far."""
        return max((self._now() - begun for _, begun in self._running.values()), default=0.0)

    def _fill_places(self) -> None:
        while target := self._lines.begin():
            # In a context of its own: whoever makes room, or asks, has nothing to do with whose turn it is now.
            task = asyncio.create_task(self._run(target), context=Context())
            self._running[target] = (task, self._now())

    async def _run(self, target: Target) -> None:
        pending = self._pending.pop(target)
        try:
            await self._settle(target, pending)
        finally:
            del self._running[target]
            self._lines.end(target)
            if target in self._pending:
                self._lines.wait(target, self._pending[target].request.priority)
            self._fill_places()

    async def _settle(self, target: Target, pending: _Pending) -> None:
        request = pending.request
        started = self._now()
        self._metrics.queue_seconds.observe(started - pending.since)
        outcome = "failed"
        try:
            reconciled = await self._try(target, request)
            outcome = "applied" if reconciled.changed else "unchanged" if reconciled.bound else "not_bound"
            self._met(target)
            pending.done.set_result(reconciled)
        except KeyturnError as error:
            outcome = error.reason
            fields = {"secret": str(target), "reason": error.reason, "cause": request.priority}
            _log.warning("%s", error, extra={"fields": {**fields, "event_ids": request.event_ids}})
            self._failed(target, request, error)
            pending.done.set_exception(error)
        except Exception as error:
            # A bug must not take the queue with it, nor look like success.
            _log.exception("reconcile broke", extra={"fields": {"secret": str(target)}})
            unforeseen = Temporary(f"an unforeseen {type(error).__name__}: see the receiver's log", 30.0)
            self._failed(target, request, unforeseen)
            pending.done.set_exception(unforeseen)
        finally:
            self._metrics.reconcile_seconds.observe(self._now() - started)
            self._metrics.reconciles.labels(request.priority, outcome).inc()

    async def _try(self, target: Target, request: Request) -> ReconcileResult:
        for attempt in range(CONFLICT_TRIES):
            try:
                return await self._work(target, request)
            except Conflict:
                await asyncio.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter between replicas
        return await self._work(target, request)

    def _met(self, target: Target) -> None:
        self._failures.pop(target, None)
        self._failing.discard(target)
        self._settled(target)

    def _settled(self, target: Target) -> None:
        self._owed.pop(target, None)
        if target in self._pending:
            self._owed[target] = self._pending[target].since

    def _failed(self, target: Target, request: Request, error: KeyturnError) -> None:
        self._failing.add(target)
        if not isinstance(error, Temporary):
            self._failures.pop(target, None)
            self._settled(target)
        elif pending := self._pending.get(target):
            pending.request |= request  # the next turn has to serve this, too; it is in no line before this one's end
        elif not self._closing:
            failures = self._failures[target] = self._failures.get(target, 0) + 1
            delay = min(MAX_DELAY, max(error.retry_after, 0.5 * 2 ** min(failures, 10)))
            delay *= random.uniform(0.5, 1)  # noqa: S311 - jitter
            timer = asyncio.get_running_loop().call_later(delay, self._again, target, request)
            self._retries[target] = (timer, request)

    def _again(self, target: Target, request: Request) -> None:
        self.submit(target, replace(request, since=self._now()))


def _looked_at(done: "asyncio.Future[ReconcileResult]") -> None:
    # A failure that nobody waits for is logged where it happens.
    if not done.cancelled():
        done.exception()
