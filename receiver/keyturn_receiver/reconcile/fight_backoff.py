"""Back-off for a fight about a Secret, in which another writer keeps reverting the Secret. Without a back-off, Keyturn
and the other writer would write without a pause."""

from dataclasses import dataclass

from keyturn_receiver.resilience.backoff import Backoff

FREE_ATTEMPTS = 10  # how often a Secret is repaired without a delay; after that, the delay doubles each time
RESET_AFTER = 120.0  # if a Secret needs no repair for this many seconds, the other writer is considered gone
REPAIR_BACKOFF = Backoff(base=1.0, cap=60.0, jitter=0)  # seconds of delay, after FREE_ATTEMPTS repairs


@dataclass(slots=True)
class FightBackoff:
    """Counts the repairs of one Secret. After FREE_ATTEMPTS repairs, each repair is delayed, but none is skipped. All
    times are monotonic seconds."""

    attempts: int = 0
    last_at: float = 0.0

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next repair."""
        attempts = self._recent(now)
        return REPAIR_BACKOFF.delay(attempts - FREE_ATTEMPTS + 1) if attempts >= FREE_ATTEMPTS else 0.0

    def record(self, now: float) -> bool:
        """Count a repair. Return whether the next repair will be the first one with a delay."""
        self.attempts, self.last_at = self._recent(now) + 1, now
        return self.attempts == FREE_ATTEMPTS

    def _recent(self, now: float) -> int:
        return self.attempts if now - self.last_at <= RESET_AFTER else 0
