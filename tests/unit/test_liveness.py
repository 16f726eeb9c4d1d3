"""Liveness depends on the progress of the receiver's parts."""

import math

from keyturn_receiver.liveness import Watchdog
from support.clock import FakeClock


def test_part_without_pings_is_stuck_until_it_pings_again() -> None:
    clock = FakeClock()
    watchdog = Watchdog(300, clock)
    poller, watch = watchdog.register("poller"), watchdog.register("watch of secrets")
    clock.advance(299)
    poller()
    clock.advance(2)
    assert watchdog.stuck() == ["watch of secrets"]
    watch()
    assert watchdog.stuck() == []


def test_part_with_an_expected_idle_time_is_not_stuck() -> None:
    clock = FakeClock()
    watchdog = Watchdog(300, clock)
    watch, heartbeats = watchdog.register("watch of secrets"), watchdog.register("event path monitor")
    watch(75)
    heartbeats(math.inf)
    clock.advance(374)
    assert watchdog.stuck() == []
    clock.advance(2)
    assert watchdog.stuck() == ["watch of secrets"]


def test_duration_over_the_limit_is_stuck() -> None:
    longest = [0.0]
    watchdog = Watchdog(300, FakeClock())
    watchdog.register_duration("reconcile", lambda: longest[0])
    assert watchdog.stuck() == []
    longest[0] = 301
    assert watchdog.stuck() == ["reconcile"]
