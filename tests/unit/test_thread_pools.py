"""Bulkheads: a call that hangs is abandoned, and a pool without a free thread reports that."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from keyturn_receiver.resilience.shares import Shares
from keyturn_receiver.sources.thread_pools import CallTimeout, PoolExhausted, ThreadPool, ThreadPools, namespace_owner
from support.clock import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def hang() -> Iterator[Callable[[], str]]:
    """Yield a call that hangs until the test ends, for at most 30 s."""
    over = threading.Event()
    yield lambda: str(over.wait(30))
    over.set()


async def test_call_returns_its_result_or_raises_its_error() -> None:
    pool = ThreadPool("pool", 1)
    assert await pool.run(lambda: "result") == "result"
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    assert pool.saturated_for() == 0


async def test_call_over_its_timeout_is_abandoned_and_others_run(hang: Callable[[], str]) -> None:
    pool = ThreadPool("pool", 1, call_timeout=0.05)
    with pytest.raises(CallTimeout):
        await pool.run(hang)
    assert await pool.run(lambda: "result") == "result"
    assert pool.saturated_for() == 0


async def test_cancelled_caller_abandons_its_call(hang: Callable[[], str]) -> None:
    pool = ThreadPool("pool", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.run(hang)
    assert await pool.run(lambda: "result") == "result"


async def test_call_without_a_free_slot_raises_pool_exhausted(hang: Callable[[], str]) -> None:
    pool = ThreadPool("pool", 1, call_timeout=30, queue_timeout=0.05)
    hanging = asyncio.create_task(pool.run(hang))
    await asyncio.sleep(0)
    with pytest.raises(PoolExhausted):
        await pool.run(lambda: "result")
    hanging.cancel()


async def test_pool_without_a_free_thread_is_saturated_until_one_returns() -> None:
    clock, over = FakeClock(), threading.Event()
    pool = ThreadPool("pool", 1, call_timeout=0.05, now=clock)
    for _ in range(2):
        with pytest.raises(CallTimeout):
            await pool.run(lambda: over.wait(30))
    clock.advance(7)
    assert pool.saturated_for() == 7
    with pytest.raises(PoolExhausted):
        await pool.run(lambda: "result")
    over.set()
    while pool.saturated_for():  # noqa: ASYNC110 - a pool has no event for it
        await asyncio.sleep(0.01)
    assert await pool.run(lambda: "result") == "result"


async def test_owner_with_many_hanging_calls_takes_its_share_and_no_more(hang: Callable[[], str]) -> None:
    pool = ThreadPool("pool", 4, call_timeout=0.05, queue_timeout=0.3, shares=Shares(2))
    results = await asyncio.gather(*(pool.run(hang, "hostile") for _ in range(20)), return_exceptions=True)
    # An abandoned call counts until its thread ends, so there are only two threads, and the other calls never start.
    assert [type(each) for each in results].count(CallTimeout) == 2
    assert [type(each) for each in results].count(PoolExhausted) == 18
    begun = asyncio.get_running_loop().time()
    assert await pool.run(lambda: "result", "honest") == "result"
    assert asyncio.get_running_loop().time() - begun < 1
    assert pool.saturated_for() == 0


async def test_calls_of_one_owner_wait_behind_each_other_and_leave_nothing() -> None:
    pool = ThreadPool("pool", 8, shares=Shares(2))
    running, most = set(), []
    lock = threading.Lock()

    def call(number: int) -> int:
        with lock:
            running.add(number)
            most.append(len(running))
        threading.Event().wait(0.01)
        with lock:
            running.discard(number)
        return number

    numbers = await asyncio.gather(*(pool.run(lambda n=n: call(n), "one") for n in range(12)))
    assert numbers == list(range(12))
    assert max(most) == 2
    assert pool._shares is not None
    assert len(pool._shares) == 0


async def test_call_that_gives_up_waiting_leaves_nothing(hang: Callable[[], str]) -> None:
    pool = ThreadPool("pool", 1, call_timeout=30, queue_timeout=0.05, shares=Shares(1))
    first = asyncio.create_task(pool.run(hang, "one"))
    await asyncio.sleep(0.01)
    for owner in ("one", "two"):
        with pytest.raises(PoolExhausted):
            await pool.run(lambda: "never", owner)
    assert pool._shares is not None
    assert "one" in pool._shares
    assert len(pool._shares) == 1
    first.cancel()


@pytest.mark.parametrize("name", ["foreground", "background", "quarantine"])
async def test_namespace_whose_calls_hang_leaves_places_in_every_pool(name: str, hang: Callable[[], str]) -> None:
    pool: ThreadPool = getattr(ThreadPools.of(16), name)
    calls = [asyncio.create_task(pool.run(hang, namespace_owner("hostile"))) for _ in range(200)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(0.5):
        assert await pool.run(lambda: "result", namespace_owner("honest")) == "result"
        assert await pool.run(lambda: "result") == "result"
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_owner_with_a_limit_of_its_own_is_held_to_it(hang: Callable[[], str]) -> None:
    pool = ThreadPool("pool", 8, queue_timeout=0.05, shares=Shares(8, {"group": 3}))
    calls = [asyncio.create_task(pool.run(hang, f"one-{number}", "group")) for number in range(8)]
    done, _ = await asyncio.wait(calls, timeout=0.3)
    assert [type(each.exception()) for each in done] == [PoolExhausted] * 5
    assert pool._shares is not None
    assert len(pool._shares) == 4
    for each in calls:
        each.cancel()


async def test_batches_that_were_abandoned_leave_a_namespace_its_places(hang: Callable[[], str]) -> None:
    """After a batch hangs, its secrets are read one by one. Without a free place, these reads would wait until the
    batch's thread ends."""
    pool = ThreadPools.of(4).foreground
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.run(hang, namespace_owner("team"))
    async with asyncio.timeout(0.5):
        assert await pool.run(lambda: "result", namespace_owner("team")) == "result"
