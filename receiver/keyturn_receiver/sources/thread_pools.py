"""Bulkheads: separate thread pools for AWS calls. A secret that hangs cannot take the threads of other calls.

Every call has a timeout. The SDK's own timeouts are not enough, because they apply to each single read from the
connection. A response that arrives byte by byte never exceeds them. The SDK's requests for credentials have the same
problem. Python cannot stop a thread. So a call that exceeds its timeout is abandoned: its thread keeps running, and
another thread takes its place.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

from keyturn_receiver.resilience.shares import Shares

CALL_TIMEOUT = 20.0  # seconds for one call including its retries; the SDK itself normally ends a call within 15 seconds
QUEUE_TIMEOUT = 60.0  # seconds to wait for a slot
QUARANTINE_THREADS = 8  # at most this many concurrent calls about secrets whose last call hung
# Seconds for which a call about such a secret waits for a slot. The time is short, because a waiting binding uses up
# its namespace's share of the work queue.
QUARANTINE_QUEUE_TIMEOUT = 1.0
UNPROVEN_THREADS = 16  # at most this many concurrent calls to stores that do not answer, or have not answered yet
STS_THREADS = 8  # at most this many concurrent requests for credentials of tenants
# At most this many concurrent calls of one owner (a namespace or a region) in each of the three pools above.
CALLS_PER_OWNER = 2
# The owner of all calls that the receiver's own role makes in regions that bindings name.
OTHER_REGIONS = "other regions"
# The owner of calls about a secret that several namespaces name. With this owner, such a call does not wait for the
# share of a single namespace.
SEVERAL = "*"
# At most this many concurrent calls of OTHER_REGIONS to stores that have not answered.
MAX_OTHER_REGIONS = UNPROVEN_THREADS // 2
OWNER_QUEUE_TIMEOUT = 5.0  # seconds to wait for a slot for an unproven store or STS; after that, the binding backs off
OTHERS_SHARE = 8  # one in this number of foreground slots is always left to other namespaces
BACKGROUND_THREADS = 2  # at most this many concurrent calls of sweeps to stores that answer
BUILDING_THREADS = 2  # clients are built one at a time; the second thread is needed if the first thread hangs
OVERSUBSCRIPTION = 2  # threads per slot, so that abandoned calls do not block new ones

T = TypeVar("T")


class CallTimeout(Exception):
    """The call did not end within its timeout."""


class PoolExhausted(Exception):
    """The call did not start, because no slot or no thread became free."""


class ThreadPool:
    """Bulkhead. It runs at most ``slots`` calls at once, each in a thread of its own.

    ``shares`` limits the number of these calls for each owner, such as a namespace. Further calls of an owner wait
    until its earlier calls end. An abandoned call counts for its owner until its thread ends. If ``forgets_abandoned``
    is true, the call no longer counts as soon as it is abandoned.

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
        shares: Shares | None = None,
        forgets_abandoned: bool = False,
    ) -> None:
        self._forgets_abandoned = forgets_abandoned
        self._shares = shares
        self._slots = asyncio.Semaphore(slots)
        self._max_threads = OVERSUBSCRIPTION * slots
        self._executor = ThreadPoolExecutor(self._max_threads, thread_name_prefix=name)
        self._call_timeout = call_timeout
        self._queue_timeout = queue_timeout
        self._now = now
        self._abandoned = 0
        self._saturated_since: float | None = None

    async def run(self, call: Callable[[], T], *owners: Hashable) -> T:
        """Run ``call`` in a thread, and return its result. Raises its error, CallTimeout or PoolExhausted.

        The call counts for each of its ``owners``. They have to be in the order of their limits, the smallest limit
        first. A call without an owner counts for nobody.
        """
        try:
            async with asyncio.timeout(self._queue_timeout):
                await self._acquire(owners)
                try:
                    await self._slots.acquire()
                except BaseException:
                    self._release(owners)
                    raise
        except TimeoutError:
            raise PoolExhausted from None
        try:
            return await self._run(call, owners)
        finally:
            self._slots.release()

    async def _acquire(self, owners: tuple[Hashable, ...]) -> None:
        if self._shares is not None:  # not a truth test: Shares has a length, which is 0 without owners
            await self._shares.acquire(*owners)

    def _release(self, owners: tuple[Hashable, ...]) -> None:
        if self._shares is not None:  # not a truth test: Shares has a length, which is 0 without owners
            self._shares.release(*owners)

    async def _run(self, call: Callable[[], T], owners: tuple[Hashable, ...]) -> T:
        thread = self._executor.submit(call)
        result = asyncio.wrap_future(thread)
        try:
            await asyncio.wait([result], timeout=self._call_timeout)
        finally:
            started = not thread.cancel()
            if started and not result.done():
                self._abandon(result, owners)
            else:
                self._release(owners)
        if result.done():
            return result.result()
        raise CallTimeout if started else PoolExhausted

    def saturated_for(self) -> float:
        """Return the number of seconds for which abandoned calls have occupied every thread. It is 0 if a thread is
        free."""
        return 0.0 if self._saturated_since is None else self._now() - self._saturated_since

    def close(self) -> None:
        """Start no more calls. This method does not wait for running calls."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _abandon(self, result: "asyncio.Future[T]", owners: tuple[Hashable, ...]) -> None:
        self._abandoned += 1
        if self._abandoned >= self._max_threads and self._saturated_since is None:
            self._saturated_since = self._now()
        if self._forgets_abandoned:
            self._release(owners)
            owners = ()
        result.add_done_callback(partial(self._free_thread, owners))

    def _free_thread(self, owners: tuple[Hashable, ...], result: "asyncio.Future[T]") -> None:
        self._release(owners)
        if not result.cancelled():
            result.exception()  # this marks the error as retrieved, because no caller waits for it any more
        self._abandoned -= 1
        self._saturated_since = None


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """Bulkheads. ``foreground`` is for reads, ``quarantine`` for secrets whose last call hung, and ``background`` for
    sweeps. ``unproven`` is for stores that do not answer, or have not answered yet. ``sts`` is for requests for
    credentials of tenants. In ``building``, clients are built."""

    foreground: ThreadPool
    quarantine: ThreadPool
    background: ThreadPool
    unproven: ThreadPool
    sts: ThreadPool
    building: ThreadPool

    @classmethod
    def of(cls, foreground: int) -> "ThreadPools":
        """Make the pools. ``foreground`` is the number of slots of the foreground pool."""
        return cls(
            ThreadPool("foreground", foreground, shares=Shares(_most_of(foreground)), forgets_abandoned=True),
            ThreadPool(
                "quarantine",
                QUARANTINE_THREADS,
                queue_timeout=QUARANTINE_QUEUE_TIMEOUT,
                shares=Shares(CALLS_PER_OWNER),
            ),
            ThreadPool("background", BACKGROUND_THREADS, shares=Shares(BACKGROUND_THREADS // 2)),
            _by_owner("unproven", UNPROVEN_THREADS),
            _by_owner("sts", STS_THREADS),
            ThreadPool("building", BUILDING_THREADS),
        )

    def saturated_for(self) -> float:
        """Return the number of seconds for which abandoned calls have occupied every thread of a pool. It is 0 if each
        pool has a free thread.

        Only the foreground and the background pool count. Bindings choose the calls of the other pools, so a tenant
        could fill them, and then a restart of the receiver would not help.
        """
        return max(self.foreground.saturated_for(), self.background.saturated_for())

    def close(self) -> None:
        """Start no more calls in any pool."""
        for each in fields(self):
            getattr(self, each.name).close()


def namespace_owner(namespace: str) -> str:
    """Return the owner of the calls that are made for a namespace."""
    return f"namespace {namespace}"


def _most_of(slots: int) -> int:
    """Return the number of foreground slots that one namespace may hold: all but an eighth.

    If many secrets of a namespace hang, the namespace needs these slots to read its other secrets. The calls of other
    namespaces are short, so they need few slots. Abandoned calls do not count. A hanging batch is abandoned soon, and
    then its secrets are read one by one.
    """
    return max(1, slots - max(1, slots // OTHERS_SHARE))


def _by_owner(name: str, slots: int) -> ThreadPool:
    return ThreadPool(
        name,
        slots,
        queue_timeout=OWNER_QUEUE_TIMEOUT,
        shares=Shares(CALLS_PER_OWNER, {OTHER_REGIONS: MAX_OTHER_REGIONS}),
    )
