"""Informer cache of namespaces. It holds the annotations with which a cluster admin controls what Keyturn may do.

If a namespace is deleted and created again with the same name, the annotations of the old namespace do not apply to
Secrets in the new namespace. The cache may notice the new namespace late. For example, it does so after up to 75
seconds, by default, if the connection of the watch is dead. So ``NamespaceReader`` reads the namespace before the first
use of each Secret in it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from keyturn_receiver.cluster.api import METADATA_ONLY, Api, Json, path
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.core.rollout_pace import PACE, pace_faults
from keyturn_receiver.core.rollout_switch import ROLLOUT, switch_faults
from keyturn_receiver.core.rollout_window import WINDOW, window_faults
from keyturn_receiver.core.vocabulary import Place, object_faults
from keyturn_receiver.errors import KeyturnError, NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import jittered
from keyturn_receiver.resilience.single_flight import SingleFlight

POLL_INTERVAL = 30.0  # seconds between two reads of a namespace; jitter shortens it
RETRY_INTERVAL = 1.0  # seconds between two reads until every namespace has been read once; jitter shortens it

_ANNOTATIONS = (ALLOW_SECRETS, ROLLOUT, WINDOW, PACE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """A namespace, reduced to the annotations that concern Keyturn. ``faults`` say what is wrong with the namespace's
    annotations and labels."""

    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""
    faults: tuple[str, ...] = ()
    resource_version: str = ""

    @property
    def says_nothing(self) -> bool:
        """Whether the namespace has no annotation and no fault that concerns Keyturn."""
        return not self.annotations and not self.faults

    def is_older_than(self, other: "NamespaceView") -> bool:
        """Return whether ``other`` is known to be a later state than this one. ``other`` may be a state of another
        namespace with the same name.

        The resource versions of one kind of object are numbers that grow:
        https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
        """
        ours, theirs = self.resource_version, other.resource_version
        return ours.isdecimal() and theirs.isdecimal() and int(ours) < int(theirs)


@dataclass(slots=True)
class _Entry:
    """A cached namespace. ``read_at`` is the time, in monotonic seconds, at which the last read of the namespace
    began."""

    namespace: NamespaceView
    read_at: float = -math.inf


class NamespaceCache:
    """Informer cache of the annotations that concern Keyturn. A namespace without such annotations and without faults
    takes no memory, unless the namespace was read before the use of a Secret in it.

    A watch or a ``NamespacePoller`` fills the cache. A ``NamespaceReader`` corrects entries that are out of date.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[[str], None]] = []
        self._fault_handlers: list[Callable[[NamespaceView], None]] = []
        self._end_handlers: list[Callable[[str], None]] = []
        self._entries: dict[str, _Entry] = {}

    def add_handler(self, on_change: Callable[[str], None]) -> None:
        """Register ``on_change``, which is called with the name of a namespace whenever its annotations change."""
        self._handlers.append(on_change)

    def add_fault_handler(self, on_faults: Callable[[NamespaceView], None]) -> None:
        """Register ``on_faults``, which is called with a namespace whenever its ``faults`` change."""
        self._fault_handlers.append(on_faults)

    def add_end_handler(self, on_end: Callable[[str], None]) -> None:
        """Register ``on_end``, which is called with the name of a namespace when the namespace is gone, or when a new
        namespace has taken the name."""
        self._end_handlers.append(on_end)

    def annotations(self, namespace: str) -> Mapping[str, str]:
        """Return the annotations of a namespace that concern Keyturn. Leave out all other annotations."""
        entry = self._entries.get(namespace)
        return entry.namespace.annotations if entry else {}

    def read_at(self, namespace: str) -> float:
        """Return the time, in monotonic seconds, at which the last read of a namespace began. Return minus infinity if
        this namespace was never read. Reads of an earlier namespace of the same name do not count."""
        entry = self._entries.get(namespace)
        return entry.read_at if entry else -math.inf

    def transform(self, obj: Json) -> NamespaceView:
        """Reduce a namespace to its identity, its faults, and the annotations that concern Keyturn."""
        metadata = obj["metadata"]
        annotations = metadata.get("annotations") or {}
        return NamespaceView(
            metadata["name"],
            {name: annotations[name] for name in _ANNOTATIONS if name in annotations},
            str(metadata.get("uid", "")),
            (
                *switch_faults(annotations),
                *window_faults(annotations),
                *pace_faults(annotations),
                *object_faults(metadata, Place.NAMESPACE),
            ),
            str(metadata.get("resourceVersion", "")),
        )

    def replace(self, items: Sequence[NamespaceView], namespace: str | None = None) -> None:
        for name in self._entries.keys() - {item.name for item in items}:
            self._drop(name)
        for item in items:
            self.update(item)

    def update(self, item: NamespaceView) -> None:
        entry = self._entries.get(item.name)
        if entry and item.is_older_than(entry.namespace):
            return  # this state comes late from a watch, and a read has already returned a newer state
        before = entry.namespace if entry else NamespaceView(item.name)
        if entry and before.uid == item.uid:
            entry.namespace = item
        else:
            if entry:
                self._end(item.name)
            # This namespace is new here. Reads of an earlier namespace of the same name do not count.
            self._entries[item.name] = entry = _Entry(item)
        if item.says_nothing and entry.read_at == -math.inf:
            del self._entries[item.name]
        self._notify(before, item)

    def put_read(self, item: NamespaceView, read_at: float) -> None:
        """Store a namespace that was read. The read began at ``read_at``, in monotonic seconds."""
        self.update(item)
        entry = self._entries.setdefault(item.name, _Entry(item))
        if entry.namespace.uid == item.uid:
            entry.read_at = max(entry.read_at, read_at)

    def delete(self, obj: Json) -> None:
        metadata = obj["metadata"]
        entry, uid = self._entries.get(metadata["name"]), metadata.get("uid")
        if entry is None:
            self._end(metadata["name"])
        elif not (uid and entry.namespace.uid and entry.namespace.uid != uid):
            # Otherwise both UIDs are known and differ: an earlier namespace of this name was deleted, and the entry
            # stays.
            self._drop(metadata["name"])

    def _drop(self, name: str) -> None:
        self._end(name)
        self._notify(self._entries.pop(name).namespace, NamespaceView(name))

    def _end(self, name: str) -> None:
        for on_end in self._end_handlers:
            on_end(name)

    def _notify(self, before: NamespaceView, after: NamespaceView) -> None:
        if after.faults != before.faults:
            for on_faults in self._fault_handlers:
                on_faults(after)
        if after.annotations != before.annotations:
            for on_change in self._handlers:
                on_change(after.name)


