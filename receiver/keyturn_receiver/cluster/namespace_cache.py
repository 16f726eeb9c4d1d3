"""The picture of the namespaces: what a cluster admin allows in each."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from keyturn_receiver.cluster.api import METADATA_ONLY, Api, Json, path
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.errors import KeyturnError, NotFound
from keyturn_receiver.liveness import Ping, no_ping
from keyturn_receiver.resilience.backoff import jittered

LOOK_SECONDS = 30.0

_NAMESPACE = (ALLOW_SECRETS, ROLLOUT)

_log = logging.getLogger(__name__)


class NamespaceCache:
    """What namespaces say to Keyturn, by annotation; a namespace that says nothing is not kept. Fed by a watch."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._annotations: dict[str, Mapping[str, str]] = {}

    def annotations(self, namespace: str) -> Mapping[str, str]:
        """The annotations of one namespace that concern Keyturn."""
        return self._annotations.get(namespace, {})

    def read(self, obj: Json) -> tuple[str, Mapping[str, str]]:
        """Give a namespace's name, and those of its annotations that concern Keyturn."""
        annotations = obj["metadata"].get("annotations") or {}
        return obj["metadata"]["name"], {name: annotations[name] for name in _NAMESPACE if name in annotations}

    def replace(self, everything: Sequence[tuple[str, Mapping[str, str]]], namespace: str | None = None) -> None:
        for name in self._annotations.keys() - {name for name, _ in everything}:
            self._set(name, {})
        for each in everything:
            self.put(each)

    def put(self, kept: tuple[str, Mapping[str, str]]) -> None:
        self._set(*kept)

    def remove(self, obj: Json) -> None:
        self._set(obj["metadata"]["name"], {})

    def _set(self, name: str, annotations: Mapping[str, str]) -> None:
        if annotations == self._annotations.get(name, {}):
            return
        self._annotations.pop(name, None)
        if annotations:
            self._annotations[name] = annotations
        self._changed(name)


class NamespacePoller:
    """Feeds the picture where only some namespaces are served: a Role may get its own namespace, and not watch it."""

    def __init__(self, api: Api, names: tuple[str, ...], picture: NamespaceCache, beat: Ping = no_ping) -> None:
        self._api = api
        self._names = names
        self._picture = picture
        self._beat = beat
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Look for ever, every half minute or so; a look that fails leaves what was seen before."""
        while True:
            self._beat()
            looks = [await self._look(name) for name in self._names]
            if all(looks):
                self.synced.set()
            await asyncio.sleep(jittered(LOOK_SECONDS if self.synced.is_set() else 1.0))

    async def _look(self, name: str) -> bool:
        try:
            obj = await self._api.request("GET", path("v1", "namespaces", None, name), accept=METADATA_ONLY)
            self._picture.put(self._picture.read(obj))
        except NotFound:
            self._picture.remove({"metadata": {"name": name}})  # not there yet: it allows nothing
        except KeyturnError as error:
            _log.warning("namespace %s: %s", name, error)
            return False
        return True
