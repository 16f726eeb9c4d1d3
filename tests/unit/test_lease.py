"""One replica leads; who leads, and for how long, depends on no wall clock."""

from contextlib import suppress
from typing import Any

import pytest

from clock import Clock
from keyturn_receiver.cluster.lease import DURATION, RENEW_DEADLINE, LeaderElector
from keyturn_receiver.errors import ClusterUnavailable, Conflict

pytestmark = pytest.mark.anyio


class Leases:
    """A Lease in the API server: a write of an older version is a conflict."""

    name = "keyturn-poller"

    def __init__(self) -> None:
        self.spec: dict[str, Any] | None = None
        self.version = 0
        self.gone = False

    async def read(self) -> Any:
        if self.gone:
            raise ClusterUnavailable("gone")
        return self.spec and {"metadata": {"resourceVersion": self.version}, "spec": dict(self.spec)}

    async def write(self, found: Any, spec: dict[str, Any]) -> None:
        if (found or {"metadata": {"resourceVersion": 0}})["metadata"]["resourceVersion"] != self.version:
            raise Conflict("somebody else wrote first")
        self.spec = {**(self.spec or {}), **spec, "renewTime": str(self.version)}
        self.version += 1


async def stand(lease: LeaderElector) -> bool:
    """One try, as ``run`` makes them."""
    with suppress(Conflict, ClusterUnavailable):
        await lease._try_acquire_or_renew()
    return lease.is_leader()


async def test_the_first_leads_and_the_second_waits_until_it_is_not_renewed_any_more() -> None:
    leases, clock = Leases(), Clock()
    led: list[str] = []
    first = LeaderElector(leases, "first", lambda: led.append("first"), now=clock)
    second = LeaderElector(leases, "second", lambda: led.append("second"), now=clock)
    assert await stand(first)
    for _ in range(10):
        clock.forward(2)
        assert await stand(first)
        assert not await stand(second)
    clock.forward(DURATION)  # the first has died
    assert not await stand(second) or led == ["first", "second"]
    clock.forward(DURATION + 1)
    assert await stand(second)
    assert led == ["first", "second"]


async def test_who_cannot_renew_stops_leading_before_anybody_else_begins() -> None:
    leases, clock = Leases(), Clock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    await stand(first)
    assert not await stand(second)
    leases.gone = True
    clock.forward(RENEW_DEADLINE - 1)
    assert await stand(first)  # a moment without the API server takes nothing away
    clock.forward(1)
    assert not await stand(first)
    leases.gone = False
    clock.forward(DURATION - RENEW_DEADLINE)
    assert not await stand(second)
    clock.forward(1)
    assert await stand(second)
    assert not await stand(first)


async def test_of_two_that_grasp_at_once_one_gets_it() -> None:
    leases, clock = Leases(), Clock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    found = await leases.read()
    await stand(first)
    with pytest.raises(Conflict):
        await leases.write(found, {"holderIdentity": "second"})
    assert not await stand(second)


async def test_given_back_it_is_taken_at_once() -> None:
    leases, clock = Leases(), Clock()
    first, second = LeaderElector(leases, "first", now=clock), LeaderElector(leases, "second", now=clock)
    await stand(first)
    await first._release()
    assert not first.is_leader()
    assert await stand(second)


async def test_who_is_not_told_whether_it_has_won_lets_others_win() -> None:
    class Deaf(Leases):
        async def write(self, found: Any, spec: dict[str, Any]) -> None:
            await super().write(found, spec)
            if spec["holderIdentity"] == "deaf":
                raise ClusterUnavailable("no answer")

    leases, clock = Deaf(), Clock()
    deaf, other = LeaderElector(leases, "deaf", now=clock), LeaderElector(leases, "other", now=clock)
    for _ in range(10):
        assert not await stand(deaf)
        if await stand(other):
            break
        clock.forward(2)
    assert other.is_leader()
