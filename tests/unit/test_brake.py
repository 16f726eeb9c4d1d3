"""The brake: rounds that come one after the other get rarer, and never stop."""

from keyturn_receiver.core.binding import Target
from keyturn_receiver.reconcile.fight_backoff import FREE_ROUNDS, MAX_DELAY, QUIET, FightBackoff
from support.clock import Clock

A, B = Target("team", "a"), Target("team", "b")


def test_rounds_get_rarer_up_to_a_bound_and_are_forgotten_after_a_rest() -> None:
    clock = Clock()
    brake = FightBackoff(clock)
    delays, began = [], []
    for _ in range(FREE_ROUNDS + 8):
        delays.append(brake.delay(A))
        clock.forward(delays[-1])
        began.append(brake.take(A))
    assert delays == [0] * FREE_ROUNDS + [1, 2, 4, 8, 16, 32, MAX_DELAY, MAX_DELAY]
    assert began.count(True) == 1
    assert began[FREE_ROUNDS - 1]
    assert brake.delay(B) == 0
    clock.forward(QUIET + 1)
    assert brake.delay(A) == 0


def test_a_secret_that_is_no_more_leaves_nothing() -> None:
    brake = FightBackoff(Clock())
    for _ in range(FREE_ROUNDS):
        brake.take(A)
    assert brake.delay(A) > 0
    brake.forget(A)
    assert brake.delay(A) == 0
