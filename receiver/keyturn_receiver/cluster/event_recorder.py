"""Event recorder. It writes Kubernetes Events about bound and watched Secrets and the objects around them. `kubectl
events --for secret/db` shows the Events of a Secret.

Events are written in the background. So a reconcile does not wait for an Event, and does not fail because of an Event.
An Event that repeats a recent Event is dropped. The rate of writes is limited per namespace and in total, so that
Events do not burden the API server. Namespaces take turns. If a namespace has too many Events, only Events of this
namespace are lost.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from keyturn_receiver.cluster.api import MERGE_PATCH, Api, Json, path
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.workload_kinds import GROUP_VERSIONS
from keyturn_receiver.errors import Conflict, KeyturnError, NotFound
from keyturn_receiver.resilience.fair_map import FairMap
from keyturn_receiver.resilience.token_bucket import TokenBucket, TokenBuckets
from keyturn_receiver.telemetry.metrics import Metrics

MAX_MESSAGE = 1024  # characters, https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
DEDUP_WINDOW = 300.0  # seconds during which an Event with the same name (``_Event.name``) is dropped
NAMESPACE_RATE = 4.0  # Events of one namespace per second
NAMESPACE_BURST = 25  # Events of one namespace that may be written without a delay after a pause
TOTAL_RATE = 12.0  # Events of all namespaces per second
TOTAL_BURST = 100
MAX_WRITES = 8  # Events that are written at the same time, at most one per namespace
# Events that may wait to be written. If there are more, the namespace with the most waiting Events loses its oldest
# one.
QUEUE_SIZE = 1000
RECENT_EVENTS = 10_000  # the number of Events that are remembered as recent

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Event:
    kind: str
    target: Target
    uid: str
    warning: bool
    reason: str
    message: str
    at: datetime
    once_for: str = ""
    on_created: Callable[[], None] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        # The name contains a digest of the content. So two replicas that report the same fact write the same Event.
        content = f"{self.uid}/{self.reason}/{self.once_for or self.message}"
        return f"{self.target.name[:200]}.{hashlib.sha256(content.encode()).hexdigest()[:16]}"


class EventRecorder:
    """Event recorder. It queues Events about Secrets and other objects, and writes them.

    ``wall`` returns the time in UTC, and ``now`` returns monotonic seconds.
    """

    def __init__(
        self, api: Api, metrics: Metrics, wall: Callable[[], datetime], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._wall = wall
        self._now = now
        # Both maps are grouped by namespace. Their keys are names of Events. A value in ``_recent`` is the time at
        # which the Event was last queued.
        self._recent: FairMap[str, str, float] = FairMap(RECENT_EVENTS)
        self._queue: FairMap[str, str, _Event] = FairMap(QUEUE_SIZE)
        self._total = TokenBucket(TOTAL_RATE, TOTAL_BURST, now)
        self._buckets = TokenBuckets(NAMESPACE_RATE, NAMESPACE_BURST, now)
        self._writing: dict[str, asyncio.Task[None]] = {}  # by namespace
        self._changed = asyncio.Event()  # set when an Event is queued, and when a write ends

    def event(
        self,
        target: Target,
        uid: str,
        warning: bool,
        reason: str,
        message: str,
        kind: str = "Secret",
        once_for: str = "",
        on_created: Callable[[], None] | None = None,
    ) -> None:
        """Queue an Event about an object, unless the same Event was queued less than DEDUP_WINDOW seconds ago.

        ``kind`` is the kind of the object, and ``target`` has its namespace and name. The target of a Namespace has the
        Namespace's name twice.

        If a fact is to be reported only once, ``once_for`` identifies the fact. Nothing is then written if an Event
        with the same object, reason and ``once_for`` already exists, whichever replica wrote it and whatever its
        message is.

        ``on_created`` is called if this process has created the Event. It is not called if the Event already existed,
        or if the write failed.
        """
        text = printable(message)[:MAX_MESSAGE]
        event = _Event(kind, target, uid, warning, reason, text, self._wall(), once_for, on_created)
        name, namespace = event.name, target.namespace
        queued_at = self._recent.get(namespace, name)
        if queued_at is not None and self._now() - queued_at < DEDUP_WINDOW:
            return
        self._recent.put(namespace, name, self._now())
        while self._now() - self._recent.oldest(namespace)[1] >= DEDUP_WINDOW:
            self._recent.pop_oldest(namespace)
        if self._queue.put(namespace, name, event):
            self._metrics.events.labels("dropped").inc()
        self._changed.set()

    async def run(self) -> None:
        """Write queued Events until cancelled."""
        try:
            while True:
                self._changed.clear()
                delay = self._write_what_may_be_written()
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._changed.wait()
        finally:
            for task in self._writing.values():
                task.cancel()

    async def flush(self, seconds: float) -> None:
        """Write up to NAMESPACE_BURST queued Events of each namespace, and up to TOTAL_BURST in all, within
        ``seconds``. The remaining Events are lost when the process ends."""
        left = {namespace: NAMESPACE_BURST for namespace in self._queue}
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(TOTAL_BURST):
                    namespace = next((each for each in self._queue if left.get(each)), None)
                    if namespace is None:
                        break
                    left[namespace] -= 1
                    await self._write(self._pop(namespace))
        if self._queue:
            _log.info("dropped %d Events", len(self._queue))

    def _write_what_may_be_written(self) -> float | None:
        """Start every write that may start now. Return the seconds until the next write may start. Return None if no
        write can start before a running write ends or another Event is queued."""
        while len(self._writing) < MAX_WRITES:
            delays = {each: self._buckets.of(each).delay() for each in self._queue if each not in self._writing}
            if not delays:
                return None
            namespace = next((each for each, delay in delays.items() if not delay), None)
            if namespace is None:
                return min(delays.values())
            if delay := self._total.take():
                return delay
            self._buckets.of(namespace).take()
            task = asyncio.create_task(self._write(self._pop(namespace)))
            self._writing[namespace] = task
            task.add_done_callback(partial(self._written, namespace))
        return None

    def _written(self, namespace: str, task: "asyncio.Task[None]") -> None:
        del self._writing[namespace]
        self._changed.set()

    def _pop(self, namespace: str) -> _Event:
        """Remove the next Event of a namespace from the queue, and return it. The turn passes to the next namespace."""
        _, event = self._queue.pop_oldest(namespace)
        self._queue.move_to_end(namespace)
        return event

    async def _write(self, event: _Event) -> None:
        try:
            await self._send(event)
            self._metrics.events.labels("written").inc()
        except NotFound:  # the namespace is gone or is being deleted, and so is the object of the Event
            self._metrics.events.labels("dropped").inc()
        except KeyturnError as error:
            self._metrics.events.labels("failed").inc()
            _log.warning("Event on %s could not be recorded: %s", event.target, error)
        except Exception:
            # A bug in one write must not stop the writes of other Events.
            self._metrics.events.labels("failed").inc()
            _log.exception("Event on %s could not be recorded", event.target)

    async def _send(self, event: _Event) -> None:
        name = event.name
        at = event.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = event.target.namespace
        body: Json = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": GROUP_VERSIONS.get(event.kind, "v1"),
                "kind": event.kind,
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
            if event.on_created:
                event.on_created()
        except Conflict:
            if event.once_for:
                return
            # The Event exists already. Another replica has written it, or this replica has written it and no longer
            # remembers that.
            patch: Json = {"lastTimestamp": at}
            await self._api.request(
                "PATCH", path("v1", "events", namespace, name), body=patch, content_type=MERGE_PATCH
            )
