"""Detector of foreign writes. A foreign write is a change of a Secret's versions that another replica has made.

Each replica sees the writes of all replicas. It knows the causes of only its own writes.
"""

import time
from collections.abc import Callable

from keyturn_receiver.core.binding import Target

WATCH_SECONDS = 5.0  # seconds in which the watch is expected to show a write of this replica


class ForeignWrites:
    """Detector of foreign writes. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._versions: dict[Target, int] = {}  # a hash of the present version ids of each Secret
        self._running: dict[Target, int | None] = {}  # this hash at the start of the running reconcile
        self._awaited: dict[Target, float] = {}  # the time until which the watch should show a write

    def begin(self, target: Target) -> None:
        """Record that a reconcile of this replica begins. Each Secret has at most one running reconcile."""
        self._running[target] = self._versions.get(target)

    def finish(self, target: Target, changed: bool) -> None:
        """Record that the reconcile has ended. ``changed`` tells whether it has changed the Secret."""
        before = self._running.pop(target, None)
        if changed and self._versions.get(target) == before:
            self._awaited[target] = self._now() + WATCH_SECONDS

    def is_foreign(self, target: Target, versions: str | None) -> bool:
        """Return whether another replica has written the present versions. ``versions`` is the text of the annotation
        with the version ids, or None if the Secret is gone. The first fill of a Secret is never a foreign write."""
        if versions is None:
            self._versions.pop(target, None)
            self._awaited.pop(target, None)
            return False
        known, present = self._versions.get(target), hash(versions)
        if known == present:
            return False
        self._versions[target] = present
        is_own = target in self._running or self._awaited.pop(target, 0.0) > self._now()
        return known not in (None, hash("")) and not is_own
