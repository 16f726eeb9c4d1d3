"""A brake: what is put right over and over is undone by somebody each time, and neither side would ever rest."""

import time
from collections.abc import Callable

from keyturn_receiver.core.binding import Target

FREE_ROUNDS = 10  # times that a Secret is put right at once; from then on after delays that double
QUIET = 120.0  # seconds without a round, after which nobody undoes it any more
MAX_DELAY = 60.0  # seconds


class FightBackoff:
    """Counts the rounds of each Secret; ``now`` gives monotonic seconds. It delays, and never gives up."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._rounds: dict[Target, tuple[int, float]] = {}  # how many, and when the last was

    def delay(self, target: Target) -> float:
        """Seconds to wait before the next round."""
        rounds = self._count(target)
        return min(MAX_DELAY, 2.0 ** min(rounds - FREE_ROUNDS, 10)) if rounds >= FREE_ROUNDS else 0.0

    def take(self, target: Target) -> bool:
        """Count a round; tell whether it is the one from which on there are delays."""
        rounds = self._count(target) + 1
        self._rounds[target] = (rounds, self._now())
        return rounds == FREE_ROUNDS

    def forget(self, target: Target) -> None:
        """Keep nothing about a Secret that is not bound any more."""
        self._rounds.pop(target, None)

    def _count(self, target: Target) -> int:
        rounds, last = self._rounds.get(target, (0, 0.0))
        return rounds if self._now() - last <= QUIET else 0
