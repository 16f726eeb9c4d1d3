"""Liveness follows progress."""

import math

from keyturn_receiver.liveness import Watchdog
from support.clock import Clock


def test_a_part_that_is_silent_for_too_long_is_stuck_until_it_goes_on() -> None:
    clock = Clock()
    pulse = Watchdog(300, clock)
    poller, watch = pulse.register("the poller"), pulse.register("the watch of secrets")
    clock.forward(299)
    poller()
    clock.forward(2)
    assert pulse.stuck() == ["the watch of secrets"]
    watch()
    assert pulse.stuck() == []


def test_a_part_that_rests_on_purpose_is_not_stuck() -> None:
    clock = Clock()
    pulse = Watchdog(300, clock)
    watch, heartbeats = pulse.register("the watch of secrets"), pulse.register("heartbeats")
    watch(75)
    heartbeats(math.inf)
    clock.forward(374)
    assert pulse.stuck() == []
    clock.forward(2)
    assert pulse.stuck() == ["the watch of secrets"]


def test_what_takes_too_long_is_stuck() -> None:
    longest = [0.0]
    pulse = Watchdog(300, Clock())
    pulse.watch("a reconcile", lambda: longest[0])
    assert pulse.stuck() == []
    longest[0] = 301
    assert pulse.stuck() == ["a reconcile"]
