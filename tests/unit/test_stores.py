"""Stores: a name in a binding never affects whether the receiver's own credentials are considered valid."""

import asyncio
from typing import Any

import pytest

from keyturn_receiver.core.binding import Source
from keyturn_receiver.errors import KeyturnError, NoCredentials
from keyturn_receiver.sources.secrets_manager import NOT_CHECKED
from keyturn_receiver.sources.stores import Store, StoreKey, Stores
from support.aws_client import FakeClient, arn_of, aws_error, secrets_manager, value_of

pytestmark = pytest.mark.anyio
TENANT = "team/theirs"


class Aws:
    """A fake AWS that refuses the credentials for the secrets, actions and regions in ``refused``."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.clients: dict[StoreKey, FakeClient] = {}

    async def create(self, key: StoreKey) -> Store:
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
    stores = Stores(aws.create, "us-east-1")
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
    stores = Stores(aws.create, "us-east-1")
    await read(stores, TENANT)
    await asyncio.sleep(0.1)
    assert stores.credentials_error() is None
    assert aws.clients[stores.key()].actions() == ["get_secret_value", "list_secrets"]


async def test_refusal_of_everything_is_told_without_naming_a_secret() -> None:
    aws = Aws("us-east-1")
    stores = Stores(aws.create, "us-east-1")
    await read(stores, TENANT)
    await asyncio.sleep(0.1)
    error = stores.credentials_error()
    assert error
    assert error.startswith("the AWS credentials do not work (UnrecognizedClientException): check the role")
    assert TENANT not in error


async def test_own_store_that_cannot_be_created_says_why_until_it_can() -> None:
    aws = Aws("create")
    stores = Stores(aws.create, "us-east-1")
    with pytest.raises(KeyturnError):
        await stores.get(stores.key())
    assert stores.credentials_error() == "the agent does not answer"
