"""Record reader. It reads the record of a Secret: the revisions of its keys. The Secret may be bound or watched."""

from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.cluster.watched_cache import WatchedCache
from keyturn_receiver.cluster.watched_client import WatchedClient
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.revision import Record


class RecordReader:
    """Record reader for bound and watched Secrets. No Secret is both."""

    def __init__(self, secrets: SecretClient, watched: WatchedClient, cache: WatchedCache) -> None:
        self._secrets = secrets
        self._watched = watched
        self._cache = cache

    async def read_record(self, target: Target) -> Record:
        """Read the record of a Secret. Raises NotFound, or another error of the API client."""
        client = self._watched if self._cache.get(target) else self._secrets
        return await client.read_record(target)
