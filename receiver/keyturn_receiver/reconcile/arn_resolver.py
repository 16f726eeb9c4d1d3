"""Whether a binding may read an AWS secret whose ARN alone cannot tell: AWS is asked for its name before its value.

``...:secret:team/db-master`` is the secret team/db, if these are its six random characters, or the secret
team/db-master, if it has none. A namespace that may read the first, and names the second, must not learn so much as
whether there is one.
"""

from keyturn_receiver.errors import NotAllowed
from keyturn_receiver.reconcile.access_policy import AccessPolicy
from keyturn_receiver.sources import error_mapping
from keyturn_receiver.sources.stores import StoreKey, Stores

REMEMBERED = 10_000


class ArnResolver:
    """Checks what bindings name; remembers what AWS has told of ARNs with two readings."""

    def __init__(self, stores: Stores, tenancies: AccessPolicy) -> None:
        self._stores = stores
        self._tenancies = tenancies
        self._told: dict[tuple[StoreKey, str], str] = {}

    async def check(self, key: StoreKey, namespace: str, service_account: str, secret_id: str, since: float) -> None:
        """Raise NotAllowed if a binding may not name this AWS secret, and SourceNotFound if it may, but there is none.

        One that is there under a name that is not allowed is spoken of as if it were not.
        """
        self._tenancies.check_id(namespace, service_account, secret_id)
        if self._tenancies.allows_every_reading(namespace, service_account, secret_id):
            return
        name = self._told.get((key, secret_id))
        if name is None:
            name = (await self._stores.describe(key, secret_id, since)).name
            self._told[key, secret_id] = name
            if len(self._told) > REMEMBERED:
                del self._told[next(iter(self._told))]
        try:
            self._tenancies.check_name(namespace, service_account, name)
        except NotAllowed:
            raise error_mapping.not_found(f"AWS secret {secret_id}") from None