class NamespaceReader:
    """Reader that makes sure that a cached namespace is not an earlier namespace of the same name.

    A Secret never moves from one namespace to another, and it is deleted with its namespace. So if a namespace is read
    after a Secret was first seen, it is the namespace of that Secret. The namespace is read again only for Secrets that
    are first seen after this read. In steady state, the reader makes no calls.
    """

    def __init__(self, api: Api, cache: NamespaceCache) -> None:
        self._api = api
        self._cache = cache
        self._reads: SingleFlight[str, None] = SingleFlight(ttl=0.0)  # the cache keeps the result

    async def confirm(self, name: str, since: float) -> None:
        """Make sure that the cache entry of the namespace ``name`` is not older than ``since`` (monotonic seconds). If
        it is older, read the namespace.

        Raises an error of the Kubernetes API client.
        """
        if self._cache.read_at(name) < since:
            await self._reads.get(name, since, lambda: self._read(name))

    async def _read(self, name: str) -> None:
        started = time.monotonic()
        try:
            obj = await self._api.request("GET", path("v1", "namespaces", None, name), accept=METADATA_ONLY)
        except NotFound:
            self._cache.delete({"metadata": {"name": name}})  # its Secrets are about to be deleted, too
            return
        self._cache.put_read(self._cache.transform(obj), started)


class NamespacePoller:
    """Poller that fills a ``NamespaceCache`` when only some namespaces are served.

    A Role can grant ``get`` on the namespace that it is in, but not ``watch``. ``synced`` is set when every namespace
    has been read at least once.
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
