"""The Lease that one replica holds, to be the one that polls."""

import asyncio
import logging

from kubernetes.aio.client import ApiClient
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

DURATION = 15  # seconds, as client-go's defaults for all three
RENEW_DEADLINE = 10
RETRY_PERIOD = 2

_log = logging.getLogger(__name__)


class Lease:
    """Tells whether this replica leads; the election is the official client's."""

    def __init__(self, client: ApiClient, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self.held = asyncio.Event()

    async def run(self) -> None:
        """Stand for election for ever; ``held`` is set while this replica leads."""
        while True:
            lock = LeaseLock(self._name, self._namespace, self._identity, self._client)
            election = LeaderElection(Config(lock, DURATION, RENEW_DEADLINE, RETRY_PERIOD, self._lead, self._follow))
            try:
                await election.run()
            except Exception as error:  # the election lets transport errors out; nothing may end it for good
                _log.warning(
                    "election for Lease %s/%s broke off: %s", self._namespace, self._name, type(error).__name__
                )
            finally:
                self.held.clear()
            await asyncio.sleep(RETRY_PERIOD)

    async def _lead(self) -> None:
        self.held.set()

    async def _follow(self) -> None:
        self.held.clear()
