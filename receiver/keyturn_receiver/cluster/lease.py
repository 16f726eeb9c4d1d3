"""Leader election with a Lease. The replica that holds the Lease is the leader, and runs the poller.

The protocol is that of client-go. A candidate takes over the Lease once the Lease has not changed for its whole
duration, measured by the candidate's own clock. If several candidates try at the same time, the resource version lets
only one of them win. docs/adr/004-leader-election.md says why the official client's election is not used.

https://kubernetes.io/docs/concepts/architecture/leases/
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from keyturn_receiver.cluster.api import Api, Json, path
from keyturn_receiver.errors import ClusterUnavailable, Conflict, KeyturnError, NotFound, TooManyRequests
from keyturn_receiver.liveness import Ping, no_ping

DURATION = 15.0  # seconds; the values of this and the next two constants are client-go's defaults
RENEW_DEADLINE = 10.0
RETRY_PERIOD = 2.0
RELEASE_TIMEOUT = 1.0  # seconds that releasing the Lease may delay the end of the process
FOLLOWER_DELAY = (2.0, 4.0)  # the range of seconds for which the other replicas wait for the leader

_LEASES = "coordination.k8s.io/v1"
_log = logging.getLogger(__name__)


def follower_delay() -> float:
    """Return the number of seconds for which a replica that is not the leader waits for the leader's work. If the
    leader has not done the work by then, the waiting replica does the work."""
    return random.uniform(*FOLLOWER_DELAY)  # noqa: S311 - a random delay, not a secret


class LeaseClient:
    """Client for one Lease. Every write sends back the object that was read. So no write overwrites a change that
    another replica has made in between."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self.name = name

    async def read(self) -> Json | None:
        """Read the Lease. Return None if the Lease does not exist yet."""
        try:
            return await self._api.request("GET", path(_LEASES, "leases", self._namespace, self.name))
        except NotFound:
            return None

    async def write(self, lease: Json | None, spec: Json) -> None:
        """Write ``spec`` into the Lease. ``lease`` is the Lease as it was read, or None if it has to be created.

        Raises Conflict if the Lease has changed since it was read.
        """
        if lease is None:
            body: Json = {"metadata": {"name": self.name}, "spec": spec}
            await self._api.request("POST", path(_LEASES, "leases", self._namespace), body=body)
        else:
            body = {**lease, "spec": {**lease.get("spec", {}), **spec}}
            await self._api.request("PUT", path(_LEASES, "leases", self._namespace, self.name), body=body)


class LeaderElector:
    """Leader elector. It tells whether this replica is the leader.

    ``now`` returns monotonic seconds, so a jump of the wall clock has no effect.
    """

    def __init__(
        self,
        lease: LeaseClient,
        identity: str,
        ping: Ping = no_ping,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._identity = identity
        self._handlers: list[Callable[[], None]] = []
        self._ping = ping
        self._now = now
        self._leader_until = 0.0
        self._backoff_until = 0.0
        self._observed: tuple[object, ...] = ()  # the state of the Lease when this replica last saw it change
        self._observed_at = 0.0
        self._renewed_at = now()  # when this replica last saw or made a renewal, or its start

    def add_handler(self, on_started_leading: Callable[[], None]) -> None:
        """Register ``on_started_leading``, which is called each time this replica becomes the leader. It is also called
        if the replica has not led for a while because it could not renew the Lease, which it still holds."""
        self._handlers.append(on_started_leading)

    def is_leader(self) -> bool:
        """Return whether this replica is the leader now. If the Lease is not renewed for RENEW_DEADLINE seconds, this
        replica is no longer the leader."""
        return self._now() < self._leader_until

    def seconds_since_renewal(self) -> float:
        """Return the seconds since this replica has seen that a holder renewed the Lease, or since its start. After
        DURATION seconds and a few more, no replica leads, or this replica cannot read the Lease."""
        return self._now() - self._renewed_at

    async def run(self) -> None:
        """Acquire and renew the Lease until cancelled. Then release it."""
        try:
            while True:
                self._ping()
                try:
                    await self._try_acquire_or_renew()
                except Conflict:
                    self._leader_until = 0.0  # another replica has written the Lease first
                except KeyturnError as error:
                    # If this replica leads, it stays the leader until RENEW_DEADLINE seconds after its last renewal.
                    _log.warning("Lease %s: %s", self._lease.name, error)
                await asyncio.sleep(RETRY_PERIOD)
        finally:
            if self.is_leader():
                await self._release()

    async def _try_acquire_or_renew(self) -> None:
        started = self._now()
        if started < self._backoff_until:
            return
        lease = await self._lease.read()
        spec = (lease or {}).get("spec") or {}
        is_holder = spec.get("holderIdentity") == self._identity
        if not is_holder:
            self._leader_until = 0.0
            if not self._is_free(spec):
                return
        renew_time = micro_time(datetime.now(UTC))
        update: Json = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "renewTime": renew_time,
        }
        if not is_holder:
            update |= {"acquireTime": renew_time, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        try:
            await self._lease.write(lease, update)
        except ClusterUnavailable as error:
            # The write may have succeeded. A replica that cannot confirm its writes has to pause. Otherwise it would
            # keep renewing the Lease without ever leading, and no other replica could lead either.
            if not self.is_leader() and not isinstance(error, TooManyRequests):
                self._backoff_until = self._now() + 2 * DURATION
            raise
        begins = not (is_holder and self.is_leader())
        self._leader_until, self._renewed_at = started + RENEW_DEADLINE, started
        if begins:
            _log.info("leading: this replica runs the poller")
            for on_started_leading in self._handlers:
                on_started_leading()

    def _is_free(self, spec: Json) -> bool:
        """Return whether the Lease can be taken. A Lease can be taken if it has no holder, or if this replica has seen
        no renewal for the Lease's whole duration."""
        observed = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if observed != self._observed:
            self._observed, self._observed_at = observed, self._now()
            if spec.get("holderIdentity"):
                self._renewed_at = self._observed_at
        duration = float(spec.get("leaseDurationSeconds") or DURATION)
        return not spec.get("holderIdentity") or self._now() - self._observed_at > duration

    async def _release(self) -> None:
        self._leader_until = 0.0
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                lease = await self._lease.read()
                if lease and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                    await self._lease.write(lease, {"holderIdentity": None})
        except (KeyturnError, TimeoutError) as error:
            reason = str(error) or "timed out"
            _log.info("Lease %s could not be released, and expires by itself: %s", self._lease.name, reason)


def micro_time(at: datetime) -> str:
    """Format a time as a MicroTime of Kubernetes."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
