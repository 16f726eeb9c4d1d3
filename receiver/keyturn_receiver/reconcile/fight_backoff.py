"""Back-off for a Secret that another writer keeps reverting, because otherwise neither side would ever rest."""

from dataclasses import dataclass

from keyturn_receiver.resilience.backoff import Backoff

FREE_ATTEMPTS = 10  # repairs of a Secret without a delay; the delays of later ones double each time
RESET_AFTER = 120.0  # seconds without a repair after which the other writer counts as gone
REPAIR_BACKOFF = Backoff(base=1.0, cap=60.0, jitter=0)  # seconds between repairs after the free ones


@dataclass(slots=True)
class FightBackoff:
    """Counts the repairs of one Secret. Delays later repairs, but never gives up. All times are monotonic seconds."""

    attempts: int = 0
    last_at: float = 0.0

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next repair."""
        attempts = self._recent(now)
        return REPAIR_BACKOFF.delay(attempts - FREE_ATTEMPTS + 1) if attempts >= FREE_ATTEMPTS else 0.0

    def record(self, now: float) -> bool:
        """Count a repair. Returns whether the next one is the first with a delay."""
        self.attempts, self.last_at = self._recent(now) + 1, now
        return self.attempts == FREE_ATTEMPTS

    def _recent(self, now: float) -> int:
        return self.attempts if now - self.last_at <= RESET_AFTER else 0
