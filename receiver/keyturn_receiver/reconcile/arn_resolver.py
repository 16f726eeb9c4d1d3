"""Resolves ARNs that can refer to two names, so that the access policy can decide before a value is read.

``...:secret:team/db-master`` is the secret team/db if "master" is its random suffix. It is the secret team/db-master if
the suffix is left out. A namespace that may read only the first must not even learn whether the second exists.
"""

from keyturn_receiver.errors import NotAllowed
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.resilience.bounded_map import BoundedMap
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.stores import StoreKey, Stores

MAX_NAMES = 10_000


class ArnResolver:
    """Checks the AWS secrets that bindings name. If an ARN can be read in two ways, AWS is asked for the name, but only
    once."""

    def __init__(self, stores: Stores, access: AccessPolicy) -> None:
        self._stores = stores
        self._access = access
        self._names: BoundedMap[tuple[StoreKey, str], str] = BoundedMap(MAX_NAMES)

    async def check(self, key: StoreKey, namespace: str, service_account: str, secret_id: str, since: float) -> None:
        """Raise NotAllowed if a binding may not name this AWS secret, and SourceNotFound if the secret does not exist.

        A secret that exists under a forbidden name is reported as not found.
        """
        self._access.check_id(namespace, service_account, secret_id)
        if self._access.allows_every_reading(namespace, service_account, secret_id):
            return
        name = self._names.get((key, secret_id))
        if name is None:
            name = (await self._stores.describe(key, secret_id, since)).name
            self._names.put((key, secret_id), name)
        try:
            self._access.check_name(namespace, service_account, name)
        except NotAllowed:
            raise error_mapping.not_found(f"AWS secret {secret_id}") from None
