"""Back-off against another writer who reverts the same Secret each time: neither side would ever rest."""

from dataclasses import dataclass

from keyturn_receiver.resilience.backoff import Backoff

FREE_ATTEMPTS = 10  # repairs of a Secret without a delay; from then on after delays that double
RESET_AFTER = 120.0  # seconds without a repair, after which nobody reverts the Secret any more
REPAIR_BACKOFF = Backoff(base=1.0, cap=60.0, jitter=0)  # seconds between the repairs after the free ones


@dataclass(slots=True)
class FightBackoff:
    """Counts the repairs of one Secret. It delays them, and never gives up. All times are monotonic seconds."""

    attempts: int = 0
    last_at: float = 0.0

    def delay(self, now: float) -> float:
        """Seconds to wait before the next repair."""
        attempts = self._recent(now)
        return REPAIR_BACKOFF.delay(attempts - FREE_ATTEMPTS + 1) if attempts >= FREE_ATTEMPTS else 0.0

    def record(self, now: float) -> bool:
        """Count a repair; return whether it is the one from which on there are delays."""
        self.attempts, self.last_at = self._recent(now) + 1, now
        return self.attempts == FREE_ATTEMPTS

    def _recent(self, now: float) -> int:
        return self.attempts if now - self.last_at <= RESET_AFTER else 0
