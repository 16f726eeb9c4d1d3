"""Background work that runs in a thread of its own during a test."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from keyturn_local.kubernetes.cluster import Cluster


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


class ObjectEditor(PeriodicThread):
    """Edits objects of one namespace in turn, ``pause`` seconds after one another.

    ``objects`` are names such as "secret/db". ``annotation`` is called with the number of each edit, and returns its
    NAME=VALUE. The first edit has the number 1.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        objects: Sequence[str],
        annotation: Callable[[int], str],
        pause: float,
    ) -> None:
        super().__init__(0, pause)
        self._cluster = cluster
        self._namespace = namespace
        self._objects = objects
        self._annotation = annotation
        self._number = 0

    def run_once(self) -> None:
        self._number += 1
        name = self._objects[self._number % len(self._objects)]
        self._cluster.kubectl("annotate", "--overwrite", name, "-n", self._namespace, self._annotation(self._number))
