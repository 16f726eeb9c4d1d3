"""A reflector keeps a picture of one kind of object: list once, then follow the watch, and start over when it breaks.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Protocol

from keyturn_receiver.cluster.api import Api, Json
from keyturn_receiver.errors import ClusterUnavailable, Expired, KeyturnError

PAGE = "500"
# The server ends a watch after at most 60 s, so that silence for longer can only mean that the connection is dead.
# Bookmarks are no sign of life to rely on: a quiet resource may go without them for minutes.
WATCH_SECONDS = (45, 60)
SILENCE = 75.0  # seconds
MAX_DELAY = 30.0  # seconds between two tries

_log = logging.getLogger(__name__)


class Picture(Protocol):
    """What is kept of the objects; each call is synchronous, so that a reader never sees half a change."""

    def replace(self, objects: list[Json]) -> None:
        """Take a full list: what is not in it is gone."""

    def put(self, obj: Json) -> None:
        """Take one object, new or changed."""

    def remove(self, obj: Json) -> None:
        """Drop one object."""

    def shrink(self, obj: Json) -> Json:
        """Cut a listed object down to what is kept, page by page, so that a long list never stands in memory whole."""


class Reflector:
    """Fills ``picture`` from ``path``; ``synced`` is set once the first list is in."""

    def __init__(
        self,
        api: Api,
        path: str,
        picture: Picture,
        query: Mapping[str, str],
        accept: Mapping[str, str],
        max_delay: float = MAX_DELAY,
    ) -> None:
        self._api = api
        self._path = path
        self._picture = picture
        self._query = dict(query)
        self._accept = accept
        self._max_delay = max_delay
        self._version = ""  # where to go on from; empty: list first
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever; every failure is logged and tried again, from where it stopped or from a new list."""
        delay = 0.0
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                    self.synced.set()
                await self._follow()
                delay = 0.0
            except KeyturnError as error:
                if isinstance(error, Expired):
                    self._version = ""
                delay = min(self._max_delay, max(0.5, delay * 2))
                _log.warning("watch of %s broke: %s", self._path, error)
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def _list(self) -> str:
        objects: list[Json] = []
        query = {**self._query, "limit": PAGE}
        while True:
            page = await self._api.request("GET", self._path, query, accept=self._accept["list"])
            objects.extend(self._picture.shrink(item) for item in page.get("items") or [])
            metadata = page["metadata"]
            if not metadata.get("continue"):
                self._picture.replace(objects)
                return str(metadata["resourceVersion"])
            query["continue"] = metadata["continue"]

    async def _follow(self) -> None:
        query = {
            **self._query,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311 - spread the replicas' reconnects
        }
        async for event in self._api.watch(self._path, query, self._accept["watch"], SILENCE):
            obj = event["object"]
            kind = event["type"]
            if kind == "ERROR":
                if obj.get("code") == 410:
                    raise Expired(f"watch of {self._path}")
                raise ClusterUnavailable(f"the API server ended it with {obj.get('reason')}")
            if kind == "DELETED":
                self._picture.remove(obj)
            elif kind != "BOOKMARK":
                self._picture.put(obj)
            # Only now: whatever breaks, the next watch goes on from the last event that is in the picture.
            self._version = str(obj["metadata"]["resourceVersion"])
