"""A reflector keeps a picture of one kind of object: list once, then follow the watch, and start over when it breaks.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from keyturn_receiver.cluster.api import METADATA_LIST, METADATA_ONLY, Api, Json, reason_of
from keyturn_receiver.errors import ClusterUnavailable, Expired, KeyturnError
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import Backoff, jittered

BASE_DELAY = 0.5  # seconds between two tries, doubling
MAX_DELAY = 30.0
SHORT = 0.5  # seconds that a watch lasts at least

Kept = TypeVar("Kept")

_log = logging.getLogger(__name__)


class ObjectCache(Protocol[Kept]):
    """What is kept of the objects; each call is synchronous, so that a reader never sees half a change."""

    def read(self, obj: Json) -> Kept:
        """Give what is kept of one object: of a list page by page, so that it never stands in memory whole."""

    def replace(self, everything: Sequence[Kept], namespace: str | None) -> None:
        """Take a full list, of one namespace or of all: what is not in it is gone."""

    def put(self, kept: Kept) -> None:
        """Take one object, new or changed."""

    def remove(self, obj: Json) -> None:
        """Drop one object."""


@dataclass(frozen=True, slots=True)
class ListWatch:
    """What a reflector asks for: ``page`` objects at a time, whole or as ``metadata`` alone."""

    path: str
    namespace: str | None = None
    labels: str = ""
    metadata: bool = False
    page: int = 100

    @property
    def query(self) -> dict[str, str]:
        """The part of the query that lists and watches share."""
        return {"labelSelector": self.labels} if self.labels else {}

    def accept(self, listing: bool) -> str:
        """The media type to ask for."""
        return "application/json" if not self.metadata else METADATA_LIST if listing else METADATA_ONLY


@dataclass(frozen=True, slots=True)
class WatchTimeouts:
    """How long, in seconds, one watch lasts at most, until everything is listed anew, and between two tries.

    The server ends a watch after ``watch`` seconds, so that one of a quarter longer can only mean that the connection
    is dead. Bookmarks are no sign of life to rely on: a quiet resource may go without them for minutes.
    """

    watch: float = 60.0
    resync: float = 3600.0
    max_delay: float = MAX_DELAY

    @property
    def longest(self) -> float:
        """Seconds after which a watch is given up."""
        return self.watch * 1.25


class Reflector(Generic[Kept]):
    """Fills ``picture`` with what ``view`` shows; ``synced`` is set once the first list is in.

    ``beat`` is called at each sign that it goes on: a list, an event, a failure that is tried again.
    """

    def __init__(
        self,
        api: Api,
        view: ListWatch,
        picture: ObjectCache[Kept],
        patience: WatchTimeouts = WatchTimeouts(),
        beat: Ping = no_ping,
    ) -> None:
        self._api = api
        self._view = view
        self._picture = picture
        self._patience = patience
        self._backoff = Backoff(BASE_DELAY, patience.max_delay)
        self._beat = beat
        self._version = ""  # where to go on from; empty: list first
        self._listed = 0.0
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever; every failure is logged and tried again, from where it stopped or from a new list."""
        failures = 0
        while True:
            self._beat()
            try:
                if not self._version:
                    self._version = await self._list()
                    self._listed = time.monotonic()
                    self.synced.set()
                begun = time.monotonic()
                await self._follow()
                failures = 0
                if time.monotonic() - self._listed > self._patience.resync:
                    self._version = ""  # should a watch ever have kept something to itself
                if time.monotonic() - begun < SHORT:
                    await asyncio.sleep(SHORT)  # whoever ends it at once would be asked again at once
            except KeyturnError as error:
                if isinstance(error, Expired):
                    self._version = ""
                _log.warning("watch of %s broke: %s", self._view.path, error)
                failures += 1
                await self._back_off(failures)
            except Exception:
                # What is not as the API has it, or breaks whoever looks at it, is no reason to look at nothing else.
                self._version = ""
                _log.exception("watch of %s broke", self._view.path)
                failures += 1
                await self._back_off(failures)

    async def _back_off(self, failures: int) -> None:
        delay = self._backoff.delay(failures)
        self._beat(delay)
        await asyncio.sleep(delay)

    async def _list(self) -> str:
        everything: list[Kept] = []
        query = {**self._view.query, "limit": str(self._view.page)}
        while True:
            page = await self._api.request("GET", self._view.path, query, accept=self._view.accept(listing=True))
            everything.extend(self._picture.read(item) for item in page.get("items") or [])
            metadata = page["metadata"]
            if not metadata.get("continue"):
                self._picture.replace(everything, self._view.namespace)
                return str(metadata["resourceVersion"])
            query["continue"] = metadata["continue"]
            self._beat()

    async def _follow(self) -> None:
        seconds = jittered(self._patience.watch, 0.25)  # spread the replicas' reconnects
        query = {
            **self._view.query,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        accept = self._view.accept(listing=False)
        self._beat(self._patience.longest)  # there may be nothing to tell
        async for event in self._api.watch(self._view.path, query, accept, self._patience.longest):
            self._beat(self._patience.longest)
            obj = event["object"]
            kind = event["type"]
            if kind == "ERROR":
                if obj.get("code") == 410:
                    raise Expired(f"watch of {self._view.path}")
                raise ClusterUnavailable(f"the API server ended it with {reason_of(obj)}")
            if kind == "DELETED":
                self._picture.remove(obj)
            elif kind != "BOOKMARK":
                self._picture.put(self._picture.read(obj))
            # Only now: whatever breaks, the next watch goes on from the last event that is in the picture.
            self._version = str(obj["metadata"]["resourceVersion"])
