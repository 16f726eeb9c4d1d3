"""A token bucket allows a burst and then a steady rate."""

import pytest

from keyturn_receiver.resilience.token_bucket import TokenBucket
from support.clock import FakeClock


def test_burst_is_allowed_at_once_and_the_next_action_waits_for_the_rate() -> None:
    bucket = TokenBucket(rate=5, burst=3, now=FakeClock())
    assert [bucket.take() for _ in range(5)] == [0, 0, 0, 0.2, 0.2]


def test_empty_bucket_gives_a_token_after_the_delay_it_returned() -> None:
    clock = FakeClock()
    bucket = TokenBucket(rate=4, burst=1, now=clock)
    bucket.take()
    clock.advance(0.125)
    assert bucket.take() == pytest.approx(0.125)
    clock.advance(0.125)
    assert bucket.take() == 0
    assert bucket.take() == pytest.approx(0.25)


def test_long_pause_fills_the_bucket_no_further_than_the_burst() -> None:
    clock = FakeClock()
    bucket = TokenBucket(rate=5, burst=2, now=clock)
    clock.advance(3600)
    assert [bucket.take() > 0 for _ in range(3)] == [False, False, True]
