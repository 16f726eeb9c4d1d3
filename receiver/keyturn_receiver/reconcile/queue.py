"""The work queue: one reconcile at a time for each binding, many beside each other, alike requests joined."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from keyturn_receiver.core.binding import Target
from keyturn_receiver.errors import Conflict, KeyturnError, Temporary
from keyturn_receiver.reconcile.request import Reconciled, Request
from keyturn_receiver.telemetry import Metrics

CONFLICT_TRIES = 5  # at once; somebody else's write is done when the conflict is known
MAX_DELAY = 300.0  # seconds between two tries of background work

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pending:
    request: Request
    done: "asyncio.Future[Reconciled]"


class Queue:
    """Runs ``work`` for bindings; what is asked for while a binding is being worked on joins its next turn."""

    def __init__(
        self, work: Callable[[Target, Request], Awaitable[Reconciled]], concurrency: int, metrics: Metrics
    ) -> None:
        self._work = work
        self._metrics = metrics
        self._places = asyncio.Semaphore(concurrency)
        self._pending: dict[Target, _Pending] = {}
        self._running: dict[Target, asyncio.Task[None]] = {}
        self._retries: dict[Target, asyncio.TimerHandle] = {}
        self._failures: dict[Target, int] = {}

    async def submit(self, target: Target, request: Request) -> Reconciled:
        """Reconcile and wait for it. Raises the KeyturnError it ended with; being cancelled does not stop the work."""
        return await asyncio.shield(self._join(target, request))

    def add(self, target: Target, request: Request) -> None:
        """Reconcile some time soon, and again with growing delays while it fails temporarily."""
        self._join(target, request).add_done_callback(lambda done: self._again(target, request, done))

    async def close(self, grace: float) -> None:
        """Take no more retries, and give what is running ``grace`` seconds to end."""
        for retry in self._retries.values():
            retry.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=grace)

    def _join(self, target: Target, request: Request) -> "asyncio.Future[Reconciled]":
        pending = self._pending.get(target)
        if pending:
            pending.request |= request
            return pending.done
        done: asyncio.Future[Reconciled] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # somebody looked at it
        self._pending[target] = _Pending(request, done)
        if target not in self._running:
            self._running[target] = asyncio.create_task(self._drain(target))
        return done

    async def _drain(self, target: Target) -> None:
        try:
            while target in self._pending:
                async with self._places:
                    pending = self._pending.pop(target)
                    await self._run(target, pending)
        finally:
            del self._running[target]

    async def _run(self, target: Target, pending: _Pending) -> None:
        cause = sorted(pending.request.causes)[0]
        started = time.monotonic()
        outcome = "failed"
        try:
            reconciled = await self._try(target, pending.request)
            outcome = "applied" if reconciled.changed else "unchanged" if reconciled.bound else "not_bound"
            pending.done.set_result(reconciled)
        except KeyturnError as error:
            outcome = error.reason
            _log.warning("%s", error, extra={"fields": {"secret": str(target), "reason": error.reason, "cause": cause}})
            pending.done.set_exception(error)
        except Exception as error:
            # A bug must not take the queue with it, nor look like success.
            _log.exception("reconcile broke", extra={"fields": {"secret": str(target)}})
            pending.done.set_exception(Temporary(f"an unforeseen {type(error).__name__}: see the receiver's log", 30.0))
        finally:
            self._metrics.reconcile_seconds.observe(time.monotonic() - started)
            self._metrics.reconciles.labels(cause, outcome).inc()

    async def _try(self, target: Target, request: Request) -> Reconciled:
        for attempt in range(CONFLICT_TRIES):
            try:
                return await self._work(target, request)
            except Conflict:
                await asyncio.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter between replicas
        return await self._work(target, request)

    def _again(self, target: Target, request: Request, done: "asyncio.Future[Reconciled]") -> None:
        error = None if done.cancelled() else done.exception()
        if not isinstance(error, Temporary):
            self._failures.pop(target, None)
            return
        if target in self._retries:
            return
        failures = self._failures[target] = self._failures.get(target, 0) + 1
        delay = min(MAX_DELAY, max(error.retry_after, 0.5 * 2**failures)) * random.uniform(0.5, 1)  # noqa: S311 - jitter

        def retry() -> None:
            del self._retries[target]
            self.add(target, request)

        self._retries[target] = asyncio.get_running_loop().call_later(delay, retry)
