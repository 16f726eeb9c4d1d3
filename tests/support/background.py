"""Background work that runs in a thread of its own during a test."""

import threading
import time
from typing import Self


class PeriodicThread:
    """A thread that calls ``run_once`` every ``period`` seconds, but always pauses at least ``pause`` seconds between
    two calls.

    Subclasses define ``run_once``. If a call raises, the thread stops, and leaving the ``with`` block raises.
    """

    def __init__(self, period: float, pause: float = 0.1) -> None:
        self._period = period
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._failure is None, self._failure

    def run_once(self) -> None:
        """Do the work of one period."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                start = time.monotonic()
                self.run_once()
                self._stop.wait(max(self._pause, self._period - (time.monotonic() - start)))
        except BaseException as error:
            self._failure = error
