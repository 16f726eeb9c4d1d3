"""The adaptive limiter allows as many concurrent requests as the server can handle well."""

import asyncio

import pytest

from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter
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
