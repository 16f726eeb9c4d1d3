"""Circuit breaker of a store. A store that does not answer is called only rarely. The receiver's own store is always
called."""

import pytest

from keyturn_receiver.sources.store_health import MAX_SILENT_CALLS, PROBE_BACKOFF, StoreHealth
from support.clock import FakeClock


def test_store_that_has_never_answered_rests_longer_after_each_silent_call() -> None:
    clock = FakeClock()
    health = StoreHealth(False, clock)
    assert not health.proven
    assert health.rests_for() == 0
    for attempt in range(1, 10):
        health.silent()
        longest = min(PROBE_BACKOFF.cap, PROBE_BACKOFF.base * 2 ** (attempt - 1))
        assert longest / 2 <= health.rests_for() <= longest
        clock.advance(health.rests_for())
        assert health.rests_for() == 0


def test_one_answer_proves_a_store_and_ends_its_rest() -> None:
    clock = FakeClock()
    health = StoreHealth(False, clock)
    health.silent()
    health.answered()
    assert health.proven
    assert health.rests_for() == 0


def test_proven_store_is_suspect_after_several_silent_calls_in_a_row() -> None:
    health = StoreHealth(False, FakeClock())
    health.answered()
    for _ in range(3):
        for _ in range(MAX_SILENT_CALLS - 1):
            health.silent()
        assert health.proven
        assert health.rests_for() == 0
        health.answered()  # an answer ends the row of silent calls
    for _ in range(MAX_SILENT_CALLS):
        health.silent()
    assert not health.proven
    assert health.rests_for() > 0


@pytest.mark.parametrize("calls", [1, 100])
def test_own_store_is_never_left_alone(calls: int) -> None:
    health = StoreHealth(True, FakeClock())
    for _ in range(calls):
        health.silent()
    assert health.proven
    assert health.rests_for() == 0


def test_silence_about_secrets_alone_gives_a_proven_store_no_rest() -> None:
    health = StoreHealth(False, FakeClock())
    health.answered()
    asked = [health.silent(about_secret=True) for _ in range(MAX_SILENT_CALLS + 2)]
    assert asked == [False, False, True, True, True]  # from the third call on, the store itself has to be asked
    assert health.proven
    assert health.rests_for() == 0
    assert not health.silent()  # the store itself does not answer
    assert not health.proven
    assert health.rests_for() > 0
