"""Factory of stores. A store reads AWS secrets in one region with the credentials of one identity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyturn_receiver.cluster.service_account_client import ServiceAccount, ServiceAccountClient
from keyturn_receiver.core.arn import account_id
from keyturn_receiver.errors import Conflict, SourceRefused
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources import assume_role, clients, error_mapping
from keyturn_receiver.sources.call_credentials import Credentials
from keyturn_receiver.sources.caller_identity import CallerIdentity, TenantIdentity
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.store_health import StoreHealth
from keyturn_receiver.sources.stores import Identity, Store, StoreKey
from keyturn_receiver.sources.thread_pools import (
    BACKGROUND_THREADS,
    OTHER_REGIONS,
    OVERSUBSCRIPTION,
    ThreadPools,
    namespace_owner,
)
from keyturn_receiver.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


@dataclass(frozen=True, slots=True)
class StoreFactory:
    """Factory of stores. A store has either the receiver's own credentials or the credentials of a tenant's AWS
    role."""

    settings: Settings
    pools: ThreadPools
    service_accounts: ServiceAccountClient
    metrics: Metrics
    own_identity: CallerIdentity
    own_region: str

    async def identify(self, key: StoreKey) -> Identity:
        """Look up the ServiceAccount that ``key`` names, and return its identity.

        Raises InvalidBinding, or an error of the Kubernetes API client.
        """
        role = await self.service_accounts.role(ServiceAccount(*key.account.split("/", 1)))
        return Identity(role.uid, role.arn)

    async def make(self, key: StoreKey, identity: Identity) -> Store:
        """Make the store for ``key``, with the credentials of ``identity``.

        Raises SourceRefused, SourceUnavailable, InvalidBinding, Conflict, or another error of the Kubernetes API
        client.
        """
        if not key.region:
            raise SourceRefused("the AWS region is not known: set it in the chart (aws.region) or as AWS_REGION")
        is_own = key == StoreKey("", self.own_region)
        credentials = await self._assume(key, identity) if key.account else None
        caller = (
            TenantIdentity(account_id(identity.role_arn), identity.role_arn, credentials)
            if key.account
            else self.own_identity
        )
        try:
            # Without this check, the SDK would fetch the credentials while it builds a client, which can take seconds.
            if not key.account:
                await self.pools.foreground.run(caller.check)
            client, sweep_client = await self.pools.building.run(lambda: self._clients(key.region, is_own))
        except Exception as error:
            raise error_mapping.translate(error, f"AWS region {key.region}") from None
        health = StoreHealth(trusted=is_own)
        owners = [namespace_owner(key.namespace)] if key.account else [f"region {key.region}", OTHER_REGIONS]
        secrets_manager = SecretsManager(client, sweep_client, self.pools, self.metrics, caller, health, owners)
        return Store.of(key, secrets_manager, credentials.expires_at if credentials else None, identity)

    def _clients(self, region: str, is_own: bool) -> "tuple[SecretsManagerClient, SecretsManagerClient]":
        """Return one client for reads and one client for sweeps.

        The receiver's own store has two clients, so that a sweep does not use the connections of reads. All other
        stores of a region share one client, because a client takes about a megabyte of memory, and tenants decide how
        many stores there are.
        """
        connections = OVERSUBSCRIPTION * self.settings.aws_threads
        if not is_own:
            shared = clients.shared_secrets_manager(region, connections)
            return shared, shared
        return (
            clients.secrets_manager(region, connections),
            clients.secrets_manager(region, OVERSUBSCRIPTION * BACKGROUND_THREADS),
        )

    async def _assume(self, key: StoreKey, identity: Identity) -> Credentials:
        token = await self.service_accounts.token(ServiceAccount(*key.account.split("/", 1)))
        if await self.identify(key) != identity:
            # The token may belong to a new ServiceAccount with the same name, which may name another role.
            raise Conflict(f"ServiceAccount {key.account} has changed: reading again")
        # STS is called in the receiver's own region, because STS is known to answer there. Credentials of a role are
        # valid in every region.
        sts = await self.pools.building.run(lambda: clients.sts(self.own_region))
        return await assume_role.assume(sts, self.pools.sts, self.metrics, key.account, identity.role_arn, token)
