"""The adaptive limiter allows as many concurrent requests as the server can handle well, and lanes take turns."""

import asyncio
import time

import pytest

from keyturn_receiver.resilience.adaptive_limiter import (
    MAX_OWN_WAIT,
    MAX_WAITING,
    AdaptiveLimiter,
    LaneFull,
    Overloaded,
)
from support.clock import FakeClock

pytestmark = pytest.mark.anyio


async def test_no_more_requests_than_the_limit_are_in_flight() -> None:
    limiter = AdaptiveLimiter(3)
    in_flight = most = 0

    async def request() -> None:
        nonlocal in_flight, most
        await limiter.acquire()
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1
        limiter.release(overloaded=False)

    await asyncio.gather(*(request() for _ in range(30)))
    assert most == 3


async def test_failures_halve_the_limit_once_a_second_and_success_raises_it_again() -> None:
    clock = FakeClock()
    limiter = AdaptiveLimiter(16, clock)

    async def requests(count: int, overloaded: bool) -> None:
        for _ in range(count):
            await limiter.acquire()
            limiter.release(overloaded)

    await requests(10, overloaded=True)
    assert limiter.limit == 8
    clock.advance(1)
    await requests(1, overloaded=True)
    assert limiter.limit == 4
    for _ in range(10):
        clock.advance(1)
        await requests(1, overloaded=True)
    assert limiter.limit == 1
    await requests(200, overloaded=False)
    assert limiter.limit == 16


async def test_cancelled_waiter_costs_nobody_else_a_slot() -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    waiters = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    # The slot goes to the second waiter, but that waiter is cancelled before it runs.
    limiter.release(overloaded=False)
    waiters[1].cancel()
    await asyncio.wait_for(waiters[2], 1)
    limiter.release(overloaded=False)
    await asyncio.wait_for(limiter.acquire(), 1)


class Calls:
    """Calls through a limiter, each of which takes a tenth of a second. ``ended`` has their lanes in order."""

    def __init__(self, limit: int) -> None:
        self.limiter = AdaptiveLimiter(limit, time.monotonic)
        self.ended: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, lane: str, count: int, seconds: float | None = None) -> None:
        self.tasks += [asyncio.create_task(self._call(lane, seconds)) for _ in range(count)]

    async def _call(self, lane: str, seconds: float | None) -> None:
        await self.limiter.acquire(lane, seconds)
        try:
            await asyncio.sleep(0.1)
            self.ended.append(lane)
        finally:
            self.limiter.release(False, lane)


@pytest.mark.virtual_time
async def test_call_of_a_quiet_lane_never_waits_behind_a_busy_one() -> None:
    calls = Calls(8)
    calls.start("busy", 1500)
    await asyncio.sleep(0.01)
    for _ in range(5):
        begun = time.monotonic()
        await calls.limiter.acquire("quiet")
        assert time.monotonic() - begun < 0.01  # there is a free slot, which the busy lane may not take
        calls.limiter.release(False, "quiet")
    calls.start("quiet", 40)
    await asyncio.sleep(1.2)
    assert calls.ended.count("quiet") == 40  # the two lanes take turns in the eight slots
    await asyncio.gather(*calls.tasks)
    assert calls.ended.count("busy") == 1500
    assert not calls.limiter._lanes


@pytest.mark.virtual_time
async def test_lane_alone_takes_three_quarters_of_the_slots() -> None:
    calls = Calls(8)
    calls.start("busy", 60)
    begun = time.monotonic()
    await asyncio.gather(*calls.tasks)
    assert time.monotonic() - begun == pytest.approx(1.0, abs=0.09)


@pytest.mark.virtual_time
async def test_lane_with_more_calls_than_it_may_make_is_told_so() -> None:
    calls = Calls(4)
    calls.start("busy", 100)
    await asyncio.sleep(0)
    with pytest.raises(LaneFull):
        await calls.limiter.acquire("busy", 0.5)
    calls.start("busy", MAX_WAITING)
    await asyncio.sleep(0)
    with pytest.raises(LaneFull):
        await calls.limiter.acquire("busy")
    await calls.limiter.acquire("quiet")
    for task in calls.tasks:
        task.cancel()


@pytest.mark.virtual_time
async def test_wait_behind_the_own_lane_ends_before_the_deadline_of_a_delivery() -> None:
    calls = Calls(4)
    calls.start("busy", 500)
    await asyncio.sleep(0)
    begun = time.monotonic()
    with pytest.raises(LaneFull):
        await calls.limiter.acquire("busy", 10)
    assert time.monotonic() - begun == pytest.approx(MAX_OWN_WAIT, abs=0.1)
    for task in calls.tasks:
        task.cancel()
    await asyncio.gather(*calls.tasks, return_exceptions=True)
    for _ in range(3):
        await calls.limiter.acquire("quiet", 1)  # the calls that were refused or cancelled hold no slot
    assert (calls.limiter._in_flight, list(calls.limiter._lanes)) == (3, ["quiet"])


@pytest.mark.virtual_time
async def test_wait_for_a_server_that_does_not_answer_is_nobodys_own() -> None:
    limiter = AdaptiveLimiter(4, time.monotonic)
    for lane in "abcd":
        await limiter.acquire(lane)
    with pytest.raises(Overloaded):
        await limiter.acquire("a", 10)
    limiter.release(True, "b")
    assert limiter.limit == 2


async def test_failures_of_one_lane_alone_do_not_lower_the_limit_of_all() -> None:
    clock = FakeClock()
    limiter = AdaptiveLimiter(16, clock)

    async def request(lane: str, overloaded: bool) -> None:
        await limiter.acquire(lane)
        limiter.release(overloaded, lane)

    for _ in range(20):
        clock.advance(0.5)
        await request("others", overloaded=False)
        await request("fails", overloaded=True)
    assert limiter.limit == 16
    await request("others", overloaded=True)
    assert limiter.limit == 8
    clock.advance(1)
    await request("fails", overloaded=True)  # no other lane has succeeded lately, so the limit falls
    assert limiter.limit == 4
