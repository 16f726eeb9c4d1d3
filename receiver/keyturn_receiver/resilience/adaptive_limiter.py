"""Adaptive concurrency limiter. Its limit rises additively and falls multiplicatively (AIMD), as in TCP's congestion
control.

https://www.rfc-editor.org/rfc/rfc5681#section-3.1

Callers wait in lanes, and the lanes take turns. So a caller never waits behind the whole queue of another lane.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field

from keyturn_receiver.resilience.bounded_map import BoundedMap

DECREASE_INTERVAL = 1.0  # seconds; several failures within this time count as one sign of overload
MAX_WAITING = 2000  # number of callers that wait in one lane; further callers are refused at once
MAX_OWN_WAIT = 3.0  # seconds; then a caller gives up if its lane has admitted ``lane_limit`` calls in the meantime


class Overloaded(Exception):
    """No slot became free in time. The calls of the caller's own lane are not the reason."""


class LaneFull(Exception):
    """The caller's own lane makes more calls than it may make. So its queue is full, or no slot became free in time."""


@dataclass(slots=True)
class _Lane:
    """The calls of one lane: the number in flight, the waiting calls, and the number admitted since the lane was
    made."""

    in_flight: int = 0
    waiters: "deque[asyncio.Future[None]]" = field(default_factory=deque)
    admitted: int = 0


class AdaptiveLimiter:
    """Adaptive limiter. It is a semaphore whose limit moves between 1 and ``maximum`` with the load of the server.

    The limit rises by about one for each full round of successful requests. It is halved when requests fail because the
    server is overloaded. If only one lane fails while other lanes succeed, this is no sign of overload. One lane leaves
    a quarter of the limit, rounded down, to the other lanes. So a slot stays free for the first call of another lane,
    unless the limit is below four. ``now`` returns monotonic seconds.
    """

    def __init__(self, maximum: int, now: Callable[[], float] = time.monotonic) -> None:
        self._maximum = maximum
        self._now = now
        self._limit = float(maximum)
        self._in_flight = 0
        self._lanes: OrderedDict[Hashable, _Lane] = OrderedDict()  # in the order of their turns
        self._decreased_at = -DECREASE_INTERVAL
        # The two lanes that last succeeded, and the two lanes that last failed, each with the time.
        self._succeeded: BoundedMap[Hashable, float] = BoundedMap(2)
        self._failed: BoundedMap[Hashable, float] = BoundedMap(2)

    @property
    def limit(self) -> int:
        """The number of requests that may be in flight now."""
        return int(self._limit)

    @property
    def lane_limit(self) -> int:
        """The number of requests of one lane that may be in flight now."""
        return self.limit - self.limit // 4

    async def acquire(self, lane: Hashable = None, seconds: float | None = None) -> None:
        """Wait up to ``seconds`` until one more request of ``lane`` may start. The caller must call ``release`` when
        the request ends.

        The callers of one lane are admitted in order. Raises LaneFull or Overloaded.
        """
        mine = self._lanes.setdefault(lane, _Lane())
        if len(mine.waiters) >= MAX_WAITING:
            raise LaneFull
        waiter = asyncio.get_running_loop().create_future()
        mine.waiters.append(waiter)
        self._admit()
        if waiter.done():
            return
        before = mine.admitted
        try:
            await self._wait(waiter, mine, before, seconds)
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._end(lane)  # the caller was admitted just before it gave up, so it gives its slot back
            else:
                waiter.cancel()
                with suppress(ValueError):  # ``_admit`` may have removed the waiter already
                    mine.waiters.remove(waiter)
                self._forget_if_idle(lane)
            self._admit()
            if isinstance(error, TimeoutError):
                raise (LaneFull if self._is_behind_own(mine, before) else Overloaded) from None
            raise

    async def _wait(self, waiter: "asyncio.Future[None]", lane: _Lane, before: int, seconds: float | None) -> None:
        """Wait up to ``seconds`` for a slot. The wait ends already after MAX_OWN_WAIT seconds if the lane itself is the
        reason for the wait (``_is_behind_own``). Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            if seconds is not None and seconds > MAX_OWN_WAIT:
                await asyncio.wait([waiter], timeout=MAX_OWN_WAIT)
                if not waiter.done() and self._is_behind_own(lane, before):
                    raise TimeoutError
            await waiter

    def _is_behind_own(self, lane: _Lane, before: int) -> bool:
        """Return whether the lane has admitted at least ``lane_limit`` calls since ``lane.admitted`` was ``before``."""
        return lane.admitted - before >= self.lane_limit

    def release(self, overloaded: bool, lane: Hashable = None) -> None:
        """End a request. ``overloaded`` is true if the request failed in a way that suggests an overloaded server."""
        self._end(lane)
        if not overloaded:
            self._succeeded.put(lane, self._now())
            self._limit = min(self._maximum, self._limit + 1 / self._limit)
        else:
            self._failed.put(lane, self._now())
            if self._now() - self._decreased_at >= DECREASE_INTERVAL and not self._concerns_one_lane(lane):
                self._limit = max(1.0, self._limit / 2)
                self._decreased_at = self._now()
        self._admit()

    def _concerns_one_lane(self, lane: Hashable) -> bool:
        """Return whether all recent failures are of this lane, and another lane has recently succeeded."""

        def others(ended: BoundedMap[Hashable, float]) -> bool:
            return any(each != lane and self._now() - (ended.get(each) or 0.0) < DECREASE_INTERVAL for each in ended)

        return others(self._succeeded) and not others(self._failed)

    def _admit(self) -> None:
        while self._in_flight < self.limit and (turn := self._next_lane()):
            key, lane = turn
            waiter = lane.waiters.popleft()
            if waiter.done():
                continue  # the waiting caller was cancelled
            waiter.set_result(None)
            lane.in_flight += 1
            lane.admitted += 1
            self._in_flight += 1
            self._lanes.move_to_end(key)

    def _next_lane(self) -> tuple[Hashable, _Lane] | None:
        # This loop is short. If a waiting lane cannot take its turn, it has calls in flight. So there are at most
        # ``limit`` such lanes.
        for key, lane in self._lanes.items():
            if lane.waiters and lane.in_flight < self.lane_limit:
                return key, lane
        return None

    def _end(self, lane: Hashable) -> None:
        self._in_flight -= 1
        self._lanes[lane].in_flight -= 1
        self._forget_if_idle(lane)

    def _forget_if_idle(self, key: Hashable) -> None:
        lane = self._lanes.get(key)
        if lane and not lane.waiters and not lane.in_flight:
            del self._lanes[key]
