"""The change brake: how long the changes of one Secret are delayed, and when they are free of delay again."""

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.change_brake import BACKOFF, FREE_CHANGES, MAX_SECRETS, RESET_AFTER, ChangeBrake
from support.clock import FakeClock

DB = Target("team", "db")


def test_first_changes_are_free_and_later_ones_wait_longer_and_longer() -> None:
    clock = FakeClock()
    brake = ChangeBrake(clock)
    told = [brake.record(DB, str(number)) for number in range(FREE_CHANGES)]
    assert told == [False] * (FREE_CHANGES - 1) + [True]
    waits = []
    for number in range(10):
        waits.append(brake.delay(DB))
        clock.advance(waits[-1])
        assert brake.delay(DB) == 0
        assert not brake.record(DB, f"later-{number}")
    assert waits == [min(BACKOFF.cap, BACKOFF.base * 2**number) for number in range(10)]


def test_changes_of_a_minute_are_a_handful() -> None:
    clock, followed = FakeClock(), 0
    brake = ChangeBrake(clock)
    for number in range(600):
        if not brake.delay(DB):
            brake.record(DB, str(number))
            followed += 1
        clock.advance(0.1)
    assert followed == FREE_CHANGES + 2


def test_same_version_counts_once_and_other_secrets_are_free() -> None:
    brake = ChangeBrake(FakeClock())
    for _ in range(10):
        brake.record(DB, "1")
    assert brake.delay(DB) == 0
    for number in range(10):
        brake.record(DB, str(number))
    assert brake.delay(DB)
    assert brake.delay(Target("team", "other")) == 0


def test_pause_ends_the_brake() -> None:
    clock = FakeClock()
    brake = ChangeBrake(clock)
    for number in range(FREE_CHANGES):
        brake.record(DB, str(number))
    clock.advance(RESET_AFTER + 1)
    assert not brake.record(DB, "later")
    assert brake.delay(DB) == 0


def test_memory_is_bounded_and_no_namespace_pushes_out_another() -> None:
    brake = ChangeBrake(FakeClock())
    for number in range(FREE_CHANGES):
        brake.record(DB, str(number))
    for number in range(MAX_SECRETS + 10):
        brake.record(Target("hostile", str(number)), "1")
    assert brake.delay(DB)
