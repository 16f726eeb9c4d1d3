"""Nobody waits for a thread that does not come back, and somebody notices when none is left."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from keyturn_receiver.sources.thread_pools import CallTimeout, PoolExhausted, ThreadPool
from support.clock import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def hang() -> Iterator[Callable[[], str]]:
    """A call that ends with the test, and not before."""
    over = threading.Event()
    yield lambda: str(over.wait(30))
    over.set()


async def test_a_call_gives_what_it_returns_and_raises_what_it_raises() -> None:
    lane = ThreadPool("lane", 1)
    assert await lane.run(lambda: "answer") == "answer"
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 // 0)
    assert lane.saturated_for() == 0


async def test_a_call_that_takes_too_long_is_left_alone_and_others_go_on(hang: Callable[[], str]) -> None:
    lane = ThreadPool("lane", 1, call_timeout=0.05)
    with pytest.raises(CallTimeout):
        await lane.run(hang)
    assert await lane.run(lambda: "answer") == "answer"
    assert lane.saturated_for() == 0


async def test_whoever_gives_up_waiting_leaves_the_call_alone(hang: Callable[[], str]) -> None:
    lane = ThreadPool("lane", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lane.run(hang)
    assert await lane.run(lambda: "answer") == "answer"


async def test_no_more_run_at_once_than_there_are_threads(hang: Callable[[], str]) -> None:
    lane = ThreadPool("lane", 1, call_timeout=30, queue_timeout=0.05)
    held = asyncio.create_task(lane.run(hang))
    await asyncio.sleep(0)
    with pytest.raises(PoolExhausted):
        await lane.run(lambda: "answer")
    held.cancel()


async def test_a_lane_with_no_thread_left_is_stalled_until_one_comes_back() -> None:
    clock, over = Clock(), threading.Event()
    lane = ThreadPool("lane", 1, call_timeout=0.05, now=clock)
    for _ in range(2):
        with pytest.raises(CallTimeout):
            await lane.run(lambda: over.wait(30))
    clock.forward(7)
    assert lane.saturated_for() == 7
    with pytest.raises(PoolExhausted):
        await lane.run(lambda: "answer")
    over.set()
    while lane.saturated_for():  # noqa: ASYNC110 - a lane tells nobody
        await asyncio.sleep(0.01)
    assert await lane.run(lambda: "answer") == "answer"
