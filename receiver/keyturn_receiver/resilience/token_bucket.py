"""Token bucket: https://en.wikipedia.org/wiki/Token_bucket"""

import asyncio
import time
from collections.abc import Callable, Hashable

from keyturn_receiver.resilience.bounded_map import BoundedMap

MAX_BUCKETS = 1000  # number of buckets of one ``TokenBuckets``; a bucket that was dropped starts full again


class TokenBucket:
    """Token bucket. It allows ``rate`` actions per second on average, and up to ``burst`` actions at once after a
    pause.

    The bucket starts full. ``now`` returns monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = float(burst)
        self._filled_at = now()

    def delay(self) -> float:
        """Return the seconds until the bucket has a token. Return 0.0 if it has one now."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return max(0.0, (1 - self._tokens) / self._rate)

    def take(self) -> float:
        """Take a token and return 0.0. If there is no token, return the seconds until the next one."""
        delay = self.delay()
        if not delay:
            self._tokens -= 1
        return delay

    def reserve(self) -> float:
        """Take a token in advance. Return the seconds until the bucket has this token. Return 0.0 if it has the token
        now."""
        delay = self.delay()
        self._tokens -= 1
        return delay


class TokenBuckets:
    """Token buckets, one bucket per key, such as a namespace. All buckets have the same ``rate`` and ``burst``."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._buckets: BoundedMap[Hashable, TokenBucket] = BoundedMap(MAX_BUCKETS, lru=True)

    def of(self, key: Hashable) -> TokenBucket:
        """Return the bucket of a key."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst, self._now)
            self._buckets.put(key, bucket)
        return bucket

    async def wait(self, key: Hashable) -> None:
        """Wait until the bucket of a key has a token, and take it. Waiting callers get their tokens in the order of
        their calls."""
        if delay := self.of(key).reserve():
            await asyncio.sleep(delay)
