"""Secret lookup. It finds bound and watched Secrets in their caches."""

from keyturn_receiver.cluster.secret_cache import BoundSecret, SecretCache
from keyturn_receiver.cluster.watched_cache import WatchedCache, WatchedSecret
from keyturn_receiver.core.binding import Target


class SecretLookup:
    """Secret lookup among the bound Secrets and among the watched Secrets. A Secret is in at most one of the caches."""

    def __init__(self, bound: SecretCache, watched: WatchedCache) -> None:
        self._bound = bound
        self._watched = watched

    def get(self, target: Target) -> BoundSecret | WatchedSecret | None:
        """Return the Secret at ``target``, or None if it is neither bound nor watched."""
        return self._bound.get(target) or self._watched.get(target)
