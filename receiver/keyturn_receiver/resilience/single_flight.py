"""Joining those who want the same thing at the same time: one of them fetches it, and all get what it found."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

KEEP = 10.0  # seconds that a finding is kept for those who asked before it was begun

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Flight(Generic[V]):
    begun: float
    landing: "asyncio.Future[V]"


class SingleFlight(Generic[K, V]):
    """At most one fetch under way for each key. ``now`` gives monotonic seconds.

    What was fetched is good for whoever asked before the fetch began, and for nobody else: a later change would be
    missed. So five hundred bindings of one rotation cost one fetch, and the next rotation another.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, keep: float = KEEP) -> None:
        self._now = now
        self._keep = keep
        self._flights: dict[K, _Flight[V]] = {}

    async def get(self, key: K, since: float, fetch: Callable[[], Awaitable[V]]) -> V:
        """Give what a fetch begun at ``since`` (monotonic seconds) or later finds, or raise what it raises."""
        while True:
            flight = self._flights.get(key)
            if flight and flight.begun >= since:
                return await asyncio.shield(flight.landing)
            if flight is None or flight.landing.done():
                flight = _Flight(self._now(), asyncio.ensure_future(fetch()))
                self._flights[key] = flight
                flight.landing.add_done_callback(lambda landing: self._landed(key, landing))
                return await asyncio.shield(flight.landing)
            await asyncio.wait([flight.landing])  # what it finds may be too old for us; the next one will do

    def _landed(self, key: K, landing: "asyncio.Future[V]") -> None:
        if not landing.cancelled():
            landing.exception()  # somebody looked at it
        asyncio.get_running_loop().call_later(self._keep, self._forget, key, landing)

    def _forget(self, key: K, landing: "asyncio.Future[V]") -> None:
        flight = self._flights.get(key)
        if flight and flight.landing is landing:
            del self._flights[key]
