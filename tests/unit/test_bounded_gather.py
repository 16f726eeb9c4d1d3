"""A bounded gather runs few calls at once, and starts none when its time is over."""

import asyncio
import time
from itertools import pairwise

import pytest

from keyturn_receiver.resilience.bounded_gather import bounded_gather
from keyturn_receiver.resilience.time_slice import SLICE_MS

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


async def test_calls_that_wait_for_nothing_let_other_tasks_run() -> None:
    """A comparison of a thousand consumers must not hold up deliveries."""
    clock, turns = 0.0, [0.0]

    async def work(number: int) -> int:
        nonlocal clock
        clock += 0.001
        return number

    async def other() -> None:
        while True:
            turns.append(clock)
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert len(await bounded_gather(range(1000), work, concurrency=16, seconds=60, now=lambda: clock)) == 1000
    task.cancel()
    gaps = [after - before for before, after in pairwise([*turns, clock])]
    assert max(gaps) <= (SLICE_MS + 16) / 1000 + 1e-9
