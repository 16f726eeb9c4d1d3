"""Stores: only the own store decides whether the own credentials work, and a tenant's identity follows its
ServiceAccount."""

import asyncio
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from keyturn_receiver.cluster.service_account_client import AwsRole, ServiceAccount
from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import Conflict, InvalidBinding, KeyturnError, NoCredentials
from keyturn_receiver.settings import Settings
from keyturn_receiver.sources.caller_identity import TenantIdentity
from keyturn_receiver.sources.secrets_manager import NOT_CHECKED
from keyturn_receiver.sources.stores import (
    MAX_KEPT_VALUES,
    MAX_STORES,
    MAX_STORES_PER_NAMESPACE,
    Identity,
    Store,
    StoreKey,
    Stores,
)
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
        self._shared = (ThreadPools.of(4), Metrics())

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
        return Store.of(key, secrets_manager(client, shared=self._shared), None, identity)


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
    assert len(tenants.made) == 1  # a store is shared for some seconds after its creation


def crowd(count: int) -> dict[str, Identity]:
    return {f"app{number}": Identity(f"uid{number}", f"role{number}") for number in range(count)}


async def use_all(stores: Stores, namespace: str, names: Iterable[str]) -> None:
    since = time.monotonic()
    await asyncio.gather(*(stores.get(stores.key("team/db", namespace, name), since) for name in names))


async def test_namespace_with_many_identities_evicts_its_own_stores_alone() -> None:
    many = crowd(MAX_STORES_PER_NAMESPACE + 100)
    tenants = Tenants(app=Identity("1", "honest"), **many)
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    assert await role_read(stores) == "honest"
    await use_all(stores, "hostile", many)
    assert stores._others.of("team") == [stores.key("team/db", "team", "app")]
    assert stores._others.size("hostile") == MAX_STORES_PER_NAMESPACE
    await use_all(stores, "hostile", ["app200"])  # app200 is now the newest, so the next store evicts another
    await use_all(stores, "hostile", ["app0"])
    kept = [key.account for key in stores._others.of("hostile")]
    assert kept[-2:] == ["hostile/app200", "hostile/app0"]


async def test_many_namespaces_with_many_identities_evict_no_store_of_a_small_one() -> None:
    many = crowd(1600)
    tenants = Tenants(app=Identity("1", "honest"), **many)
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    assert await role_read(stores) == "honest"
    for number in range(3):
        await use_all(stores, f"hostile-{number}", many)
    assert len(stores._others) == MAX_STORES
    assert stores._others.of("team") == [stores.key("team/db", "team", "app")]


async def test_a_thousand_identities_are_made_once_each_while_their_credentials_last() -> None:
    many = crowd(1000)
    tenants = Tenants(**many)
    stores = Stores(tenants.create, "us-east-1", tenants.identify)
    for _ in range(3):
        await use_all(stores, "team", many)
    assert len(tenants.made) == 1000


@pytest.mark.parametrize(("lifetime", "fresh_for"), [(3600, 3300), (1200, 900), (60, 45)])
def test_credentials_are_renewed_before_they_expire_and_not_at_each_use(lifetime: int, fresh_for: int) -> None:
    aws = secrets_manager(FakeClient(lambda action, arguments: {}))
    expires_at = datetime.now(UTC) + timedelta(seconds=lifetime)
    store = Store.of(StoreKey("team/app", "us-east-1"), aws, expires_at, Identity("1", "role"))
    assert store.is_fresh
    assert store.renew_at
    assert (expires_at - store.renew_at).total_seconds() == pytest.approx(lifetime - fresh_for, abs=1)
    assert not Store.of(store.key, aws, datetime.now(UTC) - timedelta(seconds=1), store.identity).is_fresh


async def test_values_that_bindings_share_are_bounded_by_their_bytes() -> None:
    value = "x" * 65_536
    client = FakeClient(lambda action, arguments: {**value_of(arguments["SecretId"]), "SecretString": value})
    aws = secrets_manager(client)

    async def create(key: StoreKey, identity: Identity) -> Store:
        return Store.of(key, aws)

    stores = Stores(create, "us-east-1", no_tenant)
    for number in range(300):
        await stores.read(stores.key(f"team/{number}"), Source(f"team/{number}", "OTHER"), time.monotonic())
    assert len(stores._reads) == MAX_KEPT_VALUES // len(value)


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


async def test_secret_that_two_namespaces_name_does_not_wait_for_the_share_of_one() -> None:
    """Another namespace has used up its share with calls that hang, and is the first to read the secret that both
    name."""
    over = threading.Event()

    def answer(action: str, arguments: dict[str, Any]) -> Any:
        if "hung" in arguments["SecretId"]:
            over.wait(30)
        return value_of(arguments["SecretId"])

    aws = secrets_manager(FakeClient(answer))

    async def create(key: StoreKey, identity: Identity) -> Store:
        return Store.of(key, aws)

    stores = Stores(create, "us-east-1", no_tenant)

    async def read(secret_id: str, namespace: str) -> SecretVersion:
        # Another stage than the current one is never read in a batch.
        return await stores.read(stores.key(secret_id), Source(secret_id, "OTHER"), 0.0, namespace=namespace)

    theirs = [asyncio.create_task(read(f"hung{number}", "hostile")) for number in range(10)]
    theirs.append(asyncio.create_task(read("shared/ca", "hostile")))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(1):
        assert (await read("shared/ca", "team")).name == "shared/ca"
        assert (await read("shared/ca", "hostile")).name == "shared/ca"  # both share one call, which counts for neither
    assert not any(each.done() for each in theirs)
    over.set()
    await asyncio.gather(*theirs)
