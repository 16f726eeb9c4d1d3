"""Monitor of the event path. The event path is the way of AWS's events to the receiver. Each heartbeat arrives at only
one replica. This replica passes the heartbeat on to the other replicas through a Lease."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.cluster.lease import LeaseClient, micro_time
from keyturn_receiver.errors import Conflict, KeyturnError
from keyturn_receiver.liveness import Ping, no_ping

LEASE_INTERVAL = 10.0  # seconds between two reads of the Lease, or fewer if the timeout is short

_log = logging.getLogger(__name__)


class EventPathMonitor:
    """Heartbeat monitor. The event path is healthy as long as any replica receives heartbeats.

    The event path counts as down after ``timeout`` seconds without a heartbeat. If ``timeout`` is 0, no heartbeats are
    sent, and the event path always counts as healthy. A heartbeat counts only if it was sent later than every heartbeat
    that this replica has received itself or has read from the Lease. Otherwise it may be a replay. The Lease's
    ``acquireTime`` is the time at which the newest heartbeat was sent.

    ``now`` returns monotonic seconds. ``wall`` returns the time in UTC, which is written to the Lease as ``renewTime``.
    The clocks of two replicas are compared only once: to compute the age of the Lease when this replica first reads it.
    """

    def __init__(
        self,
        lease: LeaseClient,
        identity: str,
        timeout: float,
        ping: Ping = no_ping,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lease = lease
        self._identity = identity
        self._timeout = timeout
        self._ping = ping
        self._now = now
        self._wall = wall
        self._last_heartbeat = now()  # the path counts as healthy until the Lease or the timeout shows otherwise
        self._newest = datetime.min.replace(tzinfo=UTC)  # when the newest heartbeat of any replica was sent
        self._published = True  # False if a heartbeat has arrived here that is not yet published in the Lease
        self._last_renewal: str | None = None  # the Lease's renewTime at the last read or write, or None

    def record_heartbeat(self, sent: datetime) -> None:
        """Record a heartbeat that has arrived at this replica. ``sent`` is the time at which it was sent."""
        if sent <= self._newest:
            return
        self._newest = sent
        self._last_heartbeat = self._now()
        self._published = False

    def healthy(self) -> bool:
        """Return whether heartbeats still arrive at any replica."""
        return not self._timeout or self._now() - self._last_heartbeat <= self._timeout

    def silence(self) -> float | None:
        """Return the seconds since the last heartbeat of any replica, or since the start if there was none yet. Return
        None if no heartbeats are expected."""
        return self._now() - self._last_heartbeat if self._timeout else None

    async def run(self) -> None:
        """Exchange heartbeats with the other replicas through the Lease, until cancelled. Return at once if no
        heartbeats are expected."""
        was_healthy = True
        while self._timeout:
            self._ping()
            try:
                await self._sync_lease()
            except Conflict:
                pass  # another replica has published a heartbeat at the same time
            except KeyturnError as error:
                _log.warning("Lease %s: %s", self._lease.name, error)
            if self.healthy() != was_healthy:
                was_healthy = self.healthy()
                level, state = (logging.INFO, "up") if was_healthy else (logging.ERROR, "down")
                _log.log(level, "the event path is %s", state)
            await asyncio.sleep(min(LEASE_INTERVAL, self._timeout / 3))
        self._ping(math.inf)

    async def _sync_lease(self) -> None:
        lease = await self._lease.read()
        spec = (lease or {}).get("spec") or {}
        renewal, newest = spec.get("renewTime"), spec.get("acquireTime")
        if newest:
            self._newest = max(self._newest, datetime.fromisoformat(newest))
        if renewal and renewal != self._last_renewal:
            self._receive(renewal)
        if not self._published:
            await self._publish(lease)

    def _receive(self, renewal: str) -> None:
        """Record a heartbeat that another replica has published."""
        if self._last_renewal is not None:
            # The Lease was renewed after this replica last read it, so no clocks have to be compared.
            self._last_heartbeat = self._now()
        else:
            age = (self._wall() - datetime.fromisoformat(renewal)).total_seconds()
            received_at = self._now() - max(0.0, age)
            # If no heartbeat has arrived here yet, the Lease replaces the initial assumption.
            if self._published:
                self._last_heartbeat = received_at
            else:
                self._last_heartbeat = max(self._last_heartbeat, received_at)
        self._last_renewal = renewal

    async def _publish(self, lease: Json | None) -> None:
        # The flag is set before the write. If a heartbeat arrives during the write, it clears the flag again, and the
        # next write publishes it.
        self._published = True
        self._last_renewal = micro_time(self._wall())
        spec = {
            "holderIdentity": self._identity,
            "renewTime": self._last_renewal,
            "acquireTime": micro_time(self._newest),
        }
        await self._lease.write(lease, spec)
