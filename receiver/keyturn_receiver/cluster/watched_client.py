"""Client for single watched Secrets. Others fill these Secrets, and Keyturn only restarts their consumers. The client
reads a Secret, and writes one annotation on it."""

from keyturn_receiver.cluster.api import APPLY, METADATA_ONLY, Api, Json, path
from keyturn_receiver.cluster.watched_cache import WatchedCache, WatchedSecret
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.field_owners import WATCH_MANAGER
from keyturn_receiver.core.revision import KeyedHash, Record
from keyturn_receiver.core.watched import WATCHED, write_kept
from keyturn_receiver.errors import NotFound


class WatchedClient:
    """Client for watched Secrets. ``cache`` knows facts about a Secret that the Secret itself does not show. ``keyed``
    makes the hash that proves that Keyturn wrote the annotation."""

    def __init__(self, api: Api, cache: WatchedCache, keyed: KeyedHash) -> None:
        self._api = api
        self._cache = cache
        self._keyed = keyed

    async def read(self, target: Target) -> WatchedSecret:
        """Read a Secret. Raises NotFound if the Secret does not exist or is not watched, or another error of the API
        client."""
        secret = self._cache.judge(await self._api.request("GET", _path(target)))
        if secret is None:
            raise NotFound(f"Secret {target} is not watched any more")
        return secret

    async def read_record(self, target: Target) -> Record:
        """Read the revisions of a Secret's keys, and the times at which they changed. Raises the same errors as
        ``read``."""
        return (await self.read(target)).record

    async def keep(self, secret: WatchedSecret) -> None:
        """Write the record into the Secret's annotation by server-side apply. The apply writes nothing else.

        Raises Conflict if the Secret was changed or deleted after it was read, or another error of the API client.
        """
        target = secret.target
        metadata = {
            "name": target.name,
            "namespace": target.namespace,
            "uid": secret.uid,
            "resourceVersion": secret.resource_version,
            "annotations": {WATCHED: write_kept(self._keyed, target.namespace, target.name, secret.record)},
        }
        body: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
        query = {"fieldManager": WATCH_MANAGER, "force": "true"}
        await self._api.request("PATCH", _path(target), query, body, content_type=APPLY, accept=METADATA_ONLY)


def _path(target: Target) -> str:
    return path("v1", "secrets", target.namespace, target.name)
