"""Liveness: detection of parts that make no progress. ``/livez`` reports such parts, and Kubernetes then restarts the
container.

A part with a loop pings in every iteration, even after a failed attempt. So the liveness probe does not fail while the
API server is down. It does fail after a deadlock.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol


class Ping(Protocol):
    """Function with which a part reports that it makes progress.

    After the ping, the part may be idle for ``expected_idle`` seconds. ``math.inf`` means that the part has ended, or
    may be idle without a limit.
    """

    def __call__(self, expected_idle: float = 0.0) -> None: ...


def no_ping(expected_idle: float = 0.0) -> None:
    """Do nothing. Parts that no watchdog observes use this as their ``Ping``."""


class Watchdog:
    """Watchdog. A part is stuck if its last ping is longer ago than the part's expected idle time plus ``timeout``
    seconds.

    ``now`` returns monotonic seconds.
    """

    def __init__(self, timeout: float, now: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._now = now
        self._expected_until: dict[str, float] = {}
        self._durations: dict[str, Callable[[], float]] = {}

    def register(self, name: str) -> Ping:
        """Add a part. Return the function that the part has to call as its ``Ping``."""

        def ping(expected_idle: float = 0.0) -> None:
            self._expected_until[name] = self._now() + expected_idle

        ping()
        return ping

    def register_duration(self, name: str, longest_running: Callable[[], float]) -> None:
        """Add a part that is stuck while ``longest_running`` returns more than ``timeout`` seconds."""
        self._durations[name] = longest_running

    def stuck(self) -> Sequence[str]:
        """Return the names of the parts that make no progress."""
        silent = [name for name, until in self._expected_until.items() if self._now() - until > self._timeout]
        return silent + [name for name, longest in self._durations.items() if longest() > self._timeout]
