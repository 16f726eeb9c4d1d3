"""Bounded gather. It makes many calls and gathers their results. It limits the number of concurrent calls, and the time
in which calls start."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from keyturn_receiver.resilience.time_slice import TimeSlice

T = TypeVar("T")
R = TypeVar("R")


async def bounded_gather(
    items: Sequence[T],
    work: Callable[[T], Awaitable[R]],
    concurrency: int,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> Sequence[R]:
    """Call ``work`` for each item, at most ``concurrency`` at once, and return the results in the order of the items.

    After ``seconds``, no further call starts. Calls that have started run to their end, however long they take. The
    remaining items get no call and no result. Between calls, the event loop can run other tasks, even if no call ever
    waits. If ``work`` raises an error, this function raises it after all calls have ended. ``now`` returns monotonic
    seconds.
    """
    deadline = now() + seconds
    time_slice = TimeSlice(now)
    results: dict[int, R] = {}
    queue = iter(enumerate(items))

    async def worker() -> None:
        for number, item in queue:
            results[number] = await work(item)
            await time_slice.pause_if_over()
            if now() >= deadline:
                return

    ended = await asyncio.gather(*(worker() for _ in range(min(concurrency, len(items)))), return_exceptions=True)
    for each in ended:
        if each is not None:
            raise each
    return [results[number] for number in sorted(results)]
