"""Receipts: which are due, what they say, and that putting them fails without harm."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyturn_contract.message import (
    REASON_NOT_BOUND,
    EventType,
    Notification,
    NotificationData,
    Outcome,
    Result,
    State,
    VersionState,
)
from keyturn_notifier import receipt_bus, receipts
from keyturn_notifier.disposition import DeliveryReport, DeliveryResult, Disposition, same_for_all
from keyturn_notifier.handler import Notifier
from keyturn_notifier.queue import FIRST_DELAY, retry_delay
from keyturn_notifier.receipt_bus import ReceiptBus
from keyturn_notifier.receipt_writer import ReceiptWriter
from keyturn_notifier.receipts import Receipt

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-a1b2c3"
DATA = NotificationData("SecretLabelUpdated", "111122223333", "eu-west-1", "shop/db", "version-1", "AWSCURRENT")
CHANGED = Notification("event-1", "aws.secretsmanager", EventType.CHANGED, ARN, "2026-11-28T08:30:56Z", DATA)


def done(outcome: Outcome, *, reason: str | None = None, **names: tuple[str, ...]) -> DeliveryResult:
    return DeliveryResult(
        Disposition.DONE, "status 200", 200, result=Result("event-1", outcome, reason=reason, **names)
    )


NOT_TAKEN = DeliveryResult(Disposition.RETRY, "connection refused")


def message(receives: int, *, queued_before_first: float = 0.1) -> dict[str, Any]:
    """Return an SQS record that was received ``receives`` times, and first ``queued_before_first`` seconds after it was
    sent."""
    return {
        "attributes": {
            "ApproximateReceiveCount": str(receives),
            "SentTimestamp": "1700000000000",
            "ApproximateFirstReceiveTimestamp": str(1700000000000 + round(queued_before_first * 1000)),
        }
    }


def detail(receipt: Receipt | None) -> Mapping[str, Any]:
    assert receipt
    entry = receipt.entry("keyturn-receipts")
    assert (entry["Source"], entry["EventBusName"], entry["Resources"]) == ("dev.keyturn", "keyturn-receipts", [ARN])
    return dict(json.loads(entry["Detail"]))


class TestApplied:
    def test_it_has_the_answer_of_each_receiver(self) -> None:
        blue = done(Outcome.APPLIED, secrets=("shop/m8",), consumers=("Deployment/shop/web",))
        green = done(Outcome.IGNORED, reason=REASON_NOT_BOUND)
        receipt = receipts.applied(CHANGED, {"blue": blue, "green": green}, 0.649, with_details=True)
        assert receipt
        assert receipt.detail_type == "Keyturn Secret Applied"
        assert detail(receipt) == {
            "receiptId": "applied/event-1",
            "secretArn": ARN,
            "name": "shop/db",
            "versionId": "version-1",
            "label": "AWSCURRENT",
            "eventId": "event-1",
            "eventName": "SecretLabelUpdated",
            "account": "111122223333",
            "region": "eu-west-1",
            "ageMs": 649,
            "complete": True,
            "healthy": True,
            "receivers": [
                {
                    "host": "blue",
                    "outcome": "applied",
                    "secrets": ["shop/m8"],
                    "consumers": ["Deployment/shop/web"],
                },
                {"host": "green", "outcome": "ignored", "secrets": [], "consumers": [], "reason": REASON_NOT_BOUND},
            ],
        }

    @pytest.mark.parametrize(
        ("result", "complete", "healthy"),
        [
            (done(Outcome.APPLIED), True, True),
            (done(Outcome.SUPERSEDED), True, True),
            (done(Outcome.IGNORED, reason="shop/cache: it is immutable"), True, False),
            (done(Outcome.APPLIED, reason="shop/m2: no property"), True, False),
            (done(Outcome.RETRYING, retrying=("shop/m3",)), False, False),
            (done(Outcome.APPLIED, retrying=("shop/m3",), reason="shop/m3: AWS is slow"), False, False),
        ],
    )
    def test_retries_make_it_incomplete_and_refusals_unhealthy(
        self, result: DeliveryResult, complete: bool, healthy: bool
    ) -> None:
        for results in ({"one": result}, {"one": result, "other": done(Outcome.APPLIED)}):
            told = detail(receipts.applied(CHANGED, results, 1, with_details=True))
            assert (told["complete"], told["healthy"]) == (complete, healthy)

    def test_names_of_kubernetes_are_left_out_without_details(self) -> None:
        blue = done(Outcome.APPLIED, secrets=("shop/m8",), consumers=("c",), retrying=("r",), reason="shop/m8: no")
        told = detail(receipts.applied(CHANGED, {"blue": blue}, 1, with_details=False))
        assert told["receivers"] == [{"host": "blue", "outcome": "applied"}]
        assert (told["complete"], told["healthy"]) == (False, False)

    @pytest.mark.parametrize("kind", [each for each in EventType if each is not EventType.CHANGED])
    def test_other_events_have_no_receipt(self, kind: EventType) -> None:
        other = Notification("event-1", "aws.secretsmanager", kind, ARN, CHANGED.time, DATA)
        assert receipts.applied(other, {"blue": done(Outcome.APPLIED)}, 1, with_details=True) is None
        assert receipts.waiting(other, [message(9)], {"blue": NOT_TAKEN}, 900, False, with_details=True) is None

    def test_ten_receipts_of_many_receivers_with_long_names_fit_into_one_call(self) -> None:
        """A call takes at most 256 KB: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html"""
        names = tuple(f"{'n' * 63}/{number:0>253}" for number in range(400))
        full = done(Outcome.APPLIED, secrets=names, consumers=names, retrying=names, reason="ä" * 8192)
        for hosts in (1, 3, 100):
            told = receipts.applied(CHANGED, {f"host-{each}": full for each in range(hosts)}, 1, with_details=True)
            assert told
            assert len(json.dumps(told.entry("bus"), ensure_ascii=False).encode()) * 10 < 256 * 1024
            assert all(each["cut"] for each in detail(told)["receivers"])

    def test_half_a_surrogate_pair_in_an_answer_raises_nothing(self) -> None:
        odd = done(Outcome.APPLIED, secrets=("shop/\ud800",), reason="\ud800" * 9)
        told = receipts.applied(CHANGED, {"blue": odd}, 1, with_details=True)
        assert told
        assert told.detail["receivers"][0]["reason"] == "?" * 9

    def test_secret_that_aws_named_without_an_arn_has_its_name(self) -> None:
        named = Notification("event-1", "aws.secretsmanager", EventType.CHANGED, "shop/db", CHANGED.time, DATA)
        receipt = receipts.applied(named, {"blue": done(Outcome.APPLIED)}, 1, with_details=True)
        assert receipt
        assert (receipt.resources, receipt.detail["name"]) == ([], "shop/db")
        assert "secretArn" not in receipt.detail


class TestWaiting:
    def told(
        self, record: dict[str, Any], age: float, result: DeliveryResult = NOT_TAKEN, *, dead_lettered: bool = False
    ) -> Receipt | None:
        results = {"blue": done(Outcome.APPLIED), "green": result}
        return receipts.waiting(CHANGED, [record], results, age, dead_lettered, with_details=True)

    def test_it_names_the_receiver_that_has_not_taken_the_event(self) -> None:
        told = detail(self.told(message(9), 300))
        assert (told["receiptId"], told["complete"], told["deadLettered"]) == ("waiting/event-1", False, False)
        assert told["receivers"][1] == {"host": "green", "outcome": "not taken", "reason": "connection refused"}

    def test_it_is_told_once_for_a_message_that_is_tried_again_and_again(self) -> None:
        told = [receives for receives in range(1, 1001) if self.told(message(receives), 2.0 * receives)]
        assert told == [receipts.WAITING_RECEIVE]

    def test_it_is_told_once_for_a_message_that_was_old_when_it_was_first_received(self) -> None:
        def record(receives: int) -> dict[str, Any]:
            return message(receives, queued_before_first=600)

        assert [each for each in range(1, 1001) if self.told(record(each), 600.0 + each)] == [1]

    @pytest.mark.parametrize("jitter", [0.0, 1.0])
    def test_ninth_receive_is_about_five_minutes_after_the_first(self, jitter: float) -> None:
        assert FIRST_DELAY == 2
        waited = sum(retry_delay(receives, 0, jitter) for receives in range(1, receipts.WAITING_RECEIVE))
        assert 210 <= waited <= 450

    POISON = DeliveryResult(Disposition.POISON, "the receiver refuses it: status 400", 400)

    def test_dead_letter_is_told_at_once(self) -> None:
        told = detail(self.told(message(1), 1, self.POISON, dead_lettered=True))
        assert (told["receiptId"], told["deadLettered"]) == ("dead/event-1", True)
        assert told["receivers"][1]["outcome"] == "refused"

    def test_poison_that_is_no_dead_letter_yet_is_told_like_an_event_that_waits(self) -> None:
        assert self.told(message(1), 1, self.POISON) is None
        told = detail(self.told(message(receipts.WAITING_RECEIVE), 300, self.POISON))
        assert (told["receiptId"], told["deadLettered"]) == ("waiting/event-1", False)
        assert told["receivers"][1]["outcome"] == "refused"

    def test_message_without_the_attributes_of_sqs_is_not_told_before_five_minutes(self) -> None:
        assert self.told({}, 299) is None
        assert self.told({}, 300)


class Events:
    """EventBridge, as far as PutEvents goes. ``answer`` makes the reply from a call's entries."""

    def __init__(self, answer: Callable[[Sequence[Any]], list[dict[str, str]]]) -> None:
        self.answer = answer
        self.calls: list[Sequence[Any]] = []

    def put_events(self, Entries: Sequence[Any]) -> dict[str, Any]:
        self.calls.append(Entries)
        return {"Entries": self.answer(Entries)}


