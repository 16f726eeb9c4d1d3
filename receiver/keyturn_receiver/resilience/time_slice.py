"""Time slice. A long loop that never waits uses a time slice to let the event loop run other tasks every few
milliseconds."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
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


async def filter_in_slices(items: Iterable[T], condition: Callable[[T], bool]) -> list[T]:
    """Return the items for which a condition holds. Other tasks run in between, because there may be thousands of
    items."""
    found, time_slice = [], TimeSlice()
    for item in items:
        if condition(item):
            found.append(item)
        await time_slice.pause_if_over()
    return found
