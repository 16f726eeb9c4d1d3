"""Change brake: slows down the restarts for a watched Secret whose values change again and again.

Each new value would restart the readers. Keyturn cannot tell a rotation from a controller that makes a new password in
each run of its loop. The brake also slows down an owner that removes Keyturn's annotation with each of its writes. It
also slows down guesses. A person who may not read a Secret could create the Secret again and again with guessed values.
The guess was right if the readers of the Secret then get the same mark as before. A mark is the annotation that
restarts the readers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from keyturn_receiver.core.binding import Target
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.resilience.fair_map import FairMap

# The number of changes of a Secret without a delay. After them, the delay doubles with each change. The first version
# of a Secret that this replica sees counts as a change.
FREE_CHANGES = 4
MAX_DELAY = 300.0  # seconds
BACKOFF = Backoff(base=10.0, cap=MAX_DELAY, jitter=0)  # seconds of delay, after FREE_CHANGES changes
RESET_AFTER = 900.0  # after this many seconds without a change, the count begins again
MAX_SECRETS = 10_000  # Secrets whose changes are remembered


@dataclass(slots=True)
class _Changes:
    count: int = 0
    last_at: float = 0.0
    free_at: float = 0.0
    version: str = ""


class ChangeBrake:
    """Brake. Counts the changes of each watched Secret, and delays the later changes. ``now`` returns monotonic
    seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changes: FairMap[str, Target, _Changes] = FairMap(MAX_SECRETS)  # by namespace

    def delay(self, target: Target) -> float:
        """Return the seconds to wait before the next change of a Secret is reconciled."""
        changes = self._changes.get(target.namespace, target)
        return max(0.0, changes.free_at - self._now()) if changes else 0.0

    def record(self, target: Target, version: str) -> bool:
        """Count a change that is reconciled. Return whether the next change is the first one with a delay.

        ``version`` identifies the change. A change with the ``version`` of the last counted change of this Secret is
        not counted again; the result is then False.
        """
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
