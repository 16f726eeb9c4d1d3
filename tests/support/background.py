"""What goes on beside a test, in a thread of its own."""

import threading
import time
from typing import Self


class Aside:
    """Does its turn every ``period`` seconds, with ``rest`` between two at the least.

    Who inherits from it says in ``turn`` what that is. If one has failed, the end of the ``with`` fails.
    """

    def __init__(self, period: float, rest: float = 0.1) -> None:
        self._period = period
        self._rest = rest
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        assert self._failure is None, self._failure

    def turn(self) -> None:
        """Do it once."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                begun = time.monotonic()
                self.turn()
                self._end.wait(max(self._rest, self._period - (time.monotonic() - begun)))
        except BaseException as error:
            self._failure = error
