"""Deleting a Secret because AWS has deleted what it is made from: only where that is beyond doubt."""

import logging

from keyturn_receiver.cluster.secrets import Secrets
from keyturn_receiver.core.identity import region
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.errors import SourceDeleted, SourceRefused
from keyturn_receiver.sources.stores import StoreKey, Stores

_log = logging.getLogger(__name__)


class Deletion:
    """Deletes Secrets whose binding asks for it (``keyturn.dev/on-delete: delete``)."""

    def __init__(self, stores: Stores, secrets: Secrets) -> None:
        self._stores = stores
        self._secrets = secrets

    async def delete(self, key: StoreKey, live: LiveSecret, since: float) -> None:
        """Delete the Secret, if AWS says of every ARN that it was made from that there is no such secret any more.

        A name that is not found may as well mean a receiver in the wrong region or account: the ARNs tell, and whether
        other secrets of their account were seen from here. Raises SourceRefused where there is doubt, or Conflict.
        """
        secrets_manager = (await self._stores.get(key)).secrets_manager
        for arn in {version.partition("#")[0] for version in live.record.version_ids}:
            if region(arn) != key.region or not secrets_manager.has_seen(arn):
                raise SourceRefused(
                    f"AWS secret {arn} is not found, but this receiver has seen no other secret of its account and"
                    " region: the Secret stays; check which role and region the receiver runs with"
                )
            if not await self._is_gone(key, arn, since):
                raise SourceRefused(
                    f"AWS secret {arn}, which the Secret was made from, is still there: the Secret stays; correct the"
                    " name in the binding"
                )
        await self._secrets.delete(live)
        _log.info("deleted: AWS has deleted the secret it was made from")

    async def _is_gone(self, key: StoreKey, arn: str, since: float) -> bool:
        try:
            await self._stores.describe(key, arn, since)
        except SourceDeleted:
            return True
        return False
