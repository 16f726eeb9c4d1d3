"""Single flight. Callers that want the same value at the same time share one fetch.

https://pkg.go.dev/golang.org/x/sync/singleflight
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

RESULT_TTL = 10.0  # seconds that a result is kept for callers whose event happened before the fetch

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Flight(Generic[V]):
    started: float
    result: "asyncio.Future[V]"


class SingleFlight(Generic[K, V]):
    """Single flight. At most one fetch runs for each key, and its result is shared by all callers for which it is new
    enough.

    A result is new enough for a caller if the fetch started at the caller's ``since`` or later. An older result could
    miss a change. So all five hundred bindings of one rotation cost one fetch, and the next rotation costs another one.
    ``now`` returns monotonic seconds. A result is kept for ``ttl`` seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, ttl: float = RESULT_TTL) -> None:
        self._now = now
        self._ttl = ttl
        self._flights: dict[K, _Flight[V]] = {}

    async def get(self, key: K, since: float, fetch: Callable[[], Awaitable[V]]) -> V:
        """Return the result of a fetch that started at ``since`` (monotonic seconds) or later, or raise its error."""
        while True:
            flight = self._flights.get(key)
            if flight and flight.started >= since:
                return await asyncio.shield(flight.result)
            if flight is None or flight.result.done():
                flight = _Flight(self._now(), asyncio.ensure_future(fetch()))
                self._flights[key] = flight
                flight.result.add_done_callback(lambda result: self._done(key, result))
                return await asyncio.shield(flight.result)
            await asyncio.wait([flight.result])  # this fetch started too early; the next one will not

    def _done(self, key: K, result: "asyncio.Future[V]") -> None:
        if not result.cancelled():
            result.exception()  # this marks the error as retrieved, because every caller may have given up
        asyncio.get_running_loop().call_later(self._ttl, self._expire, key, result)

    def _expire(self, key: K, result: "asyncio.Future[V]") -> None:
        flight = self._flights.get(key)
        if flight and flight.result is result:
            del self._flights[key]
