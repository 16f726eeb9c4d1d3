"""Bulkheads: separate thread pools for AWS calls, so that a secret that hangs cannot starve the others.

Every call has a timeout. The SDK's own timeouts do not suffice, because they apply to each read from the connection,
and a response that arrives byte by byte never exceeds them. The same holds when the SDK requests credentials. Python
cannot stop a thread, so a call that exceeds its timeout is abandoned: its thread keeps running, and another thread
takes its place.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

CALL_TIMEOUT = 20.0  # seconds for one call including its retries; a healthy SDK gives up within 15
QUEUE_TIMEOUT = 60.0  # seconds to wait for a slot
QUARANTINE_THREADS = 4  # the most concurrent calls in the quarantine pool
BACKGROUND_THREADS = 2  # the most concurrent calls of sweeps
BUILDING_THREADS = 2  # clients are built one at a time; the second thread is for when the first one hangs
OVERSUBSCRIPTION = 2  # threads per slot, so that abandoned calls do not block new ones

T = TypeVar("T")


class CallTimeout(Exception):
    """The call did not end within its timeout."""


class PoolExhausted(Exception):
    """The call did not start, because no slot or no thread became free."""


class ThreadPool:
    """Bulkhead. Runs at most ``slots`` calls at once, each in a thread of its own.

    An abandoned call frees its slot but not its thread. So the pool has OVERSUBSCRIPTION threads for each slot.
    ``call_timeout`` and ``queue_timeout`` are in seconds. ``now`` returns monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        call_timeout: float = CALL_TIMEOUT,
        queue_timeout: float = QUEUE_TIMEOUT,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._max_threads = OVERSUBSCRIPTION * slots
        self._executor = ThreadPoolExecutor(self._max_threads, thread_name_prefix=name)
        self._call_timeout = call_timeout
        self._queue_timeout = queue_timeout
        self._now = now
        self._abandoned = 0
        self._saturated_since: float | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``, or raise its error, CallTimeout or PoolExhausted."""
        try:
            async with asyncio.timeout(self._queue_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise PoolExhausted from None
        try:
            return await self._run(call)
        finally:
            self._slots.release()

    async def _run(self, call: Callable[[], T]) -> T:
        thread = self._executor.submit(call)
        result = asyncio.wrap_future(thread)
        try:
            await asyncio.wait([result], timeout=self._call_timeout)
        finally:
            started = not thread.cancel()
            if started and not result.done():
                self._abandon(result)
        if result.done():
            return result.result()
        raise CallTimeout if started else PoolExhausted

    def saturated_for(self) -> float:
        """Return for how many seconds abandoned calls have occupied every thread. This is 0 while a thread is free."""
        return 0.0 if self._saturated_since is None else self._now() - self._saturated_since

    def close(self) -> None:
        """Start no more calls. This does not wait for calls that are running."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _abandon(self, result: "asyncio.Future[T]") -> None:
        self._abandoned += 1
        if self._abandoned >= self._max_threads and self._saturated_since is None:
            self._saturated_since = self._now()
        result.add_done_callback(self._free_thread)

    def _free_thread(self, result: "asyncio.Future[T]") -> None:
        if not result.cancelled():
            result.exception()  # this marks the error as retrieved, because no caller waits for it any more
        self._abandoned -= 1
        self._saturated_since = None


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """Bulkheads: ``foreground`` for reads, ``quarantine`` for secrets whose last call hung, ``background`` for sweeps,
    and ``building`` for building clients.

    Requests for tenants' credentials also run in the quarantine pool.
    """

    foreground: ThreadPool
    quarantine: ThreadPool
    background: ThreadPool
    building: ThreadPool

    @classmethod
    def of(cls, foreground: int) -> "ThreadPools":
        """Make the pools. ``foreground`` is the number of slots of the foreground pool."""
        return cls(
            ThreadPool("foreground", foreground),
            ThreadPool("quarantine", QUARANTINE_THREADS),
            ThreadPool("background", BACKGROUND_THREADS),
            ThreadPool("building", BUILDING_THREADS),
        )

    def saturated_for(self) -> float:
        """Return for how many seconds abandoned calls have filled a whole pool.

        The quarantine pool does not count, because its secrets go back to the foreground pool after a minute.
        """
        return max(self.foreground.saturated_for(), self.background.saturated_for())

    def close(self) -> None:
        """Start no more calls."""
        for pool in (self.foreground, self.quarantine, self.background, self.building):
            pool.close()
