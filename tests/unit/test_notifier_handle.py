"""What the notifier does with the events of one invocation, with receivers and a queue in memory."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from keyturn_contract.message import Notification
from keyturn_notifier import handler
from keyturn_notifier.disposition import DeliveryReport, DeliveryResult, Disposition, same_for_all
from keyturn_notifier.handler import MAX_DELIVERIES, NO_ANSWER, RESERVE_SECONDS, STILL_BUSY, Notifier
from keyturn_notifier.receipt_writer import ReceiptWriter
from keyturn_notifier.receipts import Receipt
from support.wait import eventually

NATIVE = json.loads((Path(__file__).parents[1] / "events" / "native-secret-label-updated.json").read_text())
REFUSED = DeliveryResult(Disposition.POISON, "the receiver refuses it: status 404", 404)
TAKEN = DeliveryResult(Disposition.DONE, "status 200", 200)


class Receiver:
    """A receiver that answers each notification with ``result``. While ``released`` is not set, it does not answer."""

    def __init__(self, host: str, result: DeliveryResult = TAKEN) -> None:
        self.host = host
        self.result = result
        self.deliveries = 0
        self.released = threading.Event()
        self.released.set()

    def deliver(self, notifications: Sequence[Notification], deadline: float) -> DeliveryReport:
        self.deliveries += 1
        self.released.wait(60)
        return DeliveryReport(same_for_all(notifications, self.result), ())


class Queue:
    """A queue that records its ``calls``. ``moves`` tells for each move to the dead-letter queue whether it
    succeeds."""

    def __init__(self, calls: list[str], *moves: bool) -> None:
        self.calls = calls
        self.moves = [*moves]

    def postpone(self, records: Sequence[tuple[Any, float]]) -> None:
        self.calls += [f"postpone {record['messageId']}" for record, _ in records]

    def dead_letter(self, record: dict[str, Any], reason: str) -> bool:
        self.calls.append(f"move {record['messageId']}")
        return self.moves.pop(0)


class Bus:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def put(self, pending: Sequence[Receipt], deadline: float) -> Sequence[Receipt]:
        self.calls += [f"receipt {each.detail['receiptId'].split('/')[0]}" for each in pending]
        for each in pending:
            assert each.detail.get("deadLettered", False) is each.detail["receiptId"].startswith("dead/")
        return pending


def record(message_id: str = "m0", **changes: object) -> dict[str, Any]:
    sent = str(round((time.time() - 400) * 1000))
    body = json.dumps({**NATIVE, "id": str(uuid4()), **changes})
    return {"messageId": message_id, "body": body, "attributes": {"SentTimestamp": sent}}


@pytest.fixture
def blue() -> Receiver:
    return Receiver("blue")


@pytest.fixture
def green() -> Iterator[Receiver]:
    made = Receiver("green")
    yield made
    made.released.set()


def notifier(threads: ThreadPoolExecutor, *receivers: Receiver, queue: Queue | None = None) -> Notifier:
    some: Any = receivers
    used: Any = queue or Queue([])
    bus: Any = Bus(used.calls)
    return Notifier(some, used, "", (), threads, ReceiptWriter(bus, with_details=True))


def answers(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    return [vars(line)["answers"] for line in caplog.records if line.message in ("delivered", "not delivered")]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The values of each metric."""
    values: dict[str, list[float]] = {}
    monkeypatch.setattr(handler, "add_metric", lambda metric, value=1: values.setdefault(metric, []).append(value))
    return values


def test_receipt_tells_of_a_dead_letter_only_after_the_move(blue: Receiver, counted: dict[str, list[float]]) -> None:
    blue.result = REFUSED
    queue = Queue([], True)
    with ThreadPoolExecutor(MAX_DELIVERIES) as threads:
        assert notifier(threads, blue, queue=queue).handle([record()], 30) == []
    assert queue.calls == ["move m0", "receipt dead"]
    assert counted["DeliveriesPoison"] == [1]
    assert "EventWaiting" not in counted


def test_refused_event_that_cannot_be_moved_waits(blue: Receiver, counted: dict[str, list[float]]) -> None:
    """The event is old, so the receipt is due at the first try."""
    blue.result = REFUSED
    queue, sent = Queue([], False, True), record()
    with ThreadPoolExecutor(MAX_DELIVERIES) as threads:
        made = notifier(threads, blue, queue=queue)
        assert made.handle([sent], 30) == ["m0"]
        assert queue.calls == ["move m0", "postpone m0", "receipt waiting"]
        assert counted["EventWaiting"][0] > 300_000
        assert counted["DeliveriesAgain"] == [1]
        assert "DeliveriesPoison" not in counted
        queue.calls.clear()
        assert made.handle([sent], 30) == []
    assert queue.calls == ["move m0", "receipt dead"]
    assert counted["DeliveriesPoison"] == [1]


def test_copy_of_a_refused_event_that_cannot_be_moved_waits_alone(
    blue: Receiver, counted: dict[str, list[float]]
) -> None:
    blue.result = REFUSED
    queue, sent = Queue([], True, False), record()
    with ThreadPoolExecutor(MAX_DELIVERIES) as threads:
        assert notifier(threads, blue, queue=queue).handle([sent, {**sent, "messageId": "m1"}], 30) == ["m1"]
    assert queue.calls == ["move m0", "move m1", "postpone m1", "receipt waiting"]
    assert (counted["DeliveriesPoison"], counted["DeliveriesAgain"]) == ([1], [1])


def test_malformed_event_that_cannot_be_moved_waits(blue: Receiver, counted: dict[str, list[float]]) -> None:
    queue = Queue([], False)
    with ThreadPoolExecutor(MAX_DELIVERIES) as threads:
        assert notifier(threads, blue, queue=queue).handle([{**record(), "body": "{"}], 30) == ["m0"]
    (waiting,) = counted["EventWaiting"]
    assert 400_000 <= waiting < 410_000  # by the time at which the message was sent
    assert "DeliveriesPoison" not in counted


def test_deliveries_that_do_not_end_take_no_thread_of_another_receiver(
    blue: Receiver, green: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    green.released.clear()
    with ThreadPoolExecutor(2 * MAX_DELIVERIES) as threads:
        made = notifier(threads, blue, green)
        for number in range(8):
            assert made.handle([record()], RESERVE_SECONDS + 0.2) == ["m0"]
            assert blue.deliveries == number + 1
        assert green.deliveries == MAX_DELIVERIES
        assert [each["blue"] for each in answers(caplog)] == ["status 200"] * 8
        assert [each["green"] for each in answers(caplog)] == [NO_ANSWER] * MAX_DELIVERIES + [STILL_BUSY] * 6
        green.released.set()
        eventually(lambda: made.handle([record()], 30) == [])
    assert green.deliveries == MAX_DELIVERIES + 1
