"""Reflector. It mirrors one kind of object into a cache: it lists the objects once, and then watches them. After a
failure it resumes the watch, or lists the objects again.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec.json import Decoder

from keyturn_receiver.cluster.api import METADATA_LIST, METADATA_ONLY, Api, Json, ReplyTooLarge, reason_of
from keyturn_receiver.cluster.wanted_fields import OBJECT, PAGE
from keyturn_receiver.errors import ClusterUnavailable, Expired, KeyturnError, NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import Backoff, jittered

BASE_DELAY = 0.5  # seconds before the first retry; each consecutive failure doubles the delay
MAX_DELAY = 30.0
MAX_PAGE = 2 * 1024 * 1024  # bytes; a parsed page with many `{}` takes up to thirty times as much memory
MAX_SILENT_WATCHES = 2  # number of watches in a row; if all of them passed their deadline, the objects are listed again
MAX_BLOCKED = 0.005  # seconds; the reflector lets other tasks run after it has parsed objects for this long
MIN_WATCH = 0.5  # seconds; if a watch was shorter than this, the reflector pauses for this long before the next watch

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ObjectCache(Protocol[T]):
    """Informer cache that a reflector fills. All methods are synchronous, so no reader sees half of a change."""

    def transform(self, obj: Json) -> T:
        """Reduce an object to the fields that the cache keeps. To save memory, the objects of a list are reduced page
        by page, as soon as each page arrives."""

    def replace(self, items: Sequence[T], namespace: str | None) -> None:
        """Store a full list of one namespace, or of all namespaces if ``namespace`` is None. Delete the cached objects
        that are not in the list."""

    def update(self, item: T) -> None:
        """Store one object that is new or has changed."""

    def delete(self, obj: Json) -> None:
        """Delete one object."""


@dataclass(frozen=True, slots=True)
class ListWatch:
    """The objects that a reflector lists and watches.

    A page of a list has at most ``page_size`` objects, and fewer if the objects are large. If ``metadata_only`` is
    true, only the metadata of the objects is requested. ``decoder`` determines which parts of each object are kept.
    """

    path: str
    namespace: str | None = None
    labels: str = ""
    metadata_only: bool = False
    page_size: int = 100
    decoder: Decoder[Any] = OBJECT

    @property
    def query(self) -> dict[str, str]:
        """The query parameters that lists and watches share."""
        return {"labelSelector": self.labels} if self.labels else {}

    def accept(self, listing: bool) -> str:
        """Return the media type to request: for a list if ``listing`` is true, and otherwise for a watch."""
        return "application/json" if not self.metadata_only else METADATA_LIST if listing else METADATA_ONLY


@dataclass(frozen=True, slots=True)
class WatchTimeouts:
    """Times in seconds. ``watch`` is the longest duration of a watch, ``resync`` is the time between two full lists,
    and ``max_delay`` is the longest delay before a retry.

    The server ends a watch after ``watch`` seconds. So if a watch lasts a quarter longer than that, its connection
    counts as dead. Bookmarks do not prove that a connection is alive, because a quiet resource may get no bookmark for
    minutes.
    """

    watch: float = 60.0
    resync: float = 3600.0
    max_delay: float = MAX_DELAY

    @property
    def deadline(self) -> float:
        """The seconds after which a watch is abandoned."""
        return self.watch * 1.25


class Reflector(Generic[T]):
    """Reflector. It fills ``cache`` with the objects of ``list_watch``. ``synced`` is set after the first list.

    If the event ``after`` is given, the first list waits until this event is set. ``ping`` is called at every sign of
    progress: a page of a list, an event of the watch, or a failure that will be retried. ``is_optional`` is true if the
    API server may not have the kind. If the API server does not have an optional kind, ``run`` raises NotFound.
    """

    def __init__(
        self,
        api: Api,
        list_watch: ListWatch,
        cache: ObjectCache[T],
        timeouts: WatchTimeouts = WatchTimeouts(),
        ping: Ping = no_ping,
        after: asyncio.Event | None = None,
        is_optional: bool = False,
    ) -> None:
        self._api = api
        self._list_watch = list_watch
        self._cache = cache
        self._timeouts = timeouts
        self._backoff = Backoff(BASE_DELAY, timeouts.max_delay)
        self._ping = ping
        # The next watch resumes after this version. If it is empty, the objects are listed first.
        self._resource_version = ""
        self._listed_at = 0.0
        self._lists_again = False
        self._after = after
        self._is_optional = is_optional
        self.lists = 0  # the number of complete lists so far
        self.synced = asyncio.Event()

    def list_again(self) -> None:
        """List the objects again once a watch has ended without an error, even if no event was missed. All objects are
        then transformed again."""
        self._lists_again = True

    async def run(self) -> None:
        """Run until cancelled. Every failure is logged and retried, either by resuming the watch or by a new list.

        Raises NotFound if the kind is optional, and the API server does not have the kind.

        A proxy may hold back the data of a watch. The watch then shows no events until its deadline. In this case the
        reflector lists the objects again after every MAX_SILENT_WATCHES watches, so the cache is at most a few
        deadlines out of date.
        """
        failures = silent = 0
        if self._after:
            self._ping(math.inf)  # a reflector that waits for ``after`` is not stuck
            await self._after.wait()
        while True:
            self._ping()
            started = time.monotonic()
            try:
                if not self._resource_version:
                    self._lists_again = False
                    self._resource_version = await self._list()
                    self._listed_at = time.monotonic()
                    self.lists += 1
                    self.synced.set()
                started = time.monotonic()
                await self._watch()
                failures = silent = 0
                # A watch may have missed an event, so list again from time to time.
                if self._lists_again or time.monotonic() - self._listed_at > self._timeouts.resync:
                    self._resource_version = ""
                if time.monotonic() - started < MIN_WATCH:
                    await asyncio.sleep(MIN_WATCH)  # prevents a busy loop if the server ends each watch immediately
            except KeyturnError as error:
                if self._is_optional and isinstance(error, NotFound):
                    self._resource_version = ""
                    raise
                silent = silent + 1 if time.monotonic() - started >= self._timeouts.deadline else 0
                if isinstance(error, Expired) or silent >= MAX_SILENT_WATCHES:
                    self._resource_version, silent = "", 0
                _log.warning("watch of %s failed: %s", self._list_watch.path, error)
                failures += 1
                await self._back_off(failures)
            except Exception:
                # Neither a malformed object nor a bug in a cache's handler may stop the watch. List again instead.
                self._resource_version = ""
                _log.exception("watch of %s failed unexpectedly", self._list_watch.path)
                failures += 1
                await self._back_off(failures)

    async def _back_off(self, failures: int) -> None:
        delay = self._backoff.delay(failures)
        self._ping(delay)
        await asyncio.sleep(delay)

    async def _list(self) -> str:
        items: list[T] = []
        query, largest = dict(self._list_watch.query), self._list_watch.page_size
        limit = largest
        accept = self._list_watch.accept(listing=True)
        while True:
            query["limit"] = str(limit)
            max_bytes = MAX_PAGE if limit > 1 else math.inf
            try:
                page = await self._api.request(
                    "GET", self._list_watch.path, query, accept=accept, max_bytes=max_bytes, decoder=PAGE
                )
            except ReplyTooLarge:  # the objects are large, so ask for fewer of them at once
                limit = max(1, limit // 4)
                self._ping()
                continue
            except ClusterUnavailable as error:
                if limit == 1:
                    raise
                # The API server may take too long for a page of this size. If the list started again, it would request
                # the same page, and fail again.
                _log.info("page of %s failed, asking for fewer objects: %s", self._list_watch.path, error)
                limit = max(1, limit // 4)
                largest = 2 * limit
                await self._back_off(1)
                continue
            limit = min(largest, 2 * limit)
            await self._transform(page.get("items") or [], items)
            metadata = page["metadata"]
            if not metadata.get("continue"):
                self._cache.replace(items, self._list_watch.namespace)
                return str(metadata["resourceVersion"])
            query["continue"] = metadata["continue"]
            self._ping()

    async def _transform(self, page: Sequence[bytes], items: list[T]) -> None:
        """Parse the objects of a page, and reduce each object to the fields that the cache keeps. The objects are
        parsed one by one, so that only one parsed object is in memory."""
        begun = time.monotonic()
        for each in page:
            items.append(self._cache.transform(self._list_watch.decoder.decode(each)))
            if time.monotonic() - begun > MAX_BLOCKED:
                await asyncio.sleep(0)
                begun = time.monotonic()

    async def _watch(self) -> None:
        seconds = jittered(self._timeouts.watch, 0.25)  # keeps the replicas from reconnecting at the same time
        query = {
            **self._list_watch.query,
            "resourceVersion": self._resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        accept = self._list_watch.accept(listing=False)
        deadline = self._timeouts.deadline
        self._ping(deadline)  # a watch on a quiet resource may have no event until then
        async for event in self._api.watch(self._list_watch.path, query, accept, deadline, self._list_watch.decoder):
            self._ping(deadline)
            obj = event["object"]
            event_type = event["type"]
            if event_type == "ERROR":
                if obj.get("code") == 410:
                    raise Expired(f"watch of {self._list_watch.path}")
                raise ClusterUnavailable(f"the API server ended it with {reason_of(obj)}")
            if event_type == "DELETED":
                self._cache.delete(obj)
            elif event_type != "BOOKMARK":
                self._cache.update(self._cache.transform(obj))
            # The version is stored last. So after a failure, the next watch resumes after the last event that reached
            # the cache.
            self._resource_version = str(obj["metadata"]["resourceVersion"])
