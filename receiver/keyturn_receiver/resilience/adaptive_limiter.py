"""The governor: how many requests the API server gets at once. As many as it answers well, and half when it does not.

Additive increase, multiplicative decrease: https://www.rfc-editor.org/rfc/rfc5681#section-3.1
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

CUT_SECONDS = 1.0  # requests that fail together are one sign of overload, not many


class AdaptiveLimiter:
    """A semaphore with a limit that moves between 1 and ``most``; ``now`` gives monotonic seconds."""

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now = now
        self._limit = float(most)
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cut_at = -CUT_SECONDS

    @property
    def limit(self) -> int:
        """How many may be inside now."""
        return int(self._limit)

    async def enter(self) -> None:
        """Wait for a turn; ``leave`` must follow."""
        if self._inside < self.limit and not self._waiting:
            self._inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in the same moment: somebody else takes it
                self._inside -= 1
            self._admit()
            raise

    def leave(self, overloaded: bool) -> None:
        """End a turn, and tell how the API server stood it."""
        self._inside -= 1
        if not overloaded:
            self._limit = min(self._most, self._limit + 1 / self._limit)
        elif self._now() - self._cut_at >= CUT_SECONDS:
            self._limit = max(1.0, self._limit / 2)
            self._cut_at = self._now()
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._inside < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._inside += 1
