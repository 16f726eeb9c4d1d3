"""Replay cache: a delivery causes work only once, however often the same bytes arrive."""

import asyncio
from typing import Self

import pytest

from keyturn_contract.message import Outcome, Result
from keyturn_receiver.web.replay_cache import _OVERHEAD, ReplayCache, Results
from support.clock import FakeClock

pytestmark = pytest.mark.anyio
APPLIED = (Result("1", Outcome.APPLIED, ("team/db",)),)


class Work:
    """Counts its calls. Each call waits for ``go``, and then returns the results or raises the error."""

    def __init__(self, results: Results = APPLIED, error: Exception | None = None) -> None:
        self.calls = 0
        self.go = asyncio.Event()
        self._results = results
        self._error = error

    def started(self) -> Self:
        """Let calls end without waiting, and return this object."""
        self.go.set()
        return self

    async def __call__(self) -> Results:
        self.calls += 1
        await self.go.wait()
        if self._error:
            raise self._error
        return self._results


async def test_replay_of_a_finished_delivery_gets_its_results_without_work() -> None:
    cache, work = ReplayCache(), Work()
    work.go.set()
    assert [await cache.get(b"a", work) for _ in range(3)] == [APPLIED] * 3
    assert work.calls == 1


async def test_replays_of_a_delivery_under_way_wait_for_its_results() -> None:
    cache, work = ReplayCache(), Work()
    callers = [asyncio.create_task(cache.get(b"a", work)) for _ in range(200)]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*callers) == [APPLIED] * 200
    assert work.calls == 1


async def test_other_bytes_are_another_delivery() -> None:
    cache, work = ReplayCache(), Work()
    work.go.set()
    for digest in (b"a", b"b"):
        await cache.get(digest, work)
    assert work.calls == 2


async def test_error_reaches_all_who_wait_and_the_next_delivery_is_handled() -> None:
    cache, work = ReplayCache(), Work(error=RuntimeError("busy"))
    callers = [asyncio.create_task(cache.get(b"a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go.set()
    assert [type(each) for each in await asyncio.gather(*callers, return_exceptions=True)] == [RuntimeError] * 3
    assert work.calls == 1
    assert b"a" not in cache
    working = Work()
    working.go.set()
    assert await cache.get(b"a", working) == APPLIED


async def test_client_that_goes_away_leaves_no_entry_behind() -> None:
    cache, work = ReplayCache(), Work()
    caller = asyncio.create_task(cache.get(b"a", work))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert b"a" not in cache
    assert len(cache) == 0


async def test_results_are_forgotten_after_their_time_and_not_before() -> None:
    clock, work = FakeClock(), Work()
    cache = ReplayCache(ttl=600, now=clock)
    work.go.set()
    await cache.get(b"a", work)
    clock.advance(599)
    assert b"a" in cache
    clock.advance(1)
    assert b"a" not in cache


async def test_failed_results_are_kept_for_a_second_so_that_a_resend_is_a_new_attempt() -> None:
    clock, work = FakeClock(), Work((Result("1", Outcome.FAILED),))
    cache = ReplayCache(now=clock)
    await cache.get(b"b", Work((Result("2", Outcome.FAILED),)).started())
    clock.advance(0.9)
    await cache.get(b"b", work)
    assert work.calls == 0
    clock.advance(0.1)
    assert await cache.get(b"b", work.started()) == (Result("1", Outcome.FAILED),)
    assert work.calls == 1
    assert len(cache) == 1


async def test_size_of_all_results_is_bounded_and_the_oldest_go_first() -> None:
    large = (Result("1", Outcome.IGNORED, reason="x" * 5000),)
    work = Work(large)
    work.go.set()
    cache = ReplayCache(max_size=10 * (5000 + _OVERHEAD))
    for number in range(1000):
        await cache.get(str(number).encode(), work)
    assert 9 <= len(cache) <= 10
    assert b"999" in cache
    assert b"0" not in cache
