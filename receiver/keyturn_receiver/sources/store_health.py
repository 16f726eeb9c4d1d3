"""Circuit breaker of a store (an AWS identity in a region).

A store is proven while it is known to answer. It is suspect if it has never answered, or if several calls in a row got
no answer.
"""

import time
from collections.abc import Callable

from keyturn_receiver.resilience.backoff import Backoff

MAX_SILENT_CALLS = 3  # after this many unanswered calls in a row, a store that has answered before is suspect
PROBE_BACKOFF = Backoff(base=5.0, cap=60.0)  # seconds between two attempts at a store that does not answer


class StoreHealth:
    """Circuit breaker. It says whether the store is proven, and for how long no call should be made.

    A ``trusted`` store is always proven. Only the receiver's own store is trusted, because bindings do not choose it.
    ``now`` returns monotonic seconds.
    """

    def __init__(self, trusted: bool, now: Callable[[], float] = time.monotonic) -> None:
        self.trusted = trusted
        self._now = now
        self._has_answered = False
        self._silent_calls = 0
        self._attempts = 0
        self._rests_until = 0.0

    @property
    def proven(self) -> bool:
        """Whether the store is known to answer, or is trusted."""
        return self.trusted or self._has_answered

    def rests_for(self) -> float:
        """Return the number of seconds for which no call should be made. It is 0.0 if a call may be made now."""
        return max(0.0, self._rests_until - self._now())

    def answered(self) -> None:
        """Record an answer. An error that AWS returns is an answer, too."""
        self._has_answered = True
        self._silent_calls = self._attempts = 0
        self._rests_until = 0.0

    def silent(self, about_secret: bool = False) -> bool:
        """Record a call without an answer. Return whether the caller now has to check the store with a call that names
        no secret.

        Calls about one secret may hang although the store answers all others, and tenants choose the secrets. So a
        proven store rests only after a call that names no secret has hung, too.
        """
        if self.trusted:
            return False
        self._silent_calls += 1
        suspect = not self._has_answered or self._silent_calls >= MAX_SILENT_CALLS
        if suspect and not (about_secret and self._has_answered):
            self._has_answered = False
            self._attempts += 1
            self._rests_until = self._now() + PROBE_BACKOFF.delay(self._attempts)
        return suspect and about_secret
