"""Virtual time: an event loop that jumps to its next timer instead of waiting for it.

Sleeps, time-outs and timers of asyncio take no time, but still fire in the right order. Virtual time does not suit code
that uses threads, because the loop jumps to its next timer without waiting for them.
"""

import asyncio
import selectors
import time


class VirtualTime:
    """A clock that runs like the real one, but skips the time that its event loop would spend waiting."""

    def __init__(self) -> None:
        self._real = time.monotonic
        self._skipped = 0.0

    def monotonic(self) -> float:
        """Return monotonic seconds. This replaces ``time.monotonic``, which the event loop reads as well."""
        return self._real() + self._skipped

    def skip(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``."""
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
