"""As many requests at once as the API server stands."""

import asyncio

import pytest

from clock import Clock
from keyturn_receiver.resilience.adaptive_limiter import AdaptiveLimiter

pytestmark = pytest.mark.anyio


async def test_no_more_than_the_limit_are_inside() -> None:
    governor = AdaptiveLimiter(3)
    inside = most = 0

    async def request() -> None:
        nonlocal inside, most
        await governor.enter()
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.001)
        inside -= 1
        governor.leave(overloaded=False)

    await asyncio.gather(*(request() for _ in range(30)))
    assert most == 3


async def test_failures_halve_the_limit_once_a_second_and_success_raises_it_again() -> None:
    clock = Clock()
    governor = AdaptiveLimiter(16, clock)

    async def turns(count: int, overloaded: bool) -> None:
        for _ in range(count):
            await governor.enter()
            governor.leave(overloaded)

    await turns(10, overloaded=True)
    assert governor.limit == 8
    clock.forward(1)
    await turns(1, overloaded=True)
    assert governor.limit == 4
    for _ in range(10):
        clock.forward(1)
        await turns(1, overloaded=True)
    assert governor.limit == 1
    await turns(200, overloaded=False)
    assert governor.limit == 16


async def test_who_gives_up_waiting_loses_nobody_a_turn() -> None:
    governor = AdaptiveLimiter(1)
    await governor.enter()
    waiting = [asyncio.create_task(governor.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    governor.leave(overloaded=False)  # the turn goes to the second, who is cancelled in the same moment
    waiting[1].cancel()
    await asyncio.wait_for(waiting[2], 1)
    governor.leave(overloaded=False)
    await asyncio.wait_for(governor.enter(), 1)
