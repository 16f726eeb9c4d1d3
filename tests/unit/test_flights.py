"""Who wants the same is given the same, unless it was fetched before they asked."""

import asyncio

import pytest

from clock import Clock
from keyturn_receiver.resilience.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


class Source:
    """Counts how often it is fetched; answers when told to."""

    def __init__(self) -> None:
        self.fetched = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.fetched += 1
        mine = self.fetched
        await self.go.wait()
        return mine


async def test_five_hundred_who_ask_for_the_same_event_cost_one_fetch() -> None:
    clock, source = Clock(), Source()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    source.go.set()
    asked = clock()
    for _ in range(5):  # in waves: the later ones come when the answer is there already
        assert set(await asyncio.gather(*(flights.get("a", asked, source) for _ in range(100)))) == {1}
        clock.forward(1)
    assert source.fetched == 1


async def test_who_asks_later_is_given_what_was_fetched_later() -> None:
    clock, source = Clock(), Source()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    first = asyncio.create_task(flights.get("a", clock(), source))
    await asyncio.sleep(0)
    clock.forward(1)
    later = [asyncio.create_task(flights.get("a", clock(), source)) for _ in range(10)]
    await asyncio.sleep(0)
    assert source.fetched == 1  # one at a time
    source.go.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}


async def test_a_failure_is_shared_and_not_kept_for_later_requests() -> None:
    clock = Clock()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    tries = 0

    async def fail() -> int:
        nonlocal tries
        tries += 1
        raise ValueError(str(tries))

    asked = clock()
    results = await asyncio.gather(*(flights.get("a", asked, fail) for _ in range(10)), return_exceptions=True)
    assert [str(result) for result in results] == ["1"] * 10
    clock.forward(1)
    with pytest.raises(ValueError, match="2"):
        await flights.get("a", clock(), fail)


async def test_giving_up_takes_the_answer_from_nobody() -> None:
    source = Source()
    flights: SingleFlight[str, int] = SingleFlight(Clock())
    impatient, patient = (asyncio.create_task(flights.get("a", 0, source)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    source.go.set()
    assert await patient == 1


async def test_values_are_not_kept_longer_than_needed() -> None:
    flights: SingleFlight[str, int] = SingleFlight(Clock(), keep=0.01)
    source = Source()
    source.go.set()
    await flights.get("a", 0, source)
    await asyncio.sleep(0.05)
    await flights.get("a", 0, source)
    assert source.fetched == 2
