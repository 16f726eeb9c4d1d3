"""Change brake: slows down the restarts for a watched Secret whose values change again and again.

Each new value would restart the readers, and Keyturn cannot tell a rotation from a controller that makes a new password
in each of its loops. The brake also answers an owner that removes Keyturn's annotation with each of its writes, and
somebody who may not read a Secret, but makes it anew with guesses to see whether its readers get an earlier mark.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from keyturn_receiver.core.binding import Target
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.resilience.fair_map import FairMap

# Changes that are followed at once; after that, the delay doubles each time. The first sight of a Secret is one.
FREE_CHANGES = 4
MAX_DELAY = 300.0  # seconds
BACKOFF = Backoff(base=10.0, cap=MAX_DELAY, jitter=0)  # between two changes that are followed, after the free ones
RESET_AFTER = 900.0  # seconds without a change after which the brake is off again
MAX_SECRETS = 10_000  # Secrets whose changes are remembered


@dataclass(slots=True)
class _Changes:
    count: int = 0
    last_at: float = 0.0
    free_at: float = 0.0
    version: str = ""


class ChangeBrake:
    """Brake. Counts the changes of watched Secrets. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changes: FairMap[str, Target, _Changes] = FairMap(MAX_SECRETS)  # by namespace

    def delay(self, target: Target) -> float:
        """Return the seconds to wait before the next change of a Secret is followed."""
        changes = self._changes.get(target.namespace, target)
        return max(0.0, changes.free_at - self._now()) if changes else 0.0

    def record(self, target: Target, version: str) -> bool:
        """Count a change that is followed. ``version`` identifies it, so that it counts once. Return whether the next
        change is the first one that has to wait."""
        now = self._now()
        changes = self._changes.get(target.namespace, target) or _Changes()
        if changes.version == version:
            return False
        if now - changes.last_at > RESET_AFTER:
            changes.count = 0
        changes.count, changes.last_at, changes.version = changes.count + 1, now, version
        if changes.count >= FREE_CHANGES:
            changes.free_at = now + BACKOFF.delay(changes.count - FREE_CHANGES + 1)
        self._changes.put(target.namespace, target, changes)
        return changes.count == FREE_CHANGES
