"""Informer of a kind that the API server may not have. The kind's custom resource definition (CRD) may be absent, and
may be created or deleted later.

To find out whether the kind exists, the informer lists the objects of the kind. If the kind does not exist, the API
server answers 404. So the receiver needs no right to read CRDs.
"""

import asyncio
import logging
from typing import Any

from keyturn_receiver.cluster.reflector import ObjectCache, Reflector
from keyturn_receiver.errors import NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import jittered

_log = logging.getLogger(__name__)


class OptionalInformer:
    """Informer that runs a reflector while the kind exists. While the kind does not exist, the cache is empty and
    ``synced`` is set. The informer then looks for the kind every ``interval`` seconds, or a little sooner.

    The reflector has to be optional (``is_optional``). ``title`` names the kind in the log. One line is logged each
    time the kind becomes absent.
    """

    def __init__(
        self,
        reflector: Reflector[Any],
        cache: ObjectCache[Any],
        title: str,
        interval: float,
        namespace: str | None = None,
        ping: Ping = no_ping,
    ) -> None:
        self._reflector = reflector
        self._cache = cache
        self._title = title
        self._interval = interval
        self._namespace = namespace
        self._ping = ping
        self.synced = reflector.synced

    async def run(self) -> None:
        """Run until cancelled."""
        told = -1  # the value of ``lists`` when the absence of the kind was last logged; -1 if it never was
        while True:
            try:
                await self._reflector.run()
            except NotFound:
                self._cache.replace([], self._namespace)
                self.synced.set()
            if told != self._reflector.lists:
                told = self._reflector.lists
                _log.info("the cluster does not define %s: looking again every %g s", self._title, self._interval)
            pause = jittered(self._interval, 0.1)  # random, so that the replicas do not ask at the same time
            self._ping(pause)
            await asyncio.sleep(pause)
