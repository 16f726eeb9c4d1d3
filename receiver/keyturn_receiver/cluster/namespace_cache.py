"""Informer cache of namespaces. It holds the annotations with which a cluster admin controls what Keyturn may do."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from keyturn_receiver.cluster.api import METADATA_ONLY, Api, Json, path
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.core.vocabulary import Place, object_faults
from keyturn_receiver.errors import KeyturnError, NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import jittered

POLL_INTERVAL = 30.0  # in seconds; jitter shortens it
RETRY_INTERVAL = 1.0  # in seconds, used until every namespace has been read once; jitter shortens it

_ANNOTATIONS = (ALLOW_SECRETS, ROLLOUT)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """A namespace, reduced to the annotations that concern Keyturn. ``faults`` say what is wrong with their names."""

    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""
    faults: tuple[str, ...] = ()


class NamespaceCache:
    """Informer cache. Keeps the annotations that concern Keyturn. A namespace without such annotations takes no memory.

    Either a watch or a ``NamespacePoller`` fills the cache.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[[str], None]] = []
        self._fault_handlers: list[Callable[[NamespaceView], None]] = []
        self._annotations: dict[str, Mapping[str, str]] = {}
        self._faults: dict[str, tuple[str, ...]] = {}

    def add_handler(self, on_change: Callable[[str], None]) -> None:
        """Register ``on_change``, which is called with the name of a namespace whenever its annotations change."""
        self._handlers.append(on_change)

    def add_fault_handler(self, on_faults: Callable[[NamespaceView], None]) -> None:
        """Register ``on_faults``, which is called with a namespace whenever its ``faults`` change."""
        self._fault_handlers.append(on_faults)

    def annotations(self, namespace: str) -> Mapping[str, str]:
        """Return those annotations of a namespace that concern Keyturn."""
        return self._annotations.get(namespace, {})

    def transform(self, obj: Json) -> NamespaceView:
        """Reduce a namespace to its name and to the annotations that concern Keyturn."""
        metadata = obj["metadata"]
        annotations = metadata.get("annotations") or {}
        return NamespaceView(
            metadata["name"],
            {name: annotations[name] for name in _ANNOTATIONS if name in annotations},
            str(metadata.get("uid", "")),
            object_faults(metadata, Place.NAMESPACE),
        )

    def replace(self, items: Sequence[NamespaceView], namespace: str | None = None) -> None:
        for name in (self._annotations.keys() | self._faults.keys()) - {item.name for item in items}:
            self.update(NamespaceView(name))
        for item in items:
            self.update(item)

    def update(self, item: NamespaceView) -> None:
        if item.faults != self._faults.get(item.name, ()):
            self._faults.pop(item.name, None)
            if item.faults:
                self._faults[item.name] = item.faults
            for on_faults in self._fault_handlers:
                on_faults(item)
        if item.annotations == self._annotations.get(item.name, {}):
            return
        self._annotations.pop(item.name, None)
        if item.annotations:
            self._annotations[item.name] = item.annotations
        for on_change in self._handlers:
            on_change(item.name)

    def delete(self, obj: Json) -> None:
        self.update(NamespaceView(obj["metadata"]["name"]))


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
