"""A notification by hand: what is signed and sent, and what is said of each answer."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from keyturn_cli.signed_delivery import AwsSecret, NotDelivered, deliver, notification_of
from keyturn_contract.message import EventType, Outcome, Result, decode, encode_reply
from keyturn_contract.signature import verify

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf"
KEY = b"k" * 32
NOTIFICATION = notification_of(AwsSecret(ARN, "shop/db", "v1"), datetime(2026, 11, 29, 12, tzinfo=UTC))
MARK = {"keyturn-receiver": "1"}


def answered(status: int, headers: Mapping[str, str], body: bytes) -> Result:
    return deliver(NOTIFICATION, KEY, lambda *_: (status, headers, body))


def reply(outcome: Outcome, **fields: str) -> bytes:
    return encode_reply([Result(NOTIFICATION.id, outcome, ("shop/db",), **fields)])  # type: ignore[arg-type]


def test_delivery_is_what_the_receiver_verifies_and_decodes() -> None:
    def post(body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        assert verify([KEY], headers, body, time.time()) == NOTIFICATION.id
        (decoded,) = decode(headers["content-type"], body)
        assert (decoded.type, decoded.subject) == (EventType.CHANGED, ARN)
        assert (decoded.data.account, decoded.data.region) == ("111122223333", "eu-west-1")
        assert (decoded.data.name, decoded.data.version_id, decoded.data.label) == ("shop/db", "v1", "AWSCURRENT")
        return 200, MARK, reply(Outcome.APPLIED)

    assert deliver(NOTIFICATION, KEY, post).outcome is Outcome.APPLIED


@pytest.mark.parametrize(("stack", "named"), [("", "NAME"), ("keyturn-blue", "keyturn-blue")])
def test_refused_signature_advises_the_check_of_the_stack(stack: str, named: str) -> None:
    with pytest.raises(NotDelivered, match=rf": keyturn doctor --aws --stack {named}$"):
        deliver(NOTIFICATION, KEY, lambda *_: (401, MARK, b"{}"), stack)


@pytest.mark.parametrize("status", [200, 503])
def test_result_of_the_notification_is_returned(status: int) -> None:
    assert answered(status, MARK, reply(Outcome.FAILED, reason="shop/db: Conflict")).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("status", "headers", "body", "text"),
    [
        (401, MARK, b"{}", "does not accept the signature"),
        (404, MARK, b"{}", "refuses the notification"),
        (503, MARK, b"{}", "is not ready, or busy"),
        (200, MARK, b"<html>", "is not ready, or busy"),
        (502, {}, b"bad gateway", "Something other than a receiver answered with status 502"),
        (401, {}, b"", "Something other than a receiver answered with status 401"),
    ],
)
def test_each_other_answer_has_its_words(status: int, headers: dict[str, str], body: bytes, text: str) -> None:
    with pytest.raises(NotDelivered, match=text) as caught:
        answered(status, headers, body)
    assert caught.value.advice


def test_name_that_fits_in_no_message_is_refused() -> None:
    with pytest.raises(NotDelivered, match="cannot be written"):
        notification_of(AwsSecret(ARN, "a\nb", "v1"), datetime.now(UTC))
