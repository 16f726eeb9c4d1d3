"""Kubernetes Events on bound Secrets: what `kubectl events --for secret/db` tells a person.

They are written behind the work's back: no reconcile waits for one, and none fails with one. Alike ones are told once
in a while, and all together not faster than the API server should be bothered for words.
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
from keyturn_receiver.errors import Conflict, KeyturnError
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.resilience.token_bucket import TokenBucket
from keyturn_receiver.telemetry.metrics import Metrics

MAX_MESSAGE = 1024  # characters, https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
QUIET = 300.0  # seconds: the same words about the same Secret are not said twice within
PER_SECOND = 5.0
AT_ONCE = 25  # may be told beyond that after a quiet time
WAITING = 1000  # beyond these the oldest goes unsaid
REMEMBERED = 10_000

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
        # Made of the words: whoever says the same says it under the same name.
        words = f"{self.uid}/{self.reason}/{self.message}"
        return f"{self.target.name[:200]}.{hashlib.sha256(words.encode()).hexdigest()[:16]}"


class EventRecorder:
    """Says what happened to Secrets; ``wall`` gives the time in UTC, ``now`` monotonic seconds."""

    def __init__(
        self, api: Api, metrics: Metrics, wall: Callable[[], datetime], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._wall = wall
        self._now = now
        self._said: BoundedMap[str, float] = BoundedMap(REMEMBERED)
        self._waiting: OrderedDict[str, _Event] = OrderedDict()
        self._any = asyncio.Event()

    def tell(self, target: Target, uid: str, warning: bool, reason: str, message: str) -> None:
        """Say something about a Secret, soon."""
        event = _Event(target, uid, warning, reason, message[:MAX_MESSAGE], self._wall())
        name = event.name
        said_at = self._said.get(name)
        if said_at is not None and self._now() - said_at < QUIET:
            return
        self._said.put(name, self._now())
        self._waiting[name] = event
        if len(self._waiting) > WAITING:
            self._waiting.popitem(last=False)
            self._metrics.events.labels("unsaid").inc()
        self._any.set()

    async def run(self) -> None:
        """Write what is waiting, for ever, at a bearable pace."""
        bucket = TokenBucket(PER_SECOND, AT_ONCE, self._now)
        while True:
            await self._any.wait()
            if delay := bucket.take():
                await asyncio.sleep(delay)
            else:
                await self._write_next()

    async def flush(self, seconds: float) -> None:
        """Write some of what is still waiting, as far as it goes within ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(min(AT_ONCE, len(self._waiting))):
                    await self._write_next()
        if self._waiting:
            _log.info("%d Events go unsaid", len(self._waiting))

    async def _write_next(self) -> None:
        name, event = self._waiting.popitem(last=False)
        if not self._waiting:
            self._any.clear()
        try:
            await self._write(name, event)
            self._metrics.events.labels("said").inc()
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
            # Another replica, or this one a while ago, has said the same.
            patch: Json = {"lastTimestamp": at}
            await self._api.request(
                "PATCH", path("v1", "events", namespace, name), body=patch, content_type=MERGE_PATCH
            )