def takes(entries: Sequence[Any]) -> list[dict[str, str]]:
    return [{"EventId": "e"} for _ in entries]


class TestBus:
    def bus(self, events: Any, now: list[float] | None = None) -> tuple[ReceiptBus, list[tuple[int, int, str]]]:
        reports: list[tuple[int, int, str]] = []
        clock = (lambda: now[0]) if now else time.monotonic
        return ReceiptBus(events, "bus", lambda *report: reports.append(report), clock), reports

    def some(self, count: int) -> list[Receipt]:
        return [Receipt("Keyturn Secret Applied", [], {"receiptId": str(number)}) for number in range(count)]

    def test_receipts_are_put_ten_at_a_time_and_in_order(self) -> None:
        events = Events(takes)
        bus, reports = self.bus(events)
        sent = self.some(23)
        assert bus.put(sent, time.monotonic() + 10) == sent
        assert [len(call) for call in events.calls] == [10, 10, 3]
        assert [json.loads(each["Detail"])["receiptId"] for call in events.calls for each in call] == [
            str(number) for number in range(23)
        ]
        assert reports == [(23, 0, "")]

    def test_receipt_that_is_refused_alone_is_tried_once_more_alone(self) -> None:
        refused = [True]

        def refuse_one(entries: Sequence[Any]) -> list[dict[str, str]]:
            bad = {"ErrorCode": "ThrottlingException"}
            return [
                bad if '"1"' in each["Detail"] and refused and refused.pop() else {"EventId": "e"} for each in entries
            ]

        events = Events(refuse_one)
        bus, reports = self.bus(events)
        assert len(bus.put(self.some(3), time.monotonic() + 10)) == 3
        assert [len(call) for call in events.calls] == [3, 1]
        assert reports == [(3, 0, "")]

    def test_failing_call_loses_the_receipts_and_opens_the_circuit_breaker(self) -> None:
        def fail(entries: Sequence[Any]) -> list[dict[str, str]]:
            raise ConnectionError("hush")

        events, now = Events(fail), [100.0]
        bus, reports = self.bus(events, now)
        assert not bus.put(self.some(2), now[0] + 10)  # nothing raises
        assert not bus.put(self.some(1), now[0] + 10)
        assert len(events.calls) == 1
        assert reports == [(0, 2, "ConnectionError"), (0, 1, "not sent: the circuit breaker is open")]
        events.answer, now[0] = takes, now[0] + receipt_bus.COOLDOWN_SECONDS
        assert len(bus.put(self.some(1), now[0] + 10)) == 1

    def test_call_that_hangs_is_given_up_and_no_second_one_waits_for_it(self) -> None:
        release = threading.Event()

        def hang(entries: Sequence[Any]) -> list[dict[str, str]]:
            release.wait(30)
            return takes(entries)

        events, now = Events(hang), [100.0]
        bus, reports = self.bus(events, now)
        start = time.monotonic()
        assert not bus.put(self.some(1), now[0] + 0.2)
        now[0] += receipt_bus.COOLDOWN_SECONDS
        assert not bus.put(self.some(1), now[0] + 10)
        assert time.monotonic() - start < 3
        release.set()
        assert [reason for *_, reason in reports] == ["no answer in time", "not sent: an earlier call has not ended"]

    def test_nothing_is_sent_when_the_invocation_ends(self) -> None:
        events = Events(takes)
        bus, reports = self.bus(events)
        assert not bus.put(self.some(1), time.monotonic() - 1)
        assert events.calls == []
        assert reports == [(0, 1, "not sent: no time left in this invocation")]

    @pytest.mark.parametrize("detail", [{"receiptId": "\ud800"}, {"receiptId": object()}])
    def test_receipt_that_cannot_be_written_is_lost_and_raises_nothing(self, detail: dict[str, Any]) -> None:
        events = Events(lambda entries: [{"EventId": str(len(each["Detail"].encode()))} for each in entries])
        bus, reports = self.bus(events)
        assert not bus.put([Receipt("Keyturn Secret Applied", [], detail)], time.monotonic() + 10)
        assert [(put, lost) for put, lost, _ in reports] == [(0, 1)]

    def test_answer_of_another_form_loses_the_receipts_and_raises_nothing(self) -> None:
        bus, reports = self.bus(Events(lambda entries: []))
        assert not bus.put(self.some(2), time.monotonic() + 10)
        assert reports == [(0, 2, "ValueError")]

    def test_thread_that_cannot_start_loses_the_receipts_and_raises_nothing(self) -> None:
        bus, reports = self.bus(Events(takes))
        bus._thread.shutdown()
        assert not bus.put(self.some(2), time.monotonic() + 10)
        assert reports == [(0, 2, "RuntimeError")]

    def test_writer_puts_what_it_has_collected_once(self) -> None:
        events = Events(takes)
        bus, _ = self.bus(events)
        writer = ReceiptWriter(bus, with_details=True)
        writer.collect(CHANGED, [message(1)], {"blue": done(Outcome.APPLIED)}, 1, False)
        writer.collect(CHANGED, [message(1)], {"blue": NOT_TAKEN}, 1, False)  # no receipt is due
        writer.flush(time.monotonic() + 10)
        writer.flush(time.monotonic() + 10)
        assert [[each["DetailType"] for each in call] for call in events.calls] == [["Keyturn Secret Applied"]]


