"""Informer cache of namespaces. It holds the annotations with which a cluster admin controls what Keyturn may do."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from keyturn_receiver.cluster.api import METADATA_ONLY, Api, Json, path
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.errors import KeyturnError, NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import jittered

POLL_INTERVAL = 30.0  # in seconds; jitter shortens it
RETRY_INTERVAL = 1.0  # in seconds, used until every namespace has been read once; jitter shortens it

_ANNOTATIONS = (ALLOW_SECRETS, ROLLOUT)

_log = logging.getLogger(__name__)


class NamespaceCache:
    """Informer cache. Keeps the annotations that concern Keyturn. A namespace without such annotations takes no memory.

    Either a watch or a ``NamespacePoller`` fills the cache.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[[str], None]] = []
        self._annotations: dict[str, Mapping[str, str]] = {}

    def add_handler(self, on_change: Callable[[str], None]) -> None:
        """Register ``on_change``, which is called with the name of a namespace whenever its annotations change."""
        self._handlers.append(on_change)

    def annotations(self, namespace: str) -> Mapping[str, str]:
        """Return those annotations of a namespace that concern Keyturn."""
        return self._annotations.get(namespace, {})

    def transform(self, obj: Json) -> tuple[str, Mapping[str, str]]:
        """Reduce a namespace to its name and to the annotations that concern Keyturn."""
        annotations = obj["metadata"].get("annotations") or {}
        return obj["metadata"]["name"], {name: annotations[name] for name in _ANNOTATIONS if name in annotations}

    def replace(self, items: Sequence[tuple[str, Mapping[str, str]]], namespace: str | None = None) -> None:
        for name in self._annotations.keys() - {name for name, _ in items}:
            self._set(name, {})
        for item in items:
            self.update(item)

    def update(self, item: tuple[str, Mapping[str, str]]) -> None:
        self._set(*item)

    def delete(self, obj: Json) -> None:
        self._set(obj["metadata"]["name"], {})

    def _set(self, name: str, annotations: Mapping[str, str]) -> None:
        if annotations == self._annotations.get(name, {}):
            return
        self._annotations.pop(name, None)
        if annotations:
            self._annotations[name] = annotations
        for on_change in self._handlers:
            on_change(name)


class NamespacePoller:
    """Poller that fills a ``NamespaceCache`` when only some namespaces are served.

    A Role can grant ``get`` on its own namespace, but not ``watch``. ``synced`` is set once every namespace has been
    read.
    """

    def __init__(self, api: Api, names: tuple[str, ...], cache: NamespaceCache, ping: Ping = no_ping) -> None:
        self._api = api
        self._names = names
        self._cache = cache
        self._ping = ping
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Read the namespaces until cancelled. A read that fails leaves the cache unchanged."""
        while True:
            self._ping()
            results = [await self._refresh(name) for name in self._names]
            if all(results):
                self.synced.set()
            await asyncio.sleep(jittered(POLL_INTERVAL if self.synced.is_set() else RETRY_INTERVAL))

    async def _refresh(self, name: str) -> bool:
        try:
            obj = await self._api.request("GET", path("v1", "namespaces", None, name), accept=METADATA_ONLY)
            self._cache.update(self._cache.transform(obj))
        except NotFound:
            self._cache.delete({"metadata": {"name": name}})  # a namespace that does not exist yet allows nothing
        except KeyturnError as error:
            _log.warning("namespace %s: %s", name, error)
            return False
        return True
