"""Replay cache. If the same bytes are delivered again, the reply has the same results as before, and no work is done.

The notifier signs each attempt separately, with the time of the attempt. So if two deliveries have the same bytes, the
second is a replay, or a proxy has sent it again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from keyturn_contract.message import Outcome, Result
from keyturn_contract.signature import TOLERANCE

TTL = 2 * TOLERANCE  # seconds; a signature whose timestamp is TOLERANCE ahead is accepted this long
MAX_SIZE = 4 * 1024 * 1024  # characters of all kept results together
FAILURE_TTL = 1.0  # seconds for which failed results are kept; after that, the same bytes are a new attempt
_OVERHEAD = 1024  # characters that each entry counts in addition to its results

Results = Sequence[Result]


@dataclass(slots=True)
class _Entry:
    expires: float
    results: "asyncio.Future[Results]"
    size: int = _OVERHEAD


class ReplayCache:
    """Replay cache. It keeps the results of the deliveries of the last ``ttl`` seconds. The digest of a delivery is the
    key.

    If all results together take more than ``max_size`` characters, the oldest results are dropped. ``now`` returns
    monotonic seconds.
    """

    def __init__(self, ttl: float = TTL, max_size: int = MAX_SIZE, now: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._max_size = max_size
        self._now = now
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, digest: bytes) -> bool:
        """Return whether the cache has a delivery with this digest."""
        while self._entries and (oldest := next(iter(self._entries.items())))[1].expires <= self._now():
            self._discard(*oldest)
        entry = self._entries.get(digest)
        return entry is not None and entry.expires > self._now()

    async def get(self, digest: bytes, handle: Callable[[], Awaitable[Results]]) -> Results:
        """Return the results of the delivery. ``handle`` is called only if the cache does not have the delivery.

        If the first delivery is still being handled, a replay waits for its results. If ``handle`` raises an error, all
        waiting calls raise this error, and nothing is kept.
        """
        if digest in self:
            return await asyncio.shield(self._entries[digest].results)
        if failed := self._entries.get(digest):
            self._discard(digest, failed)
        entry = _Entry(self._now() + self._ttl, asyncio.get_running_loop().create_future())
        self._entries[digest] = entry
        self._grow(entry.size)
        try:
            results = await handle()
        except BaseException as error:
            self._discard(digest, entry)
            entry.results.set_exception(error if isinstance(error, Exception) else ConnectionAbortedError())
            entry.results.exception()  # marks the error as retrieved, because possibly no call waits for it
            raise
        entry.results.set_result(results)
        if any(result.outcome is Outcome.FAILED for result in results):
            entry.expires = self._now() + FAILURE_TTL
        if self._entries.get(digest) is entry:
            size = sum(map(_size, results))
            entry.size += size
            self._grow(size)
        return results

    def _grow(self, size: int) -> None:
        self._size += size
        while self._size > self._max_size and self._entries:
            self._discard(*next(iter(self._entries.items())))

    def _discard(self, digest: bytes, entry: _Entry) -> None:
        if self._entries.get(digest) is entry:
            del self._entries[digest]
            self._size -= entry.size


def _size(result: Result) -> int:
    names = (*result.secrets, *result.consumers, *result.retrying)
    return len(result.reason or "") + sum(map(len, names)) + sum(each.length for each in result.versions)
