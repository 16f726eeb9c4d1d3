"""The event path is up as long as heartbeats arrive, at whichever replica."""

from datetime import UTC, datetime, timedelta

import pytest

from clock import Clock
from keyturn_receiver.cluster.event_path import EventPathMonitor
from unit.test_lease import Leases

pytestmark = pytest.mark.anyio
START = datetime(2026, 11, 25, tzinfo=UTC)


class Told(Leases):
    """A Lease that keeps the time it is told."""

    async def write(self, found, spec) -> None:
        await super().write(found, spec)
        self.spec = {**self.spec, **spec}


def replica(lease: Told, name: str, clock: Clock, silence: float = 180.0, skew: float = 0.0) -> EventPathMonitor:
    start = clock()
    return EventPathMonitor(
        lease, name, silence, now=clock, wall=lambda: START + timedelta(seconds=clock() - start + skew)
    )


async def test_what_one_replica_hears_all_know() -> None:
    lease, clock = Told(), Clock()
    first, second = replica(lease, "first", clock), replica(lease, "second", clock, skew=-3600)
    for _ in range(10):
        clock.forward(60)
        first.record_heartbeat()
        await first._exchange()
        await second._exchange()
        assert first.healthy()
        assert second.healthy()
    clock.forward(181)
    await second._exchange()
    assert not first.healthy()
    assert not second.healthy()
    first.record_heartbeat()
    await first._exchange()
    await second._exchange()
    assert first.healthy()
    assert second.healthy()


async def test_a_replica_that_starts_after_a_long_silence_knows_at_once() -> None:
    lease, clock = Told(), Clock()
    first = replica(lease, "first", clock)
    first.record_heartbeat()
    await first._exchange()
    late = EventPathMonitor(lease, "late", 180, now=clock, wall=lambda: START + timedelta(seconds=600))
    assert late.healthy()
    await late._exchange()
    assert not late.healthy()


async def test_without_heartbeats_that_could_be_missed_nothing_is_down() -> None:
    clock = Clock()
    silent = replica(Told(), "silent", clock, silence=0)
    clock.forward(10**6)
    assert silent.healthy()
