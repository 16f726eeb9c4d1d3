"""The Lease that one replica holds, to be the one that polls.

The protocol is client-go's: who finds the Lease unchanged for its whole duration, by a clock of his own, takes it over;
the resource version lets one of several win. https://kubernetes.io/docs/concepts/architecture/leases/
Why not the official client's election: docs/adr/004-leader-election.md.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from keyturn_receiver.cluster.api import Api, Json, path
from keyturn_receiver.errors import ClusterUnavailable, Conflict, KeyturnError, NotFound, TooManyRequests
from keyturn_receiver.liveness import Ping, no_ping

DURATION = 15.0  # seconds, as client-go's defaults for all three
RENEW_DEADLINE = 10.0
RETRY_PERIOD = 2.0
GIVE_BACK_SECONDS = 1.0  # the end waits for it

_LEASES = "coordination.k8s.io/v1"
_log = logging.getLogger(__name__)


class LeaseClient:
    """One Lease in the API, read and written whole, so that no write goes over another's."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self.name = name

    async def read(self) -> Json | None:
        """Read it; None if there is none yet."""
        try:
            return await self._api.request("GET", path(_LEASES, "leases", self._namespace, self.name))
        except NotFound:
            return None

    async def write(self, found: Json | None, spec: Json) -> None:
        """Write ``spec`` if the Lease still is as ``found``. Raises Conflict if somebody else has written it since."""
        if found is None:
            body: Json = {"metadata": {"name": self.name}, "spec": spec}
            await self._api.request("POST", path(_LEASES, "leases", self._namespace), body=body)
        else:
            body = {**found, "spec": {**found.get("spec", {}), **spec}}
            await self._api.request("PUT", path(_LEASES, "leases", self._namespace, self.name), body=body)


class LeaderElector:
    """Tells whether this replica leads; ``led`` is called whenever it begins to.

    ``now`` gives monotonic seconds: the wall clock may step as it likes.
    """

    def __init__(
        self,
        lease: LeaseClient,
        identity: str,
        led: Callable[[], None] = lambda: None,
        beat: Ping = no_ping,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._identity = identity
        self._led = led
        self._beat = beat
        self._now = now
        self._until = 0.0
        self._backoff_until = 0.0
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0

    def is_leader(self) -> bool:
        """Whether this replica leads now. It ends by itself when no renewal succeeds in time."""
        return self._now() < self._until

    async def run(self) -> None:
        """Stand for election for ever; when cancelled, give the Lease back."""
        try:
            while True:
                self._beat()
                try:
                    await self._try_acquire_or_renew()
                except Conflict:
                    self._until = 0.0  # somebody else was quicker
                except KeyturnError as error:
                    _log.warning("Lease %s: %s", self._lease.name, error)  # held until the deadline, if it was
                await asyncio.sleep(RETRY_PERIOD)
        finally:
            if self.is_leader():
                await self._release()

    async def _try_acquire_or_renew(self) -> None:
        asked = self._now()
        if asked < self._backoff_until:
            return
        found = await self._lease.read()
        spec = (found or {}).get("spec") or {}
        mine = spec.get("holderIdentity") == self._identity
        if not mine:
            self._until = 0.0
            if not self._is_free(spec):
                return
        fresh = {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": _micro_time()}
        if not mine:
            fresh |= {"acquireTime": fresh["renewTime"], "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        try:
            await self._lease.write(found, fresh)
        except ClusterUnavailable as error:
            # It may be written all the same: renewed so for ever, it would keep others from leading, and lead nobody.
            if not self.is_leader() and not isinstance(error, TooManyRequests):
                self._backoff_until = self._now() + 2 * DURATION
            raise
        self._until = asked + RENEW_DEADLINE
        if not mine:
            _log.info("leading: this replica runs the poller")
            self._led()

    def _is_free(self, spec: Json) -> bool:
        """Whether nobody holds it: given back, or not renewed for its whole duration as seen from here."""
        seen = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._now()
        duration = float(spec.get("leaseDurationSeconds") or DURATION)
        return not spec.get("holderIdentity") or self._now() - self._seen_at > duration

    async def _release(self) -> None:
        self._until = 0.0
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                found = await self._lease.read()
                if found and (found.get("spec") or {}).get("holderIdentity") == self._identity:
                    await self._lease.write(found, {"holderIdentity": None})
        except (KeyturnError, TimeoutError) as error:
            why = str(error) or "it takes too long"
            _log.info("Lease %s could not be given back, and runs out: %s", self._lease.name, why)


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
