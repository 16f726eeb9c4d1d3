"""What the notifier does with the events of one invocation, with receivers and a queue in memory."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from keyturn_contract.message import Notification
from keyturn_notifier.disposition import DeliveryReport, DeliveryResult, Disposition, same_for_all
from keyturn_notifier.handler import MAX_DELIVERIES, NO_ANSWER, RESERVE_SECONDS, STILL_BUSY, Notifier
from support.wait import eventually

NATIVE = json.loads((Path(__file__).parents[1] / "events" / "native-secret-label-updated.json").read_text())
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
    def postpone(self, records: Sequence[tuple[Any, float]]) -> None:
        pass


def record(message_id: str = "m0", **changes: object) -> dict[str, Any]:
    return {"messageId": message_id, "body": json.dumps({**NATIVE, "id": str(uuid4()), **changes})}


@pytest.fixture
def blue() -> Receiver:
    return Receiver("blue")


@pytest.fixture
def green() -> Iterator[Receiver]:
    made = Receiver("green")
    yield made
    made.released.set()


def notifier(threads: ThreadPoolExecutor, *receivers: Receiver) -> Notifier:
    some: Any = receivers
    queue: Any = Queue()
    return Notifier(some, queue, "", (), threads)


def answers(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    return [vars(line)["answers"] for line in caplog.records if line.message in ("delivered", "not delivered")]


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
