"""Best-effort publisher of receipts on their event bus. It raises no error, and delays an invocation by at most
MAX_SECONDS.

Circuit breaker: if some receipts could not be put, all further receipts are dropped for a minute. So in a network
without a route to EventBridge, at most one invocation per minute is delayed.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from keyturn_notifier.receipts import Receipt
from keyturn_notifier.signing import error_code

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

MAX_SECONDS = 4.0  # an invocation waits at most this number of seconds for its receipts
COOLDOWN_SECONDS = 60.0
MAX_ENTRIES = 10  # at most this many receipts in one call
ATTEMPTS = 2  # number of attempts; EventBridge may refuse a receipt although the call itself succeeds

Put = tuple[Sequence[Receipt], str]  # the receipts that are on the bus, and the reason why the other receipts are not


class ReceiptBus:
    """Client for the event bus ``bus``. ``report`` is called with the number of receipts that are on the bus, the
    number of receipts that were lost, and the reason. ``monotonic`` returns the seconds of the clock that deadlines
    use."""

    def __init__(
        self,
        events: "EventBridgeClient",
        bus: str,
        report: Callable[[int, int, str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events = events
        self._bus = bus
        self._report = report
        self._monotonic = monotonic
        # The calls run in a thread, because a DNS lookup has no timeout.
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[Put] | None = None
        self._cooldown_end = float("-inf")

    def put(self, receipts: Sequence[Receipt], deadline: float) -> Sequence[Receipt]:
        """Put receipts, and wait until ``deadline``, but at most MAX_SECONDS. Return the receipts that are on the
        bus."""
        if not receipts:
            return ()
        try:
            put, reason = self._put(receipts, deadline)
        except Exception as error:  # for example because no thread can be started
            put, reason = (), error_code(error)
        self._report(len(put), len(receipts) - len(put), reason)
        return put

    def _put(self, receipts: Sequence[Receipt], deadline: float) -> Put:
        now = self._monotonic()
        seconds = min(deadline - now, MAX_SECONDS)
        if now < self._cooldown_end:
            return (), "not sent: the circuit breaker is open"
        if seconds <= 0:
            return (), "not sent: no time left in this invocation"
        if self._running and not self._running.done():
            return (), "not sent: an earlier call has not ended"
        self._running = self._thread.submit(self._send, receipts)
        wait([self._running], timeout=seconds)
        put, reason = self._running.result() if self._running.done() else ((), "no answer in time")
        if reason:
            self._cooldown_end = self._monotonic() + COOLDOWN_SECONDS
        return put, reason

    def _send(self, receipts: Sequence[Receipt]) -> Put:
        put: list[Receipt] = []
        reason = ""
        for _ in range(ATTEMPTS):
            refused: list[Receipt] = []
            for start in range(0, len(receipts), MAX_ENTRIES):
                part = receipts[start : start + MAX_ENTRIES]
                try:
                    entries: Any = [receipt.entry(self._bus) for receipt in part]
                    answers = self._events.put_events(Entries=entries)["Entries"]
                    for receipt, answer in zip(part, answers, strict=True):
                        reason = answer.get("ErrorCode") or reason
                        (refused if answer.get("ErrorCode") else put).append(receipt)
                except Exception as error:
                    return put, error_code(error)
            receipts = refused
        return put, reason if receipts else ""
