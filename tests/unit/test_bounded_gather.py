"""A bounded gather runs few calls at once, and starts none when its time is over."""

import asyncio
import time

import pytest

from keyturn_receiver.resilience.bounded_gather import bounded_gather

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_results_are_in_order_and_few_calls_run_at_once() -> None:
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1 * (number % 3))
        running -= 1
        return 2 * number

    results = await bounded_gather(range(40), work, concurrency=7, seconds=60, now=time.monotonic)
    assert results == [2 * number for number in range(40)]
    assert most == 7


async def test_calls_that_would_start_too_late_are_left_out() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(1)
        return number

    assert await bounded_gather(range(100), work, concurrency=2, seconds=4.5, now=time.monotonic) == list(range(10))
    assert await bounded_gather([], work, concurrency=2, seconds=4.5) == []


async def test_error_is_raised_after_the_other_calls_have_ended() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        if number == 0:
            raise KeyError("x")
        await asyncio.sleep(1)
        ended.append(number)

    with pytest.raises(KeyError):
        await bounded_gather(range(4), work, concurrency=4, seconds=60, now=time.monotonic)
    assert ended == [1, 2, 3]
