"""Adaptive concurrency limiter: additive increase, multiplicative decrease (AIMD), as in TCP's congestion control.

https://www.rfc-editor.org/rfc/rfc5681#section-3.1
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

DECREASE_INTERVAL = 1.0  # in seconds; several failures within this time count as one sign of overload


class AdaptiveLimiter:
    """Adaptive limiter. A semaphore whose limit moves between 1 and ``maximum``, depending on the load of the server.

    The limit rises by about one for each full round of successful requests. It is halved when requests fail because the
    server is overloaded. ``now`` returns monotonic seconds.
    """

    def __init__(self, maximum: int, now: Callable[[], float] = time.monotonic) -> None:
        self._maximum = maximum
        self._now = now
        self._limit = float(maximum)
        self._in_flight = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._decreased_at = -DECREASE_INTERVAL

    @property
    def limit(self) -> int:
        """The number of requests that may be in flight now."""
        return int(self._limit)

    async def acquire(self) -> None:
        """Wait until one more request may start. Callers are admitted in order, and each must call ``release``
        later."""
        if self._in_flight < self.limit and not self._waiters:
            self._in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # This request was admitted just before it was cancelled, so its slot is passed on.
            if not waiter.cancelled():
                self._in_flight -= 1
            self._admit()
            raise

    def release(self, overloaded: bool) -> None:
        """End a request. ``overloaded`` is true if the request failed in a way that suggests an overloaded server."""
        self._in_flight -= 1
        if not overloaded:
            self._limit = min(self._maximum, self._limit + 1 / self._limit)
        elif self._now() - self._decreased_at >= DECREASE_INTERVAL:
            self._limit = max(1.0, self._limit / 2)
            self._decreased_at = self._now()
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self._in_flight < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._in_flight += 1
