"""Whether the event path is alive: a heartbeat reaches one replica, and a Lease tells the others."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

from keyturn_receiver.cluster.lease import LeaseClient
from keyturn_receiver.errors import Conflict, KeyturnError
from keyturn_receiver.liveness import Ping, no_ping

LOOK_SECONDS = 10.0

_log = logging.getLogger(__name__)


class EventPathMonitor:
    """Hears heartbeats, its own and the other replicas'.

    ``silence``: seconds without one after which the event path counts as broken; 0: none are sent, so it never does.
    ``now`` gives monotonic seconds, ``wall`` the time in UTC, which is only asked how old the Lease is at the start.
    """

    def __init__(
        self,
        lease: LeaseClient,
        identity: str,
        silence: float,
        beat: Ping = no_ping,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lease = lease
        self._identity = identity
        self._silence = silence
        self._beat = beat
        self._now = now
        self._wall = wall
        self._last = now()  # until something is known, the benefit of the doubt
        self._told = True
        self._renewed: str | None = None

    def record_heartbeat(self) -> None:
        """Take note of a heartbeat that has reached this replica."""
        self._last = self._now()
        self._told = False

    def healthy(self) -> bool:
        """Whether heartbeats still arrive, at whichever replica."""
        return not self._silence or self._now() - self._last <= self._silence

    async def run(self) -> None:
        """Tell the others what this replica hears, and look what they hear, for ever."""
        was_up = True
        while self._silence:
            self._beat()
            try:
                await self._exchange()
            except Conflict:
                pass  # another replica has told the same
            except KeyturnError as error:
                _log.warning("Lease %s: %s", self._lease.name, error)
            if self.healthy() != was_up:
                was_up = self.healthy()
                _log.log(logging.INFO if was_up else logging.ERROR, "the event path is %s", "up" if was_up else "down")
            await asyncio.sleep(min(LOOK_SECONDS, self._silence / 3))
        self._beat(math.inf)

    async def _exchange(self) -> None:
        found = await self._lease.read()
        renewed = ((found or {}).get("spec") or {}).get("renewTime")
        if renewed and renewed != self._renewed:
            # Only the first one can be old; each later change is seen as it comes, whatever the clocks say.
            age = (self._wall() - datetime.fromisoformat(renewed)).total_seconds() if self._renewed is None else 0.0
            first, self._renewed = self._renewed is None, renewed
            heard = self._now() - max(0.0, age)
            self._last = heard if first and self._told else max(self._last, heard)
        if not self._told:
            self._told = True
            self._renewed = self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            await self._lease.write(found, {"holderIdentity": self._identity, "renewTime": self._renewed})
