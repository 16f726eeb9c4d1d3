"""Single flight. Callers that want the same value at the same time share one fetch.

https://pkg.go.dev/golang.org/x/sync/singleflight
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from keyturn_receiver.errors import KeyturnError, detached

RESULT_TTL = 10.0  # seconds; a result is kept this long for callers whose ``since`` is before its fetch
MAX_RESULTS = 4096  # number of results that are kept; if there are more, the oldest result is dropped early

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Flight(Generic[V]):
    """One fetch. ``weight`` is the weight of the result. ``expiry`` is the timer that drops the result."""

    started: float
    result: "asyncio.Future[V]"
    weight: int = 0
    expiry: asyncio.TimerHandle | None = None


class SingleFlight(Generic[K, V]):
    """Single flight. At most one fetch runs for each key. All callers for which the result is new enough share the
    result.

    A result is new enough for a caller if the fetch started at the caller's ``since`` or later. An older result could
    miss a change. So if a rotation concerns five hundred bindings, they all share one fetch, and the next rotation
    needs another fetch. ``now`` returns monotonic seconds.

    A result is kept for ``ttl`` seconds. If ``ttl`` is 0, it is not kept. ``weigh`` returns the weight of a result. The
    oldest results are dropped early if there are more than MAX_RESULTS, or if all kept results together weigh more than
    ``max_weight``.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        ttl: float = RESULT_TTL,
        weigh: Callable[[V], int] = lambda result: 0,
        max_weight: float = math.inf,
    ) -> None:
        self._now = now
        self._ttl = ttl
        self._weigh = weigh
        self._max_weight = max_weight
        self._flights: dict[K, _Flight[V]] = {}  # the fetches that run, and the fetches whose result is kept
        self._kept: OrderedDict[K, _Flight[V]] = OrderedDict()  # the fetches whose result is kept, oldest first
        self._weight = 0

    def __len__(self) -> int:
        """Return the number of fetches that run, plus the number of kept results."""
        return len(self._flights)

    async def get(self, key: K, since: float, fetch: Callable[[], Awaitable[V]]) -> V:
        """Return the result of a fetch that started at ``since`` (monotonic seconds) or later, or raise its error."""
        while True:
            flight = self._flights.get(key)
            if flight and flight.started >= since:
                return await asyncio.shield(flight.result)
            if flight is None or flight.result.done():
                self._drop(key)
                flight = _Flight(self._now(), asyncio.ensure_future(_fetch(fetch)))
                self._flights[key] = flight
                flight.result.add_done_callback(partial(self._keep, key, flight))
                return await asyncio.shield(flight.result)
            await asyncio.wait([flight.result])  # this fetch started before ``since``; a later fetch is needed

    def _keep(self, key: K, flight: _Flight[V], result: "asyncio.Future[V]") -> None:
        """Keep the result of an ended fetch for ``ttl`` seconds."""
        # The call of ``exception`` marks the error as retrieved. Without it, asyncio would log the error if every
        # caller has given up.
        flight.weight = 0 if result.cancelled() or result.exception() else self._weigh(result.result())
        if self._flights.get(key) is not flight:
            return  # a later fetch has already replaced this fetch
        if self._ttl <= 0:
            del self._flights[key]
            return
        self._kept[key] = flight
        self._weight += flight.weight
        flight.expiry = asyncio.get_running_loop().call_later(self._ttl, self._drop, key)
        while len(self._kept) > MAX_RESULTS or self._weight > self._max_weight:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: K) -> None:
        if flight := self._kept.pop(key, None):
            self._weight -= flight.weight
            del self._flights[key]
            if flight.expiry:
                flight.expiry.cancel()


async def _fetch(fetch: Callable[[], Awaitable[V]]) -> V:
    try:
        return await fetch()
    except KeyturnError as error:
        raise detached(error) from None
