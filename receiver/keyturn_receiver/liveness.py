"""The pulse: which parts of the receiver still make progress. Liveness follows it.

A part beats whenever it goes on, a failed try included: an API server that is gone stops nothing here, a deadlock does.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol


class Ping(Protocol):
    """Tells that a part goes on, and for how many seconds it may now rest on purpose; ``math.inf``: it is done."""

    def __call__(self, rest: float = 0.0) -> None: ...


def no_ping(rest: float = 0.0) -> None:
    """Tell nobody."""


class Watchdog:
    """Takes the beats of parts; one that is silent for more than ``silence`` seconds beyond its rest is stuck."""

    def __init__(self, silence: float, now: Callable[[], float] = time.monotonic) -> None:
        self._silence = silence
        self._now = now
        self._beats: dict[str, float] = {}
        self._durations: dict[str, Callable[[], float]] = {}

    def register(self, name: str) -> Ping:
        """Add a part, and give it what to call when it goes on."""

        def beat(rest: float = 0.0) -> None:
            self._beats[name] = self._now() + rest

        beat()
        return beat

    def watch(self, name: str, longest: Callable[[], float]) -> None:
        """Add a part that tells how many seconds the longest of what it does has taken."""
        self._durations[name] = longest

    def stuck(self) -> Sequence[str]:
        """The parts that make no progress."""
        silent = [name for name, at in self._beats.items() if self._now() - at > self._silence]
        return silent + [name for name, longest in self._durations.items() if longest() > self._silence]
