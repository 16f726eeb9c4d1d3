"""Disposition: how replies are classified, the retry delays, and the size of batches."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_contract.message import (
    MAX_BODY,
    REASON_HEARTBEAT,
    REASON_NO_LONGER_BOUND,
    REASON_NOT_BOUND,
    Outcome,
    Result,
    encode,
    encode_reply,
)
from keyturn_contract.signature import content
from keyturn_notifier.delivery import message_id, split_into_batches
from keyturn_notifier.disposition import MAX_RETRY_AFTER, Disposition, Reply, classify, parse_retry_after, unavailable
from keyturn_notifier.queue import FIRST_DELAY, MAX_DELAY, retry_delay
from keyturn_notifier.signing import KMS_LIMIT
from support.deliveries import notification

NOW = 1_800_000_000.0
FIRST, SECOND = notification("a"), notification("b")


def dispositions(reply: Reply) -> list[Disposition]:
    by_id = classify([FIRST, SECOND], reply, NOW)
    return [by_id[each.id].disposition for each in (FIRST, SECOND)]


def results(*outcomes: Outcome) -> bytes:
    ids = (FIRST.id, SECOND.id)
    return encode_reply([Result(each, outcome) for each, outcome in zip(ids, outcomes, strict=False)])


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.FAILED])
def test_every_outcome_except_failed_means_done(outcome: Outcome) -> None:
    assert dispositions(Reply(200, 0, results(outcome, Outcome.FAILED))) == [Disposition.DONE, Disposition.RETRY]


def test_notification_that_a_503_reports_as_applied_is_done() -> None:
    reply = Reply(503, 0, results(Outcome.FAILED, Outcome.APPLIED))
    assert dispositions(reply) == [Disposition.RETRY, Disposition.DONE]


def test_notification_missing_from_the_reply_is_retried() -> None:
    assert dispositions(Reply(200, 0, results(Outcome.APPLIED))) == [Disposition.DONE, Disposition.RETRY]


@pytest.mark.parametrize("body", [b"", b"ok", b"<html>", b"[]", b'{"results": 1}', b'{"results": [{}]}'])
def test_200_without_valid_results_means_retry(body: bytes) -> None:
    assert dispositions(Reply(200, 0, body)) == [Disposition.RETRY, Disposition.RETRY]


@pytest.mark.parametrize("status", [0, 301, 302, 401, 408, 429, 500, 502, 503, 504])
def test_temporary_status_means_retry(status: int) -> None:
    assert dispositions(Reply(status, 0)) == [Disposition.RETRY, Disposition.RETRY]


PERMANENT = [400, 403, 404, 405, 410, 413, 415, 422]


@pytest.mark.parametrize("status", PERMANENT)
def test_permanent_status_from_the_receiver_means_poison(status: int) -> None:
    assert dispositions(Reply(status, 0, from_receiver=True)) == [Disposition.POISON, Disposition.POISON]


@pytest.mark.parametrize("status", PERMANENT)
def test_permanent_status_from_anything_before_the_receiver_means_retry(status: int) -> None:
    assert dispositions(Reply(status, 0)) == [Disposition.RETRY, Disposition.RETRY]


@pytest.mark.parametrize("status", [0, 301, 302, 401, 408, 429, 500, 502, 503, 504])
def test_temporary_status_from_the_receiver_means_retry(status: int) -> None:
    assert dispositions(Reply(status, 0, from_receiver=True)) == [Disposition.RETRY, Disposition.RETRY]


def test_results_of_the_receiver_are_kept() -> None:
    given = [
        Result(FIRST.id, Outcome.APPLIED, ("shop/db",), ("Deployment/shop/web",)),
        Result(SECOND.id, Outcome.FAILED, reason="shop/db: not done within the deadline"),
    ]
    by_id = classify([FIRST, SECOND], Reply(503, 0, encode_reply(given)), NOW)
    assert [by_id[each.id].result for each in given] == given


@pytest.mark.parametrize(
    ("result", "refused"),
    [
        (Result("a", Outcome.APPLIED), False),
        (Result("a", Outcome.IGNORED, reason=REASON_HEARTBEAT), False),
        (Result("a", Outcome.IGNORED, reason=REASON_NOT_BOUND), False),
        (Result("a", Outcome.IGNORED, reason=REASON_NO_LONGER_BOUND), False),
        (Result("a", Outcome.IGNORED, reason="shop/db: it is immutable"), True),
        (Result("a", Outcome.APPLIED, ("shop/cache",), reason="shop/db: it is immutable"), True),
        (Result("a", Outcome.FAILED, reason="shop/db: AWS cannot be reached"), True),
    ],
)
def test_result_is_refused_by_a_binding_if_a_reason_names_one(result: Result, refused: bool) -> None:
    assert result.is_refused_by_binding is refused


def test_receiver_is_unavailable_after_no_answer_429_or_a_bare_503() -> None:
    assert all(unavailable(Reply(status, 0)) for status in (0, 429, 503))
    assert not unavailable(Reply(503, 0, results(Outcome.FAILED, Outcome.FAILED)))
    assert not any(unavailable(Reply(status, 0)) for status in (200, 400, 401, 500))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("-7", 0),
        ("7.5", 0),
        ("soon", 0),
        ("\u0667", 0),  # a digit that is not ASCII
        ("9" * 400, MAX_RETRY_AFTER),
        (formatdate(NOW + 60, usegmt=True), 60),
        (formatdate(NOW - 60, usegmt=True), 0),
        (formatdate(NOW + 10**6, usegmt=True), MAX_RETRY_AFTER),
        ("Tue, 99 Foo 2026 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_parsed_as_seconds_or_date_and_bounded(text: str | None, seconds: float) -> None:
    assert parse_retry_after(Reply(503, 0, b"", text), NOW) == seconds


@given(st.integers(0, 600), st.binary(), st.text())
def test_arbitrary_reply_gives_each_notification_a_result(status: int, body: bytes, text: str) -> None:
    reply = Reply(status, 0, body, text)
    assert classify([FIRST, SECOND], reply, NOW).keys() == {FIRST.id, SECOND.id}
    assert unavailable(reply) in (True, False)


def test_retry_delay_doubles_up_to_three_minutes() -> None:
    assert [retry_delay(receives, 0, 0.0) for receives in range(1, 9)] == [2, 4, 8, 16, 32, 64, 128, 180]
    assert retry_delay(10**6, 0, 0.0) == MAX_DELAY


@given(st.integers(1, 1000), st.floats(0, 900), st.floats(0, 1))
def test_retry_delay_is_at_least_retry_after_or_half_the_first(receives: int, wait: float, jitter: float) -> None:
    seconds = retry_delay(receives, wait, jitter)
    assert seconds >= wait
    assert seconds >= FIRST_DELAY / 2
    assert seconds <= max(MAX_DELAY, math.ceil(wait))


@given(st.lists(st.integers(1, 512), max_size=10), st.booleans())
def test_batches_keep_every_notification_in_order_and_fit_the_limits(lengths: list[int], signs_with_kms: bool) -> None:
    notifications = [notification("n" * length) for length in lengths]
    batches = split_into_batches(notifications, signs_with_kms)
    assert [each for batch in batches for each in batch] == notifications
    for batch in batches:
        body = encode(batch)
        assert len(body) <= MAX_BODY
        assert not signs_with_kms or len(content(message_id(batch), 10**10, body)) <= KMS_LIMIT
    assert len(batches) <= 1 or signs_with_kms or sum(lengths) > 2000


def test_webhook_id_depends_on_the_events_alone() -> None:
    assert message_id([FIRST, SECOND]) == message_id([FIRST, SECOND])
    assert message_id([FIRST]) != message_id([SECOND])
