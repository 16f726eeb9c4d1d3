"""Event recorder. Writes Kubernetes Events about bound Secrets, which `kubectl events --for secret/db` shows.

Events are written in the background, so a reconcile neither waits for an Event nor fails because of one. An Event that
repeats a recent one is dropped. The rate of writes is limited, so that Events do not burden the API server.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.printable import printable
from keyturn_receiver.errors import Conflict, KeyturnError
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.token_bucket import TokenBucket
from keyturn_receiver.telemetry.metrics import Metrics

MAX_MESSAGE = 1024  # characters, https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
DEDUP_WINDOW = 300.0  # seconds during which a repeated Event (same Secret, reason and message) is dropped
RATE = 5.0  # Events per second
BURST = 25  # Events that may be written at once after a pause
QUEUE_SIZE = 1000  # Events that may wait to be written; if there are more, the oldest is dropped
RECENT_EVENTS = 10_000  # how many Events are remembered for DEDUP_WINDOW

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Event:
    target: Target
    uid: str
    warning: bool
    reason: str
    message: str
    at: datetime

    @property
    def name(self) -> str:
        # The name contains a digest of the content. So if two replicas report the same thing, they write the same
        # Event.
        content = f"{self.uid}/{self.reason}/{self.message}"
        return f"{self.target.name[:200]}.{hashlib.sha256(content.encode()).hexdigest()[:16]}"


class EventRecorder:
    """Event recorder. Queues Events about Secrets and writes them.

    ``wall`` returns the time in UTC, and ``now`` returns monotonic seconds.
    """

    def __init__(
        self, api: Api, metrics: Metrics, wall: Callable[[], datetime], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._wall = wall
        self._now = now
        # The time at which each Event was last queued, by the Event's name.
        self._recent: BoundedMap[str, float] = BoundedMap(RECENT_EVENTS)
        self._queue: OrderedDict[str, _Event] = OrderedDict()
        self._not_empty = asyncio.Event()

    def event(self, target: Target, uid: str, warning: bool, reason: str, message: str) -> None:
        """Queue an Event about a Secret, unless the same one was queued less than DEDUP_WINDOW ago."""
        event = _Event(target, uid, warning, reason, printable(message)[:MAX_MESSAGE], self._wall())
        name = event.name
        queued_at = self._recent.get(name)
        if queued_at is not None and self._now() - queued_at < DEDUP_WINDOW:
            return
        self._recent.put(name, self._now())
        self._queue[name] = event
        if len(self._queue) > QUEUE_SIZE:
            self._queue.popitem(last=False)
            self._metrics.events.labels("dropped").inc()
        self._not_empty.set()

    async def run(self) -> None:
        """Write queued Events until cancelled: RATE per second, and up to BURST at once after a pause."""
        bucket = TokenBucket(RATE, BURST, self._now)
        while True:
            await self._not_empty.wait()
            if delay := bucket.take():
                await asyncio.sleep(delay)
            else:
                await self._write_next()

    async def flush(self, seconds: float) -> None:
        """Write up to BURST queued Events within ``seconds``. The remaining Events are lost when the process ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(min(BURST, len(self._queue))):
                    await self._write_next()
        if self._queue:
            _log.info("dropped %d Events", len(self._queue))

    async def _write_next(self) -> None:
        name, event = self._queue.popitem(last=False)
        if not self._queue:
            self._not_empty.clear()
        try:
            await self._write(name, event)
            self._metrics.events.labels("written").inc()
        except KeyturnError as error:
            self._metrics.events.labels("failed").inc()
            _log.warning("Event on %s could not be recorded: %s", event.target, error)

    async def _write(self, name: str, event: _Event) -> None:
        at = event.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = event.target.namespace
        body: Json = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Secret",
                "namespace": namespace,
                "name": event.target.name,
                "uid": event.uid,
            },
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "message": event.message,
            "source": {"component": "keyturn"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        try:
            await self._api.request("POST", path("v1", "events", namespace), body=body)
        except Conflict:
            # The Event exists already. Either another replica has written it, or this one wrote it more than
            # DEDUP_WINDOW ago.
            patch: Json = {"lastTimestamp": at}
            await self._api.request(
                "PATCH", path("v1", "events", namespace, name), body=patch, content_type=MERGE_PATCH
            )
