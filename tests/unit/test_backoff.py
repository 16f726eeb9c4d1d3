"""Back-off delays double up to their cap, and jitter only shortens them."""

import pytest

from keyturn_receiver.resilience.backoff import Backoff, jittered


def longest(low: float, high: float) -> float:
    return high


def shortest(low: float, high: float) -> float:
    return low


def test_delays_start_at_the_base_and_double_up_to_the_cap() -> None:
    backoff = Backoff(0.5, 30.0, uniform=longest)
    assert [backoff.delay(attempt) for attempt in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_delay_stays_at_the_cap_after_any_number_of_attempts() -> None:
    assert Backoff(0.05, 60.0, uniform=longest).delay(10**9) == 60.0


def test_cap_below_the_base_wins() -> None:
    assert Backoff(0.5, 0.01, uniform=longest).delay(1) == 0.01


@pytest.mark.parametrize(("at_least", "delay"), [(0.0, 2.0), (1.0, 2.0), (7.0, 7.0), (900.0, 30.0)])
def test_delay_asked_for_by_the_failure_counts_up_to_the_cap(at_least: float, delay: float) -> None:
    assert Backoff(0.5, 30.0, uniform=longest).delay(3, at_least) == delay


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 8.0), (0.5, 4.0), (1.0, 0.0)])
def test_jitter_is_the_share_of_a_delay_that_may_fall_away(jitter: float, delay: float) -> None:
    assert Backoff(1.0, 60.0, jitter, uniform=shortest).delay(4) == delay
    assert jittered(8.0, jitter, shortest) == delay


def test_jittered_delays_differ_within_their_bounds() -> None:
    delays = [Backoff(1.0, 60.0).delay(1) for _ in range(100)]
    assert all(0.5 <= delay <= 1 for delay in delays)
    assert len(set(delays)) > 1
