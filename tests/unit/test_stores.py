"""Stores: only the own store decides whether the own credentials work, and a tenant's identity follows its
ServiceAccount."""

import asyncio
import time
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from keyturn_receiver.cluster.service_account_client import AwsRole, ServiceAccount
from keyturn_receiver.core.binding import Source
from keyturn_receiver.errors import Conflict, InvalidBinding, KeyturnError, NoCredentials
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources.caller_identity import TenantIdentity
from keyturn_receiver.sources.secrets_manager import NOT_CHECKED
from keyturn_receiver.sources.stores import MAX_STORES_PER_NAMESPACE, Identity, Store, StoreKey, Stores
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.store_factory import StoreFactory
from keyturn_receiver.telemetry.metrics import Metrics
from support.aws_client import FakeClient, arn_of, aws_error, no_tenant, secrets_manager, value_of

pytestmark = pytest.mark.anyio
TENANT = "team/theirs"


class Aws:
    """A fake AWS that refuses the credentials for the secrets, actions and regions in ``refused``."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.clients: dict[StoreKey, FakeClient] = {}

    async def create(self, key: StoreKey, identity: Identity) -> Store:
        if "create" in self.refused and not key.account:
            raise NoCredentials("AWS", "the agent does not answer")

        def answer(action: str, arguments: dict[str, Any]) -> Any:
            if self.refused & {action, arguments.get("SecretId"), key.region}:
                raise aws_error("UnrecognizedClientException")
            return value_of("team/db") if action == "get_secret_value" else {"SecretList": []}

        self.clients[key] = FakeClient(answer, key.region)
        return Store.of(key, secrets_manager(self.clients[key]))


async def read(stores: Stores, secret_id: str, **identity: str) -> None:
    with pytest.raises(NoCredentials):
        await stores.read(stores.key(secret_id, **identity), Source(secret_id), 0.0)


async def test_store_that_a_binding_names_does_not_judge_the_own_credentials() -> None:
    aws = Aws("eu-west-1")
    stores = Stores(aws.create, "us-east-1", no_tenant)
    assert stores.credentials_error() == NOT_CHECKED
    await read(stores, arn_of(TENANT, region="eu-west-1"))
    assert stores.credentials_error() == NOT_CHECKED
    await stores.read(stores.key("team/db"), Source("team/db"), 0.0)
    assert stores.credentials_error() is None
    for number in range(3):
        await read(stores, arn_of(f"{TENANT}{number}", region="eu-west-1"))
        assert stores.credentials_error() is None


async def test_refusal_about_one_secret_is_checked_before_it_is_believed() -> None:
    aws = Aws(TENANT)
    stores = Stores(aws.create, "us-east-1", no_tenant)
    await read(stores, TENANT)
    await asyncio.sleep(0.1)
    assert stores.credentials_error() is None
    assert aws.clients[stores.key()].actions() == ["get_secret_value", "list_secrets"]


async def test_refusal_of_everything_is_told_without_naming_a_secret() -> None:
    aws = Aws("us-east-1")
    stores = Stores(aws.create, "us-east-1", no_tenant)
    await read(stores, TENANT)
    await asyncio.sleep(0.1)
    error = stores.credentials_error()
    assert error
    assert error.startswith("the AWS credentials do not work (UnrecognizedClientException): check the role")
    assert TENANT not in error


async def test_credentials_that_cannot_be_checked_say_why() -> None:
    def answer(action: str, arguments: dict[str, Any]) -> Any:
        raise EndpointConnectionError(endpoint_url="hunter2-canary")

    aws = secrets_manager(FakeClient(answer))
    await aws.check_credentials()
    await aws.check_credentials()
    assert aws.credentials_error == (
        f"{NOT_CHECKED}: ListSecrets: AWS cannot be reached (EndpointConnectionError): trying again"
    )


async def test_own_store_that_cannot_be_created_says_why_until_it_can() -> None:
    aws = Aws("create")
    stores = Stores(aws.create, "us-east-1", no_tenant)
    with pytest.raises(KeyturnError):
        await stores.get(stores.key())
    assert stores.credentials_error() == "the agent does not answer"


class Tenants:
    """ServiceAccounts with AWS roles. ``identities`` has those that exist. ``made`` has the identities for which a
    store was created."""

    def __init__(self, **identities: Identity) -> None:
        self.identities = dict(identities)
        self.made: list[Identity] = []
        self.lookups = 0

    async def identify(self, key: StoreKey) -> Identity:
        self.lookups += 1
        await asyncio.sleep(0.01)
        name = key.account.partition("/")[2]
        if name not in self.identities:
            raise InvalidBinding(f"ServiceAccount {key.account} does not exist")
        return self.identities[name]

    async def create(self, key: StoreKey, identity: Identity) -> Store:
        self.made.append(identity)
        client = FakeClient(lambda action, arguments: {**value_of("team/db"), "SecretString": identity.role_arn})
        return Store.of(key, secrets_manager(client), None, identity)


async def role_read(stores: Stores) -> str:
    key = stores.key("team/db", "team", "app")
    return str((await stores.read(key, Source("team/db"), time.monotonic())).value)


@pytest.mark.parametrize("other", [Identity("2", "old"), Identity("1", "new"), Identity("2", "new")])
async def test_identity_follows_the_service_account_and_not_its_name(other: Identity) -> None:
    tenants = Tenants(app=Identity("1", "old"))
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    assert await role_read(stores) == "old"
    assert await role_read(stores) == "old"
    assert tenants.made == [Identity("1", "old")]
    tenants.identities["app"] = other
    assert await role_read(stores) == other.role_arn
    assert tenants.made == [Identity("1", "old"), other]
    described = await stores.describe(stores.key("team/db", "team", "app"), "team/db", time.monotonic())
    assert described.name == "team/db"


async def test_deleted_service_account_reads_nothing_and_leaves_nothing() -> None:
    tenants = Tenants(app=Identity("1", "old"))
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    assert await role_read(stores) == "old"
    del tenants.identities["app"]
    with pytest.raises(InvalidBinding):
        await role_read(stores)
    assert len(stores._others) == 0
    tenants.identities["app"] = Identity("1", "old")
    assert await role_read(stores) == "old"
    assert len(tenants.made) == 1  # credentials of the same identity are shared for some seconds


async def test_namespace_with_many_identities_evicts_its_own_stores_alone() -> None:
    many = {f"app{number}": Identity(f"uid{number}", f"role{number}") for number in range(100)}
    tenants = Tenants(app=Identity("1", "honest"), **many)
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    assert await role_read(stores) == "honest"
    for number in range(100):
        key = stores.key("team/db", "hostile", f"app{number}")
        assert (await stores.read(key, Source("team/db"), time.monotonic())).value == f"role{number}"
    assert stores.key("team/db", "team", "app") in stores._others
    kept = [key.namespace for key in stores._others]
    assert kept.count("hostile") == MAX_STORES_PER_NAMESPACE


async def test_bindings_of_one_burst_share_a_lookup() -> None:
    tenants = Tenants(app=Identity("1", "old"))
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    key, since = stores.key("team/db", "team", "app"), time.monotonic()
    await asyncio.gather(*(stores.read(key, Source("team/db"), since) for _ in range(50)))
    assert tenants.lookups == 1


async def test_factory_makes_no_store_of_a_service_account_that_changes_meanwhile() -> None:
    class Accounts:
        uid = "1"

        async def role(self, account: ServiceAccount) -> AwsRole:
            return AwsRole(self.uid, "arn:aws:iam::123456789012:role/app")

        async def token(self, account: ServiceAccount) -> str:
            self.uid = "2"
            return "token"

    accounts: Any = Accounts()
    settings = Settings(signing_key_secret_id="x")
    factory = StoreFactory(settings, ThreadPools.of(1), accounts, Metrics(), TenantIdentity(""), "us-east-1")
    key = StoreKey("team/app", "us-east-1")
    with pytest.raises(Conflict):
        await factory.make(key, await factory.identify(key))
