"""Outages of the API server during a command that goes on."""

import pytest

from keyturn_cli.errors import Unreachable
from keyturn_cli.outage import MAX_SECONDS, PAUSE, Outage

ERROR = Unreachable("blue: it answered 503", "try again")


class Clock:
    """A clock that a sleep moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_outage_of_a_minute_ends_the_command() -> None:
    clock = Clock()
    outage = Outage(lambda: clock.now, clock.sleep)
    for _ in range(int(MAX_SECONDS / PAUSE)):
        outage.endure(ERROR)
    with pytest.raises(Unreachable, match="it answered 503"):
        outage.endure(ERROR)


def test_each_outage_has_a_minute_of_its_own() -> None:
    clock = Clock()
    outage = Outage(lambda: clock.now, clock.sleep)
    for _ in range(3):
        for _ in range(int(MAX_SECONDS / PAUSE)):
            outage.endure(ERROR)
        outage.end()
    assert clock.now == 100 + 3 * MAX_SECONDS
