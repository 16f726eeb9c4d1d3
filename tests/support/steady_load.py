"""Steady load: rotates secrets, and delivers the notifications to a Service again and again at an even pace."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import httpx

from keyturn_contract.message import Notification, encode
from support.deliveries import signed

MAX_IN_FLIGHT = 32


class SteadyLoad:
    """Rotates the secrets and delivers their latest notifications while its ``with`` block is active. At the end, it
    delivers the last notification of each secret once more, and waits until every delivery has ended.

    Each delivery uses a connection of its own. ``answers`` counts the deliveries by status, or by error if there was no
    answer. ``trouble`` has a line, with the time, for each delivery that was not answered with 200.
    """

    def __init__(
        self, url: str, key: bytes, names: Sequence[str], rotate: Callable[[str], Notification], per_second: float = 20
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.rotations = 0
        self.slowest = 0.0  # in seconds
        self._url = url
        self._key = key
        self._names = names
        self._rotate = rotate
        self._pause = 1 / per_second
        self._notifications = {name: rotate(name) for name in names}
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(MAX_IN_FLIGHT)
        # No connection is reused, so that kube-proxy chooses a new pod for each delivery.
        self._http = httpx.Client(
            timeout=20, limits=httpx.Limits(max_connections=MAX_IN_FLIGHT, max_keepalive_connections=0)
        )
        self._threads = [threading.Thread(target=each) for each in (self._rotate_all, self._deliver_all)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for name in self._names:  # because each secret's last rotation may not have been delivered yet
            self._pool.submit(self._deliver, self._notifications[name])
        self._pool.shutdown()
        self._http.close()
        print(f"{self.rotations} rotations, {dict(self.answers)}, slowest {self.slowest:.1f} s", *self.trouble[:20])

    @property
    def seconds(self) -> float:
        """The number of seconds since the load was created."""
        return time.monotonic() - self._start

    def _rotate_all(self) -> None:
        while True:
            for name in self._names:
                if self._stop.wait(0.1):
                    return
                self._notifications[name] = self._rotate(name)
                self.rotations += 1

    def _deliver_all(self) -> None:
        number = 0
        while not self._stop.wait(max(0.0, number * self._pause - self.seconds)):
            self._pool.submit(self._deliver, self._notifications[self._names[number % len(self._names)]])
            number += 1

    def _deliver(self, told: Notification) -> None:
        body = encode([told])
        sent = self.seconds
        try:
            reply = self._http.post(self._url, content=body, headers=signed(self._key, body))
            answer = str(reply.status_code)
            what = reply.text
        except httpx.TransportError as error:
            answer, what = type(error).__name__, str(error)
        self.answers[answer] += 1
        self.slowest = max(self.slowest, self.seconds - sent)
        if answer != "200":
            self.trouble.append(f"\n  {sent:.2f} s, for {self.seconds - sent:.2f} s: {answer} {what}")
