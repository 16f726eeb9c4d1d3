"""Record reader. It reads the record of a Secret: the revisions of its keys. The Secret may be bound or watched."""

from dataclasses import replace

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import Record


class RecordReader:
    """Record reader for bound and watched Secrets. No Secret is both."""

    def __init__(self, secrets: SecretClient, watched: WatchedClient, cache: WatchedCache, bound: SecretCache) -> None:
        self._secrets = secrets
        self._watched = watched
        self._cache = cache
        self._bound = bound

    async def read_record(self, target: Target) -> Record:
        """Read the record of a Secret. Raises NotFound, or another error of the API client.

        Keyturn does not manage the other keys of a bound Secret (``Record.other_keys``). They come from the cache,
        because only the Secret's data tells them reliably.
        """
        if self._cache.get(target):
            return await self._watched.read_record(target)
        record, bound = await self._secrets.read_record(target), self._bound.get(target)
        return replace(record, other_keys=bound.record.other_keys) if bound else record
