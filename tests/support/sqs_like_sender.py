"""A courier: carries deliveries as SQS and the notifier do. At least once, by turns, again until they are taken."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from keyturn_contract.message import Notification, Outcome, decode_reply, encode
from support.deliveries import signed

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0  # seconds between two tries


class Courier:
    """Carries notifications to receivers; ``replies`` counts the status of each try, 0 where there was no answer."""

    def __init__(self, key: bytes, urls: Sequence[str], hands: int = 32) -> None:
        self.replies: Counter[int] = Counter()
        self.said: list[str] = []
        self._key = key
        self._urls = urls
        self._turns = itertools.count()
        self._closed = threading.Event()
        limits = httpx.Limits(max_connections=hands, max_keepalive_connections=hands)
        self._http = httpx.Client(timeout=20, limits=limits)
        self._hands = ThreadPoolExecutor(hands, thread_name_prefix="courier")
        self._under_way: list[Future[None]] = []

    def carry(self, *notifications: Notification, first: int | None = None) -> None:
        """Deliver these, to the receiver whose turn it is or to the ``first`` that is named, and then to the next."""
        turn = next(self._turns) if first is None else first
        self._under_way.append(self._hands.submit(self._carry, notifications, turn))

    @property
    def idle(self) -> bool:
        """Whether everything was taken."""
        self._under_way = [each for each in self._under_way if not each.done() or each.result()]
        return not self._under_way

    def close(self) -> None:
        """Give up what was not taken."""
        self._closed.set()
        self._hands.shutdown()
        self._http.close()

    def _carry(self, left: Sequence[Notification], turn: int) -> None:
        for turn_now in itertools.count(turn):
            left = self._try(left, self._urls[turn_now % len(self._urls)])
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(turn_now - turn, 10))
            if not left or self._closed.wait(pause):
                return

    def _try(self, notifications: Sequence[Notification], url: str) -> Sequence[Notification]:
        """Deliver once; return what is to be delivered again."""
        body = encode(notifications)
        try:
            reply = self._http.post(url, content=body, headers=signed(self._key, body))
        except httpx.TransportError:
            self.replies[0] += 1
            return notifications
        self.replies[reply.status_code] += 1
        self.said.append(reply.text)
        if reply.status_code == 200:
            return ()
        assert reply.status_code == 503, f"{reply.status_code} {reply.text}"
        if b'"results"' not in reply.content:
            return notifications
        done = {result.id for result in decode_reply(reply.content) if result.outcome is not Outcome.FAILED}
        return [each for each in notifications if each.id not in done]
