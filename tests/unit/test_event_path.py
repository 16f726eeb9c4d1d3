"""The event path is healthy while heartbeats arrive, no matter which replica receives them."""

from datetime import UTC, datetime, timedelta

import pytest

from keyturn_receiver.cluster.event_path import EventPathMonitor
from support.clock import FakeClock
from unit.test_lease import FakeLease

pytestmark = pytest.mark.anyio
START = datetime(2026, 11, 25, tzinfo=UTC)


class TimedLease(FakeLease):
    """A Lease that keeps the renewTime that was last written to it."""

    async def write(self, lease, spec) -> None:
        await super().write(lease, spec)
        self.spec = {**self.spec, **spec}


def replica(
    lease: TimedLease, name: str, clock: FakeClock, timeout: float = 180.0, skew: float = 0.0
) -> EventPathMonitor:
    start = clock()
    return EventPathMonitor(
        lease, name, timeout, now=clock, wall=lambda: START + timedelta(seconds=clock() - start + skew)
    )


def sent(clock: FakeClock) -> datetime:
    """Return the time of a heartbeat that is sent now."""
    return START + timedelta(seconds=clock())


async def test_heartbeat_at_one_replica_reaches_all() -> None:
    lease, clock = TimedLease(), FakeClock()
    first, second = replica(lease, "first", clock), replica(lease, "second", clock, skew=-3600)
    for _ in range(10):
        clock.advance(60)
        first.record_heartbeat(sent(clock))
        await first._sync_lease()
        await second._sync_lease()
        assert first.healthy()
        assert second.healthy()
    clock.advance(181)
    await second._sync_lease()
    assert not first.healthy()
    assert not second.healthy()
    first.record_heartbeat(sent(clock))
    await first._sync_lease()
    await second._sync_lease()
    assert first.healthy()
    assert second.healthy()


async def test_replica_that_starts_after_the_timeout_sees_the_path_down_at_once() -> None:
    lease, clock = TimedLease(), FakeClock()
    first = replica(lease, "first", clock)
    first.record_heartbeat(sent(clock))
    await first._sync_lease()
    late = EventPathMonitor(lease, "late", 180, now=clock, wall=lambda: START + timedelta(seconds=600))
    assert late.healthy()
    await late._sync_lease()
    assert not late.healthy()


async def test_event_path_without_heartbeats_is_always_healthy() -> None:
    clock = FakeClock()
    silent = replica(TimedLease(), "silent", clock, timeout=0)
    clock.advance(10**6)
    assert silent.healthy()


async def test_heartbeat_of_this_replica_outweighs_an_old_lease() -> None:
    lease, clock = TimedLease(), FakeClock()
    first = replica(lease, "first", clock)
    first.record_heartbeat(sent(clock))
    await first._sync_lease()
    late = EventPathMonitor(lease, "late", 180, now=clock, wall=lambda: START + timedelta(seconds=600))
    late.record_heartbeat(sent(clock))
    await late._sync_lease()
    assert late.healthy()
    await first._sync_lease()  # the first replica reads the heartbeat that the late replica has published
    clock.advance(180)
    assert first.healthy()


async def test_replayed_heartbeat_keeps_the_event_path_up_at_no_replica() -> None:
    lease, clock = TimedLease(), FakeClock()
    first, second = replica(lease, "first", clock), replica(lease, "second", clock)
    recorded = sent(clock)
    first.record_heartbeat(recorded)
    await first._sync_lease()
    await second._sync_lease()
    for _ in range(19):
        clock.advance(10)
        for each in (first, second):
            each.record_heartbeat(recorded)
            await each._sync_lease()
    assert not first.healthy()
    assert not second.healthy()
    first.record_heartbeat(sent(clock))
    assert first.healthy()


async def test_replica_that_starts_after_a_recorded_heartbeat_refuses_its_replay() -> None:
    lease, clock = TimedLease(), FakeClock()
    first = replica(lease, "first", clock)
    recorded = sent(clock)
    first.record_heartbeat(recorded)
    await first._sync_lease()
    clock.advance(170)
    late = EventPathMonitor(lease, "late", 180, now=clock, wall=lambda: sent(clock))
    await late._sync_lease()
    late.record_heartbeat(recorded)
    clock.advance(20)
    await late._sync_lease()
    assert not late.healthy()
