"""Single flight: callers with the same key share a fetch, unless the fetch started before a caller's event."""

import asyncio
import weakref

import pytest

from keyturn_receiver.errors import SourceUnavailable, detached
from keyturn_receiver.resilience.single_flight import MAX_RESULTS, SingleFlight
from support.clock import FakeClock

pytestmark = pytest.mark.anyio


class Source:
    """A source that counts its fetches, and answers as soon as ``go`` is set."""

    def __init__(self) -> None:
        self.fetched = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.fetched += 1
        number = self.fetched
        await self.go.wait()
        return number


async def test_five_hundred_callers_with_the_same_event_cost_one_fetch() -> None:
    clock, source = FakeClock(), Source()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    source.go.set()
    since = clock()
    for _ in range(5):  # the later callers find the result already there
        assert set(await asyncio.gather(*(flights.get("a", since, source) for _ in range(100)))) == {1}
        clock.advance(1)
    assert source.fetched == 1


async def test_later_caller_gets_the_result_of_a_later_fetch() -> None:
    clock, source = FakeClock(), Source()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    first = asyncio.create_task(flights.get("a", clock(), source))
    await asyncio.sleep(0)
    clock.advance(1)
    later = [asyncio.create_task(flights.get("a", clock(), source)) for _ in range(10)]
    await asyncio.sleep(0)
    assert source.fetched == 1  # only one fetch runs at a time
    source.go.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}


async def test_failure_is_shared_and_not_kept_for_later_callers() -> None:
    clock = FakeClock()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    tries = 0

    async def fail() -> int:
        nonlocal tries
        tries += 1
        raise ValueError(str(tries))

    since = clock()
    results = await asyncio.gather(*(flights.get("a", since, fail) for _ in range(10)), return_exceptions=True)
    assert [str(result) for result in results] == ["1"] * 10
    clock.advance(1)
    with pytest.raises(ValueError, match="2"):
        await flights.get("a", clock(), fail)


async def test_cancelled_caller_takes_the_result_from_nobody() -> None:
    source = Source()
    flights: SingleFlight[str, int] = SingleFlight(FakeClock())
    impatient, patient = (asyncio.create_task(flights.get("a", 0, source)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    source.go.set()
    assert await patient == 1


async def test_result_is_dropped_after_its_ttl() -> None:
    flights: SingleFlight[str, int] = SingleFlight(FakeClock(), ttl=0.01)
    source = Source()
    source.go.set()
    await flights.get("a", 0, source)
    await asyncio.sleep(0.05)
    await flights.get("a", 0, source)
    assert source.fetched == 2


async def kept(flights: SingleFlight[str, bytes], *keys: str) -> list[str]:
    """Return those of the keys whose result the flights still keep."""

    async def fetch_again() -> bytes:
        again.append(True)
        return b""

    found = []
    for key in keys:
        again: list[bool] = []
        await flights.get(key, 0.0, fetch_again)
        if not again:
            found.append(key)
    return found


async def test_results_are_dropped_oldest_first_beyond_their_weight() -> None:
    flights: SingleFlight[str, bytes] = SingleFlight(weigh=len, max_weight=10)

    async def fetch() -> bytes:
        return b"1234"

    for key in "abc":
        await flights.get(key, 0.0, fetch)
    assert len(flights) == 2
    assert await kept(flights, "b", "c") == ["b", "c"]
    assert await kept(flights, "a") == []


async def test_number_of_results_is_bounded() -> None:
    flights: SingleFlight[int, int] = SingleFlight()

    async def fetch() -> int:
        return 1

    for number in range(MAX_RESULTS + 50):
        await flights.get(number, 0.0, fetch)
    assert len(flights) == MAX_RESULTS


async def test_later_fetch_takes_the_place_of_a_result_and_of_its_weight() -> None:
    flights: SingleFlight[str, bytes] = SingleFlight(weigh=len, max_weight=10)

    async def fetch() -> bytes:
        return b"123456"

    loop = asyncio.get_running_loop()
    for _ in range(5):
        assert await flights.get("a", loop.time(), fetch) == b"123456"
    assert len(flights) == 1
    assert await kept(flights, "a") == ["a"]


async def test_result_is_dropped_after_its_time() -> None:
    flights: SingleFlight[str, bytes] = SingleFlight(ttl=0.01, weigh=len, max_weight=10)

    async def fetch() -> bytes:
        return b"1234"

    await flights.get("a", 0.0, fetch)
    await asyncio.sleep(0.05)
    assert len(flights) == 0
    assert await kept(flights, "a") == []


async def test_error_that_is_kept_holds_nothing_of_what_failed() -> None:
    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    async def fetch() -> str:
        large = Large()
        held.append(weakref.ref(large))
        try:
            raise ValueError("the SDK's error")
        except ValueError:
            raise SourceUnavailable("AWS does not answer") from None

    flights: SingleFlight[str, str] = SingleFlight()

    async def read() -> SourceUnavailable:
        large = Large()
        held.append(weakref.ref(large))
        try:
            await flights.get("db", 0.0, fetch)
        except SourceUnavailable as error:
            return detached(error)
        raise AssertionError("no error")

    errors = await asyncio.gather(*(read() for _ in range(20)))
    assert len(flights) == 1  # the error is kept for a while
    assert all(error is errors[0] for error in errors)
    assert [each() for each in held] == [None] * 21
