"""Virtual time: an event loop that jumps to its next timer instead of waiting for it.

Sleeps, time-outs and timers of asyncio then take no time, but happen in the right order. This does not suit code with
threads, because the loop does not wait for threads while it has a timer.
"""

import asyncio
import selectors
import time


class VirtualTime:
    """A clock that runs like the real one, and skips the time that an event loop from ``event_loop`` would wait."""

    def __init__(self) -> None:
        self._real = time.monotonic
        self._skipped = 0.0

    def monotonic(self) -> float:
        """Return monotonic seconds; this replaces ``time.monotonic``, which the event loop reads as well."""
        return self._real() + self._skipped

    def skip(self, seconds: float) -> None:
        """Jump ahead."""
        self._skipped += seconds

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Create an event loop that uses this clock."""
        return asyncio.SelectorEventLoop(_JumpingSelector(self))


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, clock: VirtualTime) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout or timeout < 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self._clock.skip(timeout)
        return events
