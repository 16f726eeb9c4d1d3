"""Outages of the API server. A command that goes on for minutes does not end because one request is not answered."""

import time
from collections.abc import Callable

from keyturn_cli.errors import Unreachable

MAX_SECONDS = 60.0  # an outage that lasts longer ends the command
PAUSE = 1.0  # seconds until the next try


class Outage:
    """The time since the API servers have last answered. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._now = now
        self._sleep = sleep
        self._answered_at = now()

    def end(self) -> None:
        """Note that the API servers have answered."""
        self._answered_at = self._now()

    def endure(self, error: Unreachable) -> None:
        """Sleep until the next try, or raise ``error`` if the outage has lasted too long."""
        if self._now() - self._answered_at >= MAX_SECONDS:
            raise error
        self._sleep(PAUSE)
