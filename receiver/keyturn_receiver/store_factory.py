"""Factory of stores. A store is an AWS client for one identity in one region, with that identity's credentials."""

from dataclasses import dataclass

from keyturn_receiver.cluster.service_account_client import ServiceAccount, ServiceAccountClient
from keyturn_receiver.core.arn import account_id
from keyturn_receiver.errors import Conflict
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources import assume_role, clients
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.stores import Identity, Store, StoreKey
from keyturn_receiver.sources.thread_pools import OVERSUBSCRIPTION, ThreadPools
from keyturn_receiver.telemetry.metrics import Metrics

BACKGROUND_THREADS = 2  # the most concurrent calls of sweeps
QUARANTINE_THREADS = 4  # the most concurrent calls about secrets whose last call hung, and for tenants' credentials


@dataclass(frozen=True, slots=True)
class StoreFactory:
    """Factory of stores. A store uses either the receiver's own credentials or those of a tenant's AWS role."""

    settings: Settings
    pools: ThreadPools
    service_accounts: ServiceAccountClient
    metrics: Metrics

    async def identify(self, key: StoreKey) -> Identity:
        """Look up the ServiceAccount that ``key`` names.

        Raises InvalidBinding, or an error of the Kubernetes API client.
        """
        role = await self.service_accounts.role(ServiceAccount(*key.account.split("/", 1)))
        return Identity(role.uid, role.arn)

    async def make(self, key: StoreKey, identity: Identity) -> Store:
        """Make the store of ``key`` for its ``identity``.

        Raises SourceRefused, SourceUnavailable, InvalidBinding, or an error of the Kubernetes API client.
        """
        connections = OVERSUBSCRIPTION * self.settings.aws_threads
        if not key.account:
            client = clients.secrets_manager(key.region, connections)
            sweep_client = clients.secrets_manager(key.region, OVERSUBSCRIPTION * BACKGROUND_THREADS)
            return Store.of(key, SecretsManager(client, sweep_client, self.pools, self.metrics))
        token = await self.service_accounts.token(ServiceAccount(*key.account.split("/", 1)))
        if await self.identify(key) != identity:
            # The token may be that of another object of the same name, for which the role would be the wrong one.
            raise Conflict(f"ServiceAccount {key.account} has changed: reading again")
        sts = clients.sts(key.region)
        credentials = await assume_role.assume(
            sts, self.pools.quarantine, self.metrics, key.account, identity.role_arn, token
        )
        client = clients.secrets_manager(key.region, connections, credentials)
        secrets_manager = SecretsManager(client, client, self.pools, self.metrics, account_id(identity.role_arn))
        return Store.of(key, secrets_manager, credentials.expires_at, identity)