class TestVersions:
    LIVE = VersionState(ARN, "version-1", State.LIVE, 1_800_000_000, 9, changed=1_799_999_990)
    STUCK = VersionState(ARN, "version-2", State.STUCK, 1_800_000_000, consumers=("Deployment/shop/web",))

    def heartbeat(self, *states: VersionState) -> DeliveryResult:
        result = Result("beat", Outcome.IGNORED, reason="heartbeat", versions=states)
        return DeliveryResult(Disposition.DONE, "status 200", 200, result=result)

    def writer(self, with_details: bool = True) -> tuple[ReceiptWriter, Events]:
        events: Any = Events(takes)
        return ReceiptWriter(ReceiptBus(events, "bus", lambda *_: None), with_details), events

    def put(self, events: Events) -> list[tuple[str, dict[str, Any]]]:
        return [(each["DetailType"], json.loads(each["Detail"])) for call in events.calls for each in call]

    def beat(self, writer: ReceiptWriter, **results: DeliveryResult) -> None:
        beat = Notification("beat", "dev.keyturn", EventType.HEARTBEAT, "heartbeat", CHANGED.time, DATA)
        writer.collect(beat, [message(1)], results, 0, False)
        writer.flush(time.monotonic() + 10)

    def test_each_receiver_speaks_for_its_own_host(self) -> None:
        writer, events = self.writer()
        self.beat(writer, blue=self.heartbeat(self.LIVE), green=self.heartbeat(self.STUCK))
        assert self.put(events) == [
            (
                "Keyturn Secret Live",
                {
                    "receiptId": f"live/blue/{ARN}/version-1/1799999990",
                    "secretArn": ARN,
                    "name": "shop/db",
                    "versionId": "version-1",
                    "host": "blue",
                    "since": "2027-01-15T08:00:00Z",
                    "seconds": 9,
                },
            ),
            (
                "Keyturn Rollout Stuck",
                {
                    "receiptId": f"stuck/green/{ARN}/version-2/0",
                    "secretArn": ARN,
                    "name": "shop/db",
                    "versionId": "version-2",
                    "host": "green",
                    "since": "2027-01-15T08:00:00Z",
                    "consumers": ["Deployment/shop/web"],
                },
            ),
        ]

    def test_state_that_is_repeated_has_one_receipt_for_each_host(self) -> None:
        writer, events = self.writer()
        for _ in range(15):
            self.beat(writer, blue=self.heartbeat(self.LIVE), green=self.heartbeat(self.LIVE))
        assert [each["host"] for _, each in self.put(events)] == ["blue", "green"]

    def test_version_that_comes_back_has_another_receipt(self) -> None:
        writer, events = self.writer()
        again = replace(self.LIVE, since=self.LIVE.since + 60, changed=self.LIVE.changed + 60)
        for state in (self.LIVE, self.LIVE, again, replace(again, since=again.since + 5)):
            self.beat(writer, blue=self.heartbeat(state))
        assert [each["since"] for _, each in self.put(events)] == ["2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z"]

    def test_receipt_that_was_lost_is_put_at_a_later_heartbeat(self) -> None:
        writer, events = self.writer()
        events.answer = lambda entries: [{"ErrorCode": "InternalFailure"} for _ in entries]
        bus = writer._bus
        self.beat(writer, blue=self.heartbeat(self.LIVE))
        events.answer, bus._cooldown_end = takes, 0.0
        events.calls.clear()
        self.beat(writer, blue=self.heartbeat(self.LIVE))
        assert [each["host"] for _, each in self.put(events)] == ["blue"]

    def test_workloads_are_left_out_without_details(self) -> None:
        writer, events = self.writer(with_details=False)
        self.beat(writer, blue=self.heartbeat(self.STUCK))
        assert "Deployment" not in json.dumps(self.put(events))

    def test_receiver_without_states_and_no_receiver_at_all_have_no_receipts(self) -> None:
        writer, events = self.writer()
        self.beat(writer, blue=self.heartbeat(), green=NOT_TAKEN)
        assert events.calls == []


