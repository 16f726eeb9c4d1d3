"""The Lease that one replica holds, to be the one that polls. The election is the official client's."""

import asyncio
import logging

from kubernetes.aio.client import ApiClient, ApiException, V1Lease, V1ObjectMeta
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

DURATION = 15  # seconds, as client-go's defaults for all three
RENEW_DEADLINE = 10
RETRY_PERIOD = 2

_log = logging.getLogger(__name__)


class Lease:
    """Tells whether this replica leads: ``held`` is set while it does."""

    def __init__(self, client: ApiClient, namespace: str, name: str, identity: str) -> None:
        self._lock = _Lock(name, namespace, identity, client)
        self.held = asyncio.Event()

    async def run(self) -> None:
        """Stand for election for ever."""
        config = Config(self._lock, DURATION, RENEW_DEADLINE, RETRY_PERIOD, self._lead, self._follow)
        while True:
            try:
                await LeaderElection(config).run()
            except Exception as error:  # the election lets errors of transport out; none may end it for good
                _log.warning("the election for Lease %s broke off: %s", self._lock.name, type(error).__name__)
            finally:
                self.held.clear()
            await asyncio.sleep(RETRY_PERIOD)

    async def _lead(self) -> None:
        self.held.set()

    async def _follow(self) -> None:
        self.held.clear()


class _Lock(LeaseLock):  # type: ignore[misc]  # the client ships no types for it
    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        # The client's own create() sends `pretty=True`, which its generated API of 37.0.1 refuses: it wants text.
        body = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException:
            return False
        return True
