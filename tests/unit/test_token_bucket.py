"""A token bucket allows a burst and then a steady rate."""

import asyncio
import time

import pytest

from keyturn_receiver.resilience.token_bucket import MAX_BUCKETS, TokenBucket, TokenBuckets
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


def test_reserved_tokens_come_one_after_another() -> None:
    clock = FakeClock()
    bucket = TokenBucket(rate=5, burst=1, now=clock)
    assert [bucket.reserve() for _ in range(4)] == pytest.approx([0, 0.2, 0.4, 0.6])
    clock.advance(0.4)
    assert bucket.reserve() == pytest.approx(0.4)


def test_each_key_has_a_bucket_of_its_own_and_the_number_of_buckets_is_bounded() -> None:
    buckets = TokenBuckets(rate=5, burst=1, now=FakeClock())
    assert [buckets.of("a").take(), buckets.of("a").take(), buckets.of("b").take()] == pytest.approx([0, 0.2, 0])
    for number in range(2 * MAX_BUCKETS):
        buckets.of(number).take()
    assert len(buckets._buckets) == MAX_BUCKETS


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_those_who_wait_for_a_key_are_served_at_its_rate() -> None:
    buckets = TokenBuckets(10, 5, time.monotonic)
    begun = time.monotonic()
    await asyncio.gather(*(buckets.wait("busy") for _ in range(25)))
    assert time.monotonic() - begun == pytest.approx(2, abs=0.2)
    begun = time.monotonic()
    await buckets.wait("quiet")
    assert time.monotonic() - begun < 0.1
