"""Liveness: which parts of the receiver make no progress. ``/livez`` reports them, and Kubernetes restarts the pod.

A part pings whenever its loop goes round, also after a failed attempt: an API server that is down stops no part, a
deadlock does.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol


class Ping(Protocol):
    """Reports progress of one part. ``expected_idle``: seconds that it may now wait; ``math.inf``: it has finished."""

    def __call__(self, expected_idle: float = 0.0) -> None: ...


def no_ping(expected_idle: float = 0.0) -> None:
    """Report to nobody."""


class Watchdog:
    """Watchdog: a part is stuck if it has not pinged for ``timeout`` seconds beyond its expected idle time.

    ``now`` returns monotonic seconds.
    """

    def __init__(self, timeout: float, now: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._now = now
        self._expected_until: dict[str, float] = {}
        self._durations: dict[str, Callable[[], float]] = {}

    def register(self, name: str) -> Ping:
        """Add a part, and return the function that it calls to report progress."""

        def ping(expected_idle: float = 0.0) -> None:
            self._expected_until[name] = self._now() + expected_idle

        ping()
        return ping

    def register_duration(self, name: str, longest_running: Callable[[], float]) -> None:
        """Add a part by its duration: ``longest_running`` returns the seconds that its longest task has taken."""
        self._durations[name] = longest_running

    def stuck(self) -> Sequence[str]:
        """The names of the parts that make no progress."""
        silent = [name for name, until in self._expected_until.items() if self._now() - until > self._timeout]
        return silent + [name for name, longest in self._durations.items() if longest() > self._timeout]
