"""What a receiver's reply means, how long a message stays away, and what fits into one batch."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_contract.message import MAX_BODY, Outcome, Result, encode, encode_reply
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
def test_every_outcome_but_failed_is_done(outcome: Outcome) -> None:
    assert dispositions(Reply(200, 0, results(outcome, Outcome.FAILED))) == [Disposition.DONE, Disposition.RETRY]


def test_what_a_503_says_is_done_is_done() -> None:
    reply = Reply(503, 0, results(Outcome.FAILED, Outcome.APPLIED))
    assert dispositions(reply) == [Disposition.RETRY, Disposition.DONE]


def test_what_a_reply_does_not_name_is_not_done() -> None:
    assert dispositions(Reply(200, 0, results(Outcome.APPLIED))) == [Disposition.DONE, Disposition.RETRY]


@pytest.mark.parametrize("body", [b"", b"ok", b"<html>", b"[]", b'{"results": 1}', b'{"results": [{}]}'])
def test_a_200_that_is_not_our_receivers_means_nothing(body: bytes) -> None:
    assert dispositions(Reply(200, 0, body)) == [Disposition.RETRY, Disposition.RETRY]


@pytest.mark.parametrize("status", [0, 301, 302, 401, 408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_means_again(status: int) -> None:
    assert dispositions(Reply(status, 0)) == [Disposition.RETRY, Disposition.RETRY]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 413, 415, 422])
def test_a_status_that_will_not_pass_means_poison(status: int) -> None:
    assert dispositions(Reply(status, 0)) == [Disposition.POISON, Disposition.POISON]


def test_only_who_has_looked_at_nothing_is_left_alone() -> None:
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
        ("\u0667", 0),  # a digit, but not one of HTTP
        ("9" * 400, MAX_RETRY_AFTER),
        (formatdate(NOW + 60, usegmt=True), 60),
        (formatdate(NOW - 60, usegmt=True), 0),
        (formatdate(NOW + 10**6, usegmt=True), MAX_RETRY_AFTER),
        ("Tue, 99 Foo 2026 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(text: str | None, seconds: float) -> None:
    assert parse_retry_after(Reply(503, 0, b"", text), NOW) == seconds


@given(st.integers(0, 600), st.binary(), st.text())
def test_whatever_a_receiver_answers_each_notification_gets_a_verdict(status: int, body: bytes, text: str) -> None:
    reply = Reply(status, 0, body, text)
    assert classify([FIRST, SECOND], reply, NOW).keys() == {FIRST.id, SECOND.id}
    assert unavailable(reply) in (True, False)


def test_delays_double_up_to_three_minutes() -> None:
    assert [retry_delay(receives, 0, 0.0) for receives in range(1, 9)] == [2, 4, 8, 16, 32, 64, 128, 180]
    assert retry_delay(10**6, 0, 0.0) == MAX_DELAY


@given(st.integers(1, 1000), st.floats(0, 900), st.floats(0, 1))
def test_a_delay_is_never_before_retry_after_and_keeps_half_of_itself(
    receives: int, wait: float, jitter: float
) -> None:
    seconds = retry_delay(receives, wait, jitter)
    assert seconds >= wait
    assert seconds >= FIRST_DELAY / 2
    assert seconds <= max(MAX_DELAY, math.ceil(wait))


@given(st.lists(st.integers(1, 512), max_size=10), st.booleans())
def test_batches_hold_everything_once_in_order_and_fit(lengths: list[int], signs_with_kms: bool) -> None:
    sent = [notification("n" * length) for length in lengths]
    found = split_into_batches(sent, signs_with_kms)
    assert [each for batch in found for each in batch] == sent
    for batch in found:
        body = encode(batch)
        assert len(body) <= MAX_BODY
        assert not signs_with_kms or len(content(message_id(batch), 10**10, body)) <= KMS_LIMIT
    assert len(found) <= 1 or signs_with_kms or sum(lengths) > 2000


def test_a_batch_keeps_its_id_when_it_is_sent_again() -> None:
    assert message_id([FIRST, SECOND]) == message_id([FIRST, SECOND])
    assert message_id([FIRST]) != message_id([SECOND])
