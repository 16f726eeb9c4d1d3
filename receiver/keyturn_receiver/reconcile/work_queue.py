"""Work queue. Runs many reconciles at once, but only one for each binding, and merges requests for the same binding.

The design is that of https://pkg.go.dev/k8s.io/client-go/util/workqueue, with priorities and results. After a temporary
failure, the reconcile is retried with growing delays until it succeeds or fails permanently, or until the binding is
gone.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import Temporary, Unrecorded
from keyturn_receiver.reconcile.fair_queue import PriorityQueues
from keyturn_receiver.reconcile.fight_backoff import RESET_AFTER, FightBackoff
from keyturn_receiver.reconcile.request import Cause, ReconcileResult, Request
from keyturn_receiver.reconcile.retry_backoff import UNEXPECTED_RETRY, failed_attempts, retry_delay
from keyturn_receiver.reconcile.work_item import Phase, Turn, WorkItem
from keyturn_receiver.telemetry.metrics import Metrics

# Seconds after a run in which the caches may not show the run's own writes yet. Until then, our own write would look
# like drift, so drift is checked later.
SETTLE_SECONDS = 1.0

# Seconds. If a run is in the queue for longer than this, it counts as a run that has waited for a slot.
MIN_WAIT = 0.01

_log = logging.getLogger(__name__)


class WorkQueue:
    """Work queue. Runs ``reconcile`` for bindings, at most ``slots`` of them at once.

    Requests for a binding that is RUNNING merge into its next run. ``now`` returns monotonic seconds.
    """

    def __init__(
        self,
        reconcile: Callable[[Target, Request], Awaitable[ReconcileResult]],
        slots: int,
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reconcile = reconcile
        self._metrics = metrics
        self._now = now
        self._queues = PriorityQueues(slots)
        self._items: dict[Target, WorkItem] = {}
        self._closing = False

    def submit(self, target: Target, request: Request, group: Hashable = None) -> "asyncio.Future[ReconcileResult]":
        """Request a reconcile. Return a future of its result, which contains any error.

        ``group`` is the AWS secret that the binding waits for. If it is None, the binding is its own group. Callers
        share the future, so a caller that stops waiting must not cancel it.
        """
        group = target if group is None else group
        item = self._items.setdefault(target, WorkItem(group))
        if item.phase is Phase.RUNNING:
            if item.rerun is None:
                item.rerun = self._turn(request)
            else:
                item.rerun.request |= request
            return item.rerun.result
        if item.turn:  # QUEUED
            before = item.turn.request.priority
            item.turn.request |= request
            if item.turn.request.priority is not before:
                self._queues.raise_priority(target, item.group, before, item.turn.request.priority)
            return item.turn.result
        if retry := item.cancel_retry():
            request |= retry  # this run is the next attempt, so it serves the request of that attempt too
        item.group = group
        turn = self._turn(request)
        self._enqueue(target, item, turn)
        self._fill_slots()
        return turn.result

    def gave_up_on(self, target: Target, resource_version: str) -> bool:
        """Return whether this replica has given up on exactly this version of the Secret, because a reconcile has
        failed permanently."""
        item = self._items.get(target)
        return item is not None and item.terminal_version == resource_version

    def clear_terminal(self, target: Target) -> None:
        """Allow a new attempt after a permanent failure, because its cause may have changed."""
        if item := self._items.get(target):
            item.terminal_version = ""

    def mark_recovered(self, target: Target) -> None:
        """Stop counting a binding as failing, because another replica has made it true. If a retry is pending, change
        nothing."""
        item = self._items.get(target)
        if item is None or item.phase is Phase.BACKING_OFF:
            return
        item.failing, item.terminal_version = False, ""
        if item.phase is Phase.FAILED:
            item.phase = Phase.IDLE
            self._drop_if_idle(target)

    def drop(self, target: Target) -> None:
        """Forget a binding that is gone."""
        item = self._items.get(target)
        if item is None:
            return
        item.cancel_retry()
        item.cancel_check()
        if item.phase in (Phase.QUEUED, Phase.RUNNING):
            item.attempts, item.failing, item.terminal_version, item.fight = 0, False, "", FightBackoff()
        else:
            del self._items[target]

    def is_held_up(self, target: Target) -> bool:
        """Return whether a binding is held up because its namespace has taken its full share of the slots.

        That is so in two cases. In the first, a run of the binding has waited for this reason. In the second, a run
        waits or runs now, and the share is fully taken.
        """
        item = self._items.get(target)
        if item is None:
            return False
        is_waiting = item.phase in (Phase.QUEUED, Phase.RUNNING)
        return item.was_held_up or (is_waiting and self._queues.share_is_full(target.namespace, item.group))

    def settles_in(self, target: Target) -> float:
        """Return the seconds until the caches are expected to show this replica's own writes, or 0.0 if they are
        expected to show them now. While a reconcile runs, return SETTLE_SECONDS."""
        item = self._items.get(target)
        if item is None:
            return 0.0
        return SETTLE_SECONDS if item.phase is Phase.RUNNING else max(0.0, item.settled_at - self._now())

    def check_later(self, target: Target, delay: float, check: Callable[[Target], None]) -> None:
        """Call ``check`` after ``delay`` seconds, unless another check of this binding comes sooner."""
        item = self._items.setdefault(target, WorkItem(target))
        loop = asyncio.get_running_loop()
        if item.check_timer is None or item.check_timer.when() > loop.time() + delay:
            item.cancel_check()
            item.check_timer = loop.call_later(delay, self._check, target, check)

    def check_due_in(self, target: Target) -> float:
        """Return the seconds until the pending check of a binding, or infinity if no check is pending."""
        item = self._items.get(target)
        if item is None or item.check_timer is None:
            return math.inf
        return item.check_timer.when() - asyncio.get_running_loop().time()

    def check_now(self, check: Callable[[Target], None]) -> None:
        """Call ``check`` at once for each binding with a pending check."""
        for target in [target for target, item in self._items.items() if item.check_timer]:
            self._check(target, check)

    def fight_delay(self, target: Target) -> float:
        """Return the seconds to wait before the next repair of a binding. There is a wait if another writer keeps
        reverting the repairs."""
        item = self._items.get(target)
        return item.fight.delay(self._now()) if item else 0.0

    def record_repair(self, target: Target) -> bool:
        """Count a repair. Return whether the next repair is the first one with a delay."""
        return self._items.setdefault(target, WorkItem(target)).fight.record(self._now())

    async def close(self, grace: float) -> None:
        """Start no more retries. Queued and running reconciles get up to ``grace`` seconds to finish.

        A pending retry for a notification is an exception: it is made at once, because the sender may rely on it.
        """
        self._closing = True
        for target, item in list(self._items.items()):
            item.cancel_check()
            if item.retry and Cause.NOTIFICATION in item.retry.causes:
                self._retry(target)
            elif item.retry_timer:
                item.retry_timer.cancel()
        end = self._now() + grace
        while (tasks := [item.task for item in self._items.values() if item.task]) and self._now() < end:
            await asyncio.wait(tasks, timeout=end - self._now())

    def depth(self, priority: Cause) -> int:
        """Return how many bindings wait with this priority."""
        return self._queues.depth(priority)

    def failing(self) -> int:
        """Return the number of failing bindings. A reconcile of such a binding on this replica has failed, and no
        replica has made the binding true since then."""
        return sum(item.failing for item in self._items.values())

    def oldest_unmet(self) -> float:
        """Return the seconds since the oldest unmet request. Requests that failed permanently do not count."""
        unmet = [item.unmet_since for item in self._items.values() if item.unmet_since is not None]
        return max(0.0, self._now() - min(unmet)) if unmet else 0.0

    def longest_running(self) -> float:
        """Return the seconds that the oldest running reconcile has taken so far."""
        return max((self._now() - item.started_at for item in self._items.values() if item.task), default=0.0)

    def _turn(self, request: Request) -> Turn:
        return Turn(request, asyncio.get_running_loop().create_future(), self._now())

    def _enqueue(self, target: Target, item: WorkItem, turn: Turn) -> None:
        item.phase, item.turn, item.was_held_up = Phase.QUEUED, turn, False
        if item.unmet_since is None:
            item.unmet_since = turn.asked_at
        self._queues.enqueue(target, item.group, turn.request.priority)

    def _fill_slots(self) -> None:
        while taken := self._queues.take():
            target, priority = taken
            item = self._items[target]
            item.phase, item.priority, item.started_at = Phase.RUNNING, priority, self._now()
            waited = item.turn is not None and item.started_at - item.turn.asked_at > MIN_WAIT
            item.was_held_up = waited and self._queues.share_is_full(target.namespace, item.group)
            # The empty context keeps the task from inheriting the caller's log fields and trace.
            item.task = asyncio.create_task(self._run(target, item), context=Context())

    async def _run(self, target: Target, item: WorkItem) -> None:
        turn = item.turn
        assert turn is not None  # noqa: S101 - for the type checker: RUNNING has a turn
        self._metrics.queue_seconds.observe(item.started_at - turn.asked_at)
        result = ReconcileResult(bound=True, error=Temporary("the receiver is shutting down: trying again"))
        try:
            request = replace(turn.request, next_is_awaited=lambda: bool(item.rerun and item.rerun.request.awaited))
            result = await self._reconcile(target, request)
        except Exception as error:
            # A bug must neither end the queue nor look like success.
            _log.exception("reconcile failed unexpectedly", extra={"fields": {"secret": str(target)}})
            advice = f"an unexpected {type(error).__name__}: see the receiver's log"
            result = ReconcileResult(bound=True, error=Temporary(advice, UNEXPECTED_RETRY))
        finally:
            self._finish(target, item, turn, result)

    def _finish(self, target: Target, item: WorkItem, turn: Turn, result: ReconcileResult) -> None:
        """Finish a reconcile. If another run was requested in the meantime, it is queued. Otherwise a temporary error
        leads to a retry, and after a permanent error the binding waits for a new request."""
        self._queues.release(target, item.group, item.priority)
        item.task = item.turn = None
        item.settled_at = self._now() + SETTLE_SECONDS
        if result.terminal_version or result.filled:
            item.terminal_version = result.terminal_version
        match result.error:
            case None:
                # A run that only restarts consumers does not fix a Secret that cannot be filled.
                item.failing = item.failing and bool(item.terminal_version)
                item.attempts, item.unmet_since = 0, None
                item.phase = Phase.FAILED if item.failing else Phase.IDLE
            case Temporary() as error:
                item.failing, item.phase = True, Phase.FAILED
                request = turn.request
                if isinstance(error, Unrecorded):  # a person must end the error, so nobody waits for the next attempt
                    item.unmet_since, request = None, replace(request, causes=frozenset({Cause.DRIFT}))
                self._retry_later(target, item, request, error)
            case _:
                item.failing, item.phase = True, Phase.FAILED
                item.attempts, item.unmet_since = 0, None
        if rerun := item.rerun:
            item.rerun = None
            self._enqueue(target, item, rerun)
        elif item.phase is Phase.IDLE:
            asyncio.get_running_loop().call_later(2 * SETTLE_SECONDS, self._drop_if_idle, target)
        turn.result.set_result(result)
        self._fill_slots()

    def _retry_later(self, target: Target, item: WorkItem, request: Request, error: Temporary) -> None:
        if item.rerun:
            item.rerun.request |= request  # the next run, which is not queued yet, serves this request too
        elif not self._closing:
            item.attempts = failed_attempts(item.attempts, error)
            item.phase, item.retry = Phase.BACKING_OFF, request
            delay = retry_delay(item.attempts, error)
            item.retry_timer = asyncio.get_running_loop().call_later(delay, self._retry, target)

    def _retry(self, target: Target) -> None:
        item = self._items[target]
        if retry := item.cancel_retry():
            self.submit(target, replace(retry, since=self._now(), awaited=frozenset()), item.group)

    def _check(self, target: Target, check: Callable[[Target], None]) -> None:
        if item := self._items.get(target):
            item.cancel_check()
            check(target)
            self._drop_if_idle(target)

    def _drop_if_idle(self, target: Target) -> None:
        item = self._items.get(target)
        if item is None or item.phase is not Phase.IDLE or item.check_timer or item.settled_at > self._now():
            return
        if item.fight.attempts and self._now() - item.fight.last_at <= RESET_AFTER:
            asyncio.get_running_loop().call_later(RESET_AFTER, self._drop_if_idle, target)
        else:
            del self._items[target]
