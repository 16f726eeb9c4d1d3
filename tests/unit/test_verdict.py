"""What a receiver's reply means, how long a message stays away, and what fits into one batch."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_contract.message import MAX_BODY, Outcome, Result, encode, encode_reply
from keyturn_contract.signature import content
from keyturn_notifier.delivery import batches, message_id
from keyturn_notifier.queue import FIRST_SECONDS, LONGEST_SECONDS, delay
from keyturn_notifier.signing import KMS_LIMIT
from keyturn_notifier.verdict import MAX_RETRY_AFTER, Fate, Reply, judge, looked_at_nothing, retry_after
from support.deliveries import notification

NOW = 1_800_000_000.0
FIRST, SECOND = notification("a"), notification("b")


def fates(reply: Reply) -> list[Fate]:
    verdicts = judge([FIRST, SECOND], reply, NOW)
    return [verdicts[each.id].fate for each in (FIRST, SECOND)]


def results(*outcomes: Outcome) -> bytes:
    ids = (FIRST.id, SECOND.id)
    return encode_reply([Result(each, outcome) for each, outcome in zip(ids, outcomes, strict=False)])


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.FAILED])
def test_every_outcome_but_failed_is_done(outcome: Outcome) -> None:
    assert fates(Reply(200, 0, results(outcome, Outcome.FAILED))) == [Fate.DONE, Fate.AGAIN]


def test_what_a_503_says_is_done_is_done() -> None:
    assert fates(Reply(503, 0, results(Outcome.FAILED, Outcome.APPLIED))) == [Fate.AGAIN, Fate.DONE]


def test_what_a_reply_does_not_name_is_not_done() -> None:
    assert fates(Reply(200, 0, results(Outcome.APPLIED))) == [Fate.DONE, Fate.AGAIN]


@pytest.mark.parametrize("body", [b"", b"ok", b"<html>", b"[]", b'{"results": 1}', b'{"results": [{}]}'])
def test_a_200_that_is_not_our_receivers_means_nothing(body: bytes) -> None:
    assert fates(Reply(200, 0, body)) == [Fate.AGAIN, Fate.AGAIN]


@pytest.mark.parametrize("status", [0, 301, 302, 401, 408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_means_again(status: int) -> None:
    assert fates(Reply(status, 0)) == [Fate.AGAIN, Fate.AGAIN]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 413, 415, 422])
def test_a_status_that_will_not_pass_means_poison(status: int) -> None:
    assert fates(Reply(status, 0)) == [Fate.POISON, Fate.POISON]


def test_only_who_has_looked_at_nothing_is_left_alone() -> None:
    assert all(looked_at_nothing(Reply(status, 0)) for status in (0, 429, 503))
    assert not looked_at_nothing(Reply(503, 0, results(Outcome.FAILED, Outcome.FAILED)))
    assert not any(looked_at_nothing(Reply(status, 0)) for status in (200, 400, 401, 500))


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
    assert retry_after(Reply(503, 0, b"", text), NOW) == seconds


@given(st.integers(0, 600), st.binary(), st.text())
def test_whatever_a_receiver_answers_each_notification_gets_a_verdict(status: int, body: bytes, text: str) -> None:
    reply = Reply(status, 0, body, text)
    assert judge([FIRST, SECOND], reply, NOW).keys() == {FIRST.id, SECOND.id}
    assert looked_at_nothing(reply) in (True, False)


def test_delays_double_up_to_three_minutes() -> None:
    assert [delay(receives, 0, 0.0) for receives in range(1, 9)] == [2, 4, 8, 16, 32, 64, 128, 180]
    assert delay(10**6, 0, 0.0) == LONGEST_SECONDS


@given(st.integers(1, 1000), st.floats(0, 900), st.floats(0, 1))
def test_a_delay_is_never_before_retry_after_and_keeps_half_of_itself(
    receives: int, wait: float, jitter: float
) -> None:
    seconds = delay(receives, wait, jitter)
    assert seconds >= wait
    assert seconds >= FIRST_SECONDS / 2
    assert seconds <= max(LONGEST_SECONDS, math.ceil(wait))


@given(st.lists(st.integers(1, 512), max_size=10), st.booleans())
def test_batches_hold_everything_once_in_order_and_fit(lengths: list[int], in_kms: bool) -> None:
    sent = [notification("n" * length) for length in lengths]
    found = batches(sent, in_kms)
    assert [each for batch in found for each in batch] == sent
    for batch in found:
        body = encode(batch)
        assert len(body) <= MAX_BODY
        assert not in_kms or len(content(message_id(batch), 10**10, body)) <= KMS_LIMIT
    assert len(found) <= 1 or in_kms or sum(lengths) > 2000


def test_a_batch_keeps_its_id_when_it_is_sent_again() -> None:
    assert message_id([FIRST, SECOND]) == message_id([FIRST, SECOND])
    assert message_id([FIRST]) != message_id([SECOND])