class FailingWriter:
    """A writer whose method ``failing`` raises an error. ``failing`` is "collect" or "flush"."""

    def __init__(self, failing: str) -> None:
        self.failing = failing

    def collect(self, *_: object) -> None:
        if self.failing == "collect":
            raise UnicodeEncodeError("utf-8", "hush", 0, 1, "hush")

    def flush(self, *_: object) -> None:
        if self.failing == "flush":
            raise RuntimeError("hush")


@pytest.mark.parametrize("failing", ["collect", "flush"])
def test_receipt_that_fails_keeps_no_message_in_the_queue_and_is_counted(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Receiver:
        host = "blue"

        def deliver(self, notifications: Sequence[Notification], deadline: float) -> DeliveryReport:
            return DeliveryReport(same_for_all(notifications, NOT_TAKEN), ())

    class Queue:
        def postpone(self, records: Sequence[tuple[Any, float]]) -> None:
            self.postponed = [record["messageId"] for record, _ in records]

    event = (Path(__file__).parents[1] / "events" / "native-secret-label-updated.json").read_text()
    receivers: Any = [Receiver()]
    queue: Any = Queue()
    writer: Any = FailingWriter(failing)
    with ThreadPoolExecutor(1) as threads:
        notifier = Notifier(receivers, queue, "keyturn/key", [], threads, writer)
        sent = [{"messageId": name, "body": event.replace('"id": "', f'"id": "{name}')} for name in ("m0", "m1")]
        assert notifier.handle(sent, 20) == ["m0", "m1"]
    assert queue.postponed == ["m0", "m1"]
    lost = [(vars(each)["count"], vars(each)["reason"]) for each in caplog.records if each.message == "receipts lost"]
    assert lost == ([(1, "UnicodeEncodeError")] * 2 if failing == "collect" else [(1, "RuntimeError")])
    assert "hush" not in caplog.text
