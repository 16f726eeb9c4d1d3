"""A sender that delivers as SQS and the notifier do: it offers each notification to the receivers in turn until one
accepts it."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from keyturn_contract.message import Notification, Outcome, decode_reply, encode
from support.deliveries import signed

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0  # seconds between two attempts


class RetryingSender:
    """Sends notifications to receivers in the background.

    ``status_counts`` counts the attempts by status; an attempt without an answer counts as status 0. ``replies`` keeps
    the bodies of all replies.
    """

    def __init__(self, key: bytes, urls: Sequence[str], max_in_flight: int = 32) -> None:
        self.status_counts: Counter[int] = Counter()
        self.replies: list[str] = []
        self._key = key
        self._urls = urls
        self._turns = itertools.count()
        self._closed = threading.Event()
        limits = httpx.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight)
        self._http = httpx.Client(timeout=20, limits=limits)
        self._threads = ThreadPoolExecutor(max_in_flight, thread_name_prefix="sender")
        self._in_flight: list[Future[None]] = []

    def send(self, *notifications: Notification, first: int | None = None) -> None:
        """Deliver to the next receiver in turn, or to the one with the index ``first``. Each retry goes to the receiver
        after that."""
        turn = next(self._turns) if first is None else first
        self._in_flight.append(self._threads.submit(self._send_until_taken, notifications, turn))

    @property
    def idle(self) -> bool:
        """Return whether every delivery has been accepted."""
        self._in_flight = [each for each in self._in_flight if not each.done() or each.result()]
        return not self._in_flight

    def close(self) -> None:
        """Give up the deliveries that have not been accepted."""
        self._closed.set()
        self._threads.shutdown()
        self._http.close()

    def _send_until_taken(self, left: Sequence[Notification], turn: int) -> None:
        for turn_now in itertools.count(turn):
            left = self._try(left, self._urls[turn_now % len(self._urls)])
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(turn_now - turn, 10))
            if not left or self._closed.wait(pause):
                return

    def _try(self, notifications: Sequence[Notification], url: str) -> Sequence[Notification]:
        """Deliver once. Return the notifications that must be delivered again."""
        body = encode(notifications)
        try:
            reply = self._http.post(url, content=body, headers=signed(self._key, body))
        except httpx.TransportError:
            self.status_counts[0] += 1
            return notifications
        self.status_counts[reply.status_code] += 1
        self.replies.append(reply.text)
        if reply.status_code == 200:
            return ()
        assert reply.status_code == 503, f"{reply.status_code} {reply.text}"
        if b'"results"' not in reply.content:
            return notifications
        done = {result.id for result in decode_reply(reply.content) if result.outcome is not Outcome.FAILED}
        return [each for each in notifications if each.id not in done]
