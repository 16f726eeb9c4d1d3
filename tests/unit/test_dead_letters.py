"""Dead letters: what is shown of them, and that none is lost on its way back."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from keyturn_cli.aws import AwsError
from keyturn_cli.dead_letters import TRIED, DeadLetterQueue, read_letter

DLQ, QUEUE = "https://sqs/keyturn-dead-letters", "https://sqs/keyturn-events"


def event(event_id: str, name: str = "shop/db") -> str:
    detail = {"name": name, "labelUpdated": "AWSCURRENT"}
    return json.dumps(
        {"id": event_id, "detail-type": "Secret Label Updated", "time": "2026-11-29T12:00:00Z", "detail": detail}
    )


class FakeSqs:
    """A fake SQS. A dead letter that was received is hidden until its visibility time-out is set to 0. ``fails`` has
    the calls that fail."""

    def __init__(self, *bodies: str, reasons: Mapping[int, str] | None = None) -> None:
        self.dead = {f"m{number}": body for number, body in enumerate(bodies)}
        self.reasons = reasons or {}
        self.hidden: set[str] = set()
        self.sent: list[str] = []
        self.fails: set[str] = set()

    def receive_message(self, QueueUrl: str, MaxNumberOfMessages: int, **_: Any) -> Any:
        assert QueueUrl == DLQ
        taken = [each for each in self.dead if each not in self.hidden][:MaxNumberOfMessages]
        self.hidden |= set(taken)
        return {"Messages": [self._message(each) for each in taken]} if taken else {}

    def _message(self, message_id: str) -> dict[str, Any]:
        number = int(message_id[1:])
        reason = {"reason": {"StringValue": self.reasons[number]}} if number in self.reasons else {}
        return {
            "MessageId": message_id,
            "ReceiptHandle": f"handle-{message_id}",
            "Body": self.dead[message_id],
            "Attributes": {"SentTimestamp": str(1000 + number)},
            "MessageAttributes": reason,
        }

    def send_message(self, QueueUrl: str, MessageBody: str) -> None:
        self._may("send")
        assert QueueUrl == QUEUE
        self.sent.append(MessageBody)

    def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> None:
        self._may("delete")
        assert QueueUrl == DLQ
        del self.dead[ReceiptHandle.removeprefix("handle-")]

    def change_message_visibility(self, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:
        assert (QueueUrl, VisibilityTimeout) == (DLQ, 0)
        self.hidden.discard(ReceiptHandle.removeprefix("handle-"))

    def _may(self, call: str) -> None:
        if call in self.fails:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "secret text"}}, call)


def queue(sqs: FakeSqs) -> DeadLetterQueue:
    return DeadLetterQueue(sqs, DLQ, QUEUE)


def test_letters_are_shown_with_reasons_and_stay_visible() -> None:
    sqs = FakeSqs(event("a"), event("b", "pay/card"), reasons={0: "blue: the receiver refuses it: status 400"})
    letters = queue(sqs).letters()
    assert [(each.event_id, each.secret, each.reason) for each in letters] == [
        ("a", "shop/db", "blue: the receiver refuses it: status 400"),
        ("b", "pay/card", TRIED),
    ]
    assert sqs.hidden == set()
    assert sqs.sent == []


class Refusing(FakeSqs):
    """SQS with a notifier that takes each message at once, and makes it a dead letter again, under a new message id."""

    def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> None:
        super().delete_message(QueueUrl, ReceiptHandle)
        self.dead[f"m{100 + len(self.sent)}"] = self.sent[-1]


@pytest.mark.parametrize("body", ["{broken", event("a")])
def test_letter_that_comes_back_meanwhile_is_sent_once(body: str) -> None:
    sqs = Refusing(body)
    assert len(list(queue(sqs).redeliver(None))) == 1
    assert sqs.sent == [body]
    assert list(sqs.dead.values()) == [body]
    assert not sqs.hidden & set(sqs.dead)


def test_body_that_is_no_event_is_shown_and_sent_back() -> None:
    sqs = FakeSqs("{broken", reasons={0: "the body is not JSON"})
    (letter,) = queue(sqs).letters()
    assert (letter.event_id, letter.kind, letter.secret) == ("", "no event", "-")
    assert len(list(queue(sqs).redeliver(None))) == 1
    assert sqs.sent == ["{broken"]


def test_body_is_in_no_representation() -> None:
    (letter,) = queue(FakeSqs(event("a", "canary"))).letters()
    assert "labelUpdated" not in repr(letter)


def test_all_letters_go_back_and_none_is_left() -> None:
    sqs = FakeSqs(*(event(str(number)) for number in range(250)))
    assert [each.event_id for each in queue(sqs).redeliver(None)] == [str(number) for number in range(250)]
    assert len(sqs.sent) == 250
    assert sqs.dead == {}


def test_one_event_goes_back_and_the_others_are_visible_again() -> None:
    sqs = FakeSqs(event("a"), event("b"), event("c"))
    assert [each.event_id for each in queue(sqs).redeliver({"b"})] == ["b"]
    assert sqs.sent == [event("b")]
    assert list(sqs.dead) == ["m0", "m2"]
    assert sqs.hidden == {"m1"}


def test_event_that_came_twice_is_sent_once() -> None:
    sqs = FakeSqs(event("a"), event("a"))
    assert len(list(queue(sqs).redeliver(None))) == 1
    assert sqs.sent == [event("a")]
    assert sqs.dead == {}


def test_event_that_is_dead_again_does_not_go_round_and_round() -> None:
    class Poisoned(FakeSqs):
        def send_message(self, QueueUrl: str, MessageBody: str) -> None:
            super().send_message(QueueUrl, MessageBody)
            self.dead[f"m{len(self.sent) + 100}"] = MessageBody

    sqs = Poisoned(event("a"))
    assert len(list(queue(sqs).redeliver(None))) == 1
    assert list(sqs.dead.values()) == [event("a")]
    assert sqs.hidden == {"m0"}


@pytest.mark.parametrize(("call", "sent"), [("send", []), ("delete", [event("a")])])
def test_failure_leaves_the_letter_and_lets_it_be_received_again(call: str, sent: list[str]) -> None:
    sqs = FakeSqs(event("a"), event("b"))
    sqs.fails = {call}
    with pytest.raises(AwsError, match="AccessDenied") as caught:
        list(queue(sqs).redeliver(None))
    assert "secret text" not in str(caught.value)
    assert sqs.sent == sent
    assert list(sqs.dead) == ["m0", "m1"]
    assert sqs.hidden == set()
    sqs.fails = set()
    assert len(list(queue(sqs).redeliver(None))) == 2
    assert sqs.dead == {}


def test_caller_that_ends_early_leaves_the_rest_visible() -> None:
    sqs = FakeSqs(event("a"), event("b"), event("c"))
    back = queue(sqs).redeliver(None)
    assert next(iter(back)).event_id == "a"
    back.close()  # type: ignore[attr-defined] - a generator
    assert list(sqs.dead) == ["m1", "m2"]
    assert sqs.hidden - {"m0"} == set()


@pytest.mark.parametrize(
    ("content", "secret", "kind"),
    [
        (
            {"detail": {"eventName": "DeleteSecret", "requestParameters": {"secretId": "shop/db"}}},
            "shop/db",
            "DeleteSecret",
        ),
        ({"detail-type": "Secret Label Updated", "resources": ["arn:aws:x"]}, "arn:aws:x", "Secret Label Updated"),
        ([], "-", "no event"),
    ],
)
def test_event_of_any_kind_is_described(content: Any, secret: str, kind: str) -> None:
    letter = read_letter({"MessageId": "m", "ReceiptHandle": "h", "Body": json.dumps(content)})
    assert (letter.secret, letter.kind) == (secret, kind)
