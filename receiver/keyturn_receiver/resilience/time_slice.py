"""Time slice. A long loop that never waits uses a time slice to let the event loop run other tasks every few
milliseconds."""

import asyncio
import time
from collections.abc import Callable

SLICE_MS = 5  # milliseconds


class TimeSlice:
    """Time slice. Tasks that share a time slice pause together. So all of them together run for one slice before they
    pause.

    ``now`` returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends_at = now() + SLICE_MS / 1000
        self._paused = False

    async def pause_if_over(self) -> None:
        """If the slice is over, let other tasks run. The next slice begins when the first of the paused tasks
        continues."""
        if self._now() < self._ends_at:
            return
        if self._paused:
            await asyncio.sleep(0)
            return
        self._paused = True
        try:
            await asyncio.sleep(0)
        finally:
            self._paused = False
            self._ends_at = self._now() + SLICE_MS / 1000
