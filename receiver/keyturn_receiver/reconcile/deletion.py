"""Deletes a Secret because AWS has deleted the secret that it was made from. In case of doubt, the Secret stays."""

from collections.abc import Collection

from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import Binding
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import split_version_key
from keyturn_receiver.errors import SourceNotFound, SourceRefused
from keyturn_receiver.reconcile.arn_resolver import ArnResolver
from keyturn_receiver.sources.stores import StoreKey, Stores


class SecretDeleter:
    """Deletes Secrets whose binding asks for deletion (``keyturn.dev/on-delete: delete``), if deletions are
    ``allowed``."""

    def __init__(self, stores: Stores, secrets: SecretClient, resolver: ArnResolver, allowed: bool) -> None:
        self._stores = stores
        self._resolver = resolver
        self._secrets = secrets
        self._allowed = allowed

    async def delete(
        self, binding: Binding, keys: Collection[StoreKey], live: LiveSecret, since: float, fault: SourceNotFound
    ) -> None:
        """Delete the Secret if, according to AWS, all AWS secrets that it was made from are gone.

        If a name is not found, the receiver may simply be running in the wrong region or account. So the recorded ARNs
        are looked up, too. The Secret is deleted only if this receiver has seen another secret of the same account and
        region. The ARNs come from an annotation that the Secret's owner can edit, so the access policy is checked
        before AWS is asked. ``keys`` are the stores that read the AWS secrets of the binding. In case of doubt, raises
        SourceRefused, NotAllowed or Conflict. If deletions are not allowed, raises SourceNotFound with the message of
        ``fault`` and further advice.
        """
        if not self._allowed:
            raise SourceNotFound(
                f"{fault}; the Secret stays, for this receiver deletes none: if it should, set deletions.enabled in the"
                " chart (KEYTURN_DELETIONS)"
            )
        for arn in {split_version_key(each)[0] for each in live.record.version_ids}:
            key = next((each for each in keys if each.region == region(arn)), None)
            # This is asked first: its answer is the same for each replica, and so is the status.
            if key and not await self._is_gone(binding, key, arn, since):
                raise SourceRefused(
                    f"AWS secret {arn}, which the Secret was made from, is still there: the Secret stays; correct the"
                    " name in the binding"
                )
            if key is None or not (await self._stores.get(key, since)).secrets_manager.has_seen(arn):
                raise SourceRefused(
                    f"AWS secret {arn} is not found, but this receiver has seen no other secret of its account and"
                    " region: the Secret stays; check which role and region the receiver runs with"
                )
        await self._secrets.delete(live)

    async def _is_gone(self, binding: Binding, key: StoreKey, arn: str, since: float) -> bool:
        try:
            await self._resolver.check(
                key, binding.target.namespace, binding.service_account, arn, since, remembered=False
            )
            await self._stores.describe(key, arn, since, binding.target.namespace)
        except SourceNotFound:
            return True
        return False
