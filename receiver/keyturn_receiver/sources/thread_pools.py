"""Lanes: threads for calls to AWS, apart by who may wait for whom, and an end to waiting for them.

The SDK's own time limits are for each read from the connection: an answer that comes byte by byte keeps within them for
as long as it likes, and so does whatever gives it credentials. A thread cannot be ended; so one that takes too long is
left to itself, and another takes its place.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

CALL_SECONDS = 20.0  # for one call with all its tries: the SDK gives up within fifteen, if it is up to it
WAIT_SECONDS = 60.0  # for a thread
SPARE = 2  # threads for each that may be in use

T = TypeVar("T")


class CallTimeout(Exception):
    """The call has not ended in time."""


class PoolExhausted(Exception):
    """The call was not begun: all threads are taken."""


class ThreadPool:
    """Runs calls in threads, ``threads`` at once; ``now`` gives monotonic seconds."""

    def __init__(
        self,
        name: str,
        threads: int,
        call_seconds: float = CALL_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = asyncio.Semaphore(threads)
        self._most = SPARE * threads
        self._executor = ThreadPoolExecutor(self._most, thread_name_prefix=name)
        self._call_seconds = call_seconds
        self._wait_seconds = wait_seconds
        self._now = now
        self._abandoned = 0
        self._full_since: float | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """Give what ``call`` returns, or raise what it raises, TooSlow or NoThread."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise PoolExhausted from None
        try:
            return await self._run(call)
        finally:
            self._places.release()

    async def _run(self, call: Callable[[], T]) -> T:
        thread = self._executor.submit(call)
        answer = asyncio.wrap_future(thread)
        try:
            await asyncio.wait([answer], timeout=self._call_seconds)
        finally:
            begun = not thread.cancel()
            if begun and not answer.done():
                self._leave_alone(answer)
        if answer.done():
            return answer.result()
        raise CallTimeout if begun else PoolExhausted

    def saturated_for(self) -> float:
        """Seconds for which all threads have been taken by calls that do not end."""
        return 0.0 if self._full_since is None else self._now() - self._full_since

    def close(self) -> None:
        """Begin no more calls."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _leave_alone(self, answer: "asyncio.Future[T]") -> None:
        self._abandoned += 1
        if self._abandoned >= self._most and self._full_since is None:
            self._full_since = self._now()
        answer.add_done_callback(self._ended)

    def _ended(self, answer: "asyncio.Future[T]") -> None:
        if not answer.cancelled():
            answer.exception()  # nobody waits for it any more
        self._abandoned -= 1
        self._full_since = None


@dataclass(frozen=True, slots=True)
class ThreadPools:
    """The lanes: reads, reads of secrets that have hung, sweeps."""

    foreground: ThreadPool
    quarantine: ThreadPool
    background: ThreadPool

    def saturated_for(self) -> float:
        """Seconds for which a lane has got nowhere. Suspects have another one, once they are none any more."""
        return max(self.foreground.saturated_for(), self.background.saturated_for())

    def close(self) -> None:
        """Begin no more calls."""
        for lane in (self.foreground, self.quarantine, self.background):
            lane.close()
