"""Token bucket: https://en.wikipedia.org/wiki/Token_bucket"""

import time
from collections.abc import Callable


class TokenBucket:
    """Token bucket. Allows ``rate`` actions per second on average, and up to ``burst`` at once after a pause.

    The bucket starts full. ``now`` returns monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = float(burst)
        self._filled_at = now()

    def take(self) -> float:
        """Take a token and return 0.0. If there is no token, return the seconds until the next one."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
