"""Back-off in a fight with another writer: repeated repairs of the same Secret become rarer but never stop."""

from keyturn_receiver.reconcile.fight_backoff import FREE_ATTEMPTS, REPAIR_BACKOFF, RESET_AFTER, FightBackoff
from support.clock import FakeClock


def test_repairs_get_rarer_up_to_a_bound_and_are_free_again_after_a_rest() -> None:
    clock, fight = FakeClock(), FightBackoff()
    delays, first_delayed = [], []
    for _ in range(FREE_ATTEMPTS + 8):
        delays.append(fight.delay(clock()))
        clock.advance(delays[-1])
        first_delayed.append(fight.record(clock()))
    assert delays == [0] * FREE_ATTEMPTS + [1, 2, 4, 8, 16, 32, REPAIR_BACKOFF.cap, REPAIR_BACKOFF.cap]
    assert first_delayed.count(True) == 1
    assert first_delayed[FREE_ATTEMPTS - 1]
    clock.advance(RESET_AFTER + 1)
    assert fight.delay(clock()) == 0
