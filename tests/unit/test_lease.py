"""Leader election: one replica leads at a time, and wall clocks affect neither who leads nor for how long."""

from contextlib import suppress
from typing import Any

import pytest

from keyturn_receiver.cluster.lease import DURATION, RENEW_DEADLINE, LeaderElector
from keyturn_receiver.errors import ClusterUnavailable, Conflict
from support.clock import FakeClock

pytestmark = pytest.mark.anyio


class FakeLease:
    """A fake Lease in the API server. Writing an outdated version of it raises a Conflict."""

    name = "keyturn-poller"

    def __init__(self) -> None:
        self.spec: dict[str, Any] | None = None
        self.version = 0
        self.gone = False

    async def read(self) -> Any:
        if self.gone:
            raise ClusterUnavailable("gone")
        return self.spec and {"metadata": {"resourceVersion": self.version}, "spec": dict(self.spec)}

    async def write(self, lease: Any, spec: dict[str, Any]) -> None:
        if (lease or {"metadata": {"resourceVersion": 0}})["metadata"]["resourceVersion"] != self.version:
            raise Conflict("somebody else wrote first")
        self.spec = {**(self.spec or {}), **spec, "renewTime": str(self.version)}
        self.version += 1


async def try_once(elector: LeaderElector) -> bool:
    """Make one attempt, as ``run`` does. Return whether the elector leads afterwards."""
    with suppress(Conflict, ClusterUnavailable):
        await elector._try_acquire_or_renew()
    return elector.is_leader()


async def test_second_replica_leads_once_the_first_renews_the_lease_no_more() -> None:
    leases, clock = FakeLease(), FakeClock()
    led: list[str] = []
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    first.add_handler(lambda: led.append("first"))
    second.add_handler(lambda: led.append("second"))
    assert await try_once(first)
    for _ in range(10):
        clock.advance(2)
        assert await try_once(first)
        assert not await try_once(second)
    clock.advance(DURATION)  # meanwhile the first replica does not renew the Lease
    assert not await try_once(second) or led == ["first", "second"]
    clock.advance(DURATION + 1)
    assert await try_once(second)
    assert led == ["first", "second"]


async def test_holder_that_leads_again_after_a_gap_calls_its_handlers() -> None:
    """In the gap, work that only the leader does was left to nobody."""
    leases, clock = FakeLease(), FakeClock()
    first = LeaderElector(leases, "first", now=clock)
    led: list[float] = []
    first.add_handler(lambda: led.append(clock()))
    assert await try_once(first)
    clock.advance(2)
    assert await try_once(first)
    assert len(led) == 1
    leases.gone = True
    clock.advance(RENEW_DEADLINE)
    assert not await try_once(first)
    leases.gone = False
    assert await try_once(first)
    assert await try_once(first)
    assert len(led) == 2


async def test_process_that_finds_itself_as_holder_calls_its_handlers() -> None:
    """A container that is started again has the same identity."""
    leases, clock = FakeLease(), FakeClock()
    assert await try_once(LeaderElector(leases, "first", now=clock))
    led: list[str] = []
    fresh = LeaderElector(leases, "first", now=clock)
    fresh.add_handler(lambda: led.append("fresh"))
    assert await try_once(fresh)
    assert led == ["fresh"]


async def test_leader_that_cannot_renew_stops_before_another_replica_leads() -> None:
    leases, clock = FakeLease(), FakeClock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    await try_once(first)
    assert not await try_once(second)
    leases.gone = True
    clock.advance(RENEW_DEADLINE - 1)
    assert await try_once(first)  # a short outage of the API server does not end the leadership
    clock.advance(1)
    assert not await try_once(first)
    leases.gone = False
    clock.advance(DURATION - RENEW_DEADLINE)
    assert not await try_once(second)
    clock.advance(1)
    assert await try_once(second)
    assert not await try_once(first)


async def test_concurrent_write_wins_once() -> None:
    leases, clock = FakeLease(), FakeClock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    lease = await leases.read()
    await try_once(first)
    with pytest.raises(Conflict):
        await leases.write(lease, {"holderIdentity": "second"})
    assert not await try_once(second)


async def test_released_lease_is_taken_at_once() -> None:
    leases, clock = FakeLease(), FakeClock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    await try_once(first)
    await first._release()
    assert not first.is_leader()
    assert await try_once(second)


async def test_replica_that_cannot_confirm_its_write_lets_another_lead() -> None:
    class LostReplies(FakeLease):
        async def write(self, lease: Any, spec: dict[str, Any]) -> None:
            await super().write(lease, spec)
            if spec["holderIdentity"] == "deaf":
                raise ClusterUnavailable("no answer")

    leases, clock = LostReplies(), FakeClock()
    deaf, other = LeaderElector(leases, "deaf", now=clock), LeaderElector(leases, "other", now=clock)
    for _ in range(10):
        assert not await try_once(deaf)
        if await try_once(other):
            break
        clock.advance(2)
    assert other.is_leader()


async def test_replica_knows_for_how_long_nobody_has_renewed_the_lease() -> None:
    leases, clock = FakeLease(), FakeClock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    clock.advance(5)
    assert (first.seconds_since_renewal(), second.seconds_since_renewal()) == (5, 5)
    for _ in range(20):
        assert await try_once(first)
        assert not await try_once(second)
        assert (first.seconds_since_renewal(), second.seconds_since_renewal()) == (0, 0)
        clock.advance(2)
    leases.gone = True
    clock.advance(2 * DURATION)
    assert not await try_once(second)
    assert (first.seconds_since_renewal(), second.seconds_since_renewal()) == (32, 32)
    leases.gone = False
    leases.spec = {**(leases.spec or {}), "holderIdentity": None}  # released, and nobody takes it
    second._backoff_until = clock() + DURATION
    assert not await try_once(second)
    assert second.seconds_since_renewal() == 32
    clock.advance(DURATION)
    assert await try_once(second)
    assert second.seconds_since_renewal() == 0
