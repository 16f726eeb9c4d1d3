"""Secrets Manager client: it accepts a response only if account, region and name are those of the secret that it asked
for."""

import asyncio
import threading
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from keyturn_receiver.core.binding import Source
from keyturn_receiver.errors import NoCredentials, SourceRefused, SourceUnavailable
from keyturn_receiver.sources.caller_identity import TenantIdentity
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.store_health import MAX_SILENT_CALLS, StoreHealth
from keyturn_receiver.sources.thread_pools import CALLS_PER_OWNER, OTHER_REGIONS, ThreadPools, namespace_owner
from keyturn_receiver.telemetry.metrics import Metrics
from support.aws_client import ACCOUNT, FakeClient, arn_of, aws_error, secrets_manager, value_of

pytestmark = pytest.mark.anyio
FOREIGN = "999999999999"
MINE, THEIRS = value_of("team/db"), value_of("team/db", FOREIGN)


def answering(*values: dict[str, Any], account: str = "") -> SecretsManager:
    """Return a client that gets these values from AWS, whatever it asks for."""

    def answer(action: str, arguments: dict[str, Any]) -> Any:
        return {"SecretValues": list(values)} if action == "batch_get_secret_value" else values[0]

    return secrets_manager(FakeClient(answer), account)


@pytest.mark.parametrize(
    "secret_id", ["team/db", arn_of("team/db"), arn_of("team/db")[:-7]], ids=["name", "ARN", "partial ARN"]
)
async def test_answer_about_the_secret_is_taken(secret_id: str) -> None:
    aws = answering(MINE)
    assert (await aws.value(Source(secret_id))).value == f"{ACCOUNT} team/db"
    assert (await aws.describe(secret_id)).name == "team/db"
    assert {key: version.value for key, version in (await aws.values([secret_id])).items()} == {
        secret_id: f"{ACCOUNT} team/db"
    }


@pytest.mark.parametrize(
    ("secret_id", "answer"),
    [
        ("team/db", value_of("team/db2")),
        ("team/db", value_of("x/team/db")),
        ("team/db", value_of("team/db", region="eu-west-1")),
        ("team/db", {**value_of("team/db"), "ARN": arn_of("team/other")}),
        ("team/db", {**value_of("team/db"), "ARN": "team/db"}),
        (arn_of("team/db"), THEIRS),
        (arn_of("team/db", FOREIGN), MINE),
        (arn_of("team/db"), {**MINE, "ARN": arn_of("team/db")[:-6] + "ZzZzZz"}),
        (arn_of("team/db")[:-7], THEIRS),
        (arn_of("team/db"), value_of("team/db", region="eu-west-1")),
    ],
)
async def test_answer_about_another_secret_is_refused(secret_id: str, answer: dict[str, Any]) -> None:
    aws = answering(answer)
    for read in (aws.value(Source(secret_id)), aws.describe(secret_id)):
        with pytest.raises(SourceUnavailable) as refused:
            await read
        assert "the response is about another secret" in str(refused.value)
    assert await aws.values([secret_id]) == {}


async def test_name_gets_the_own_accounts_secret_where_the_account_is_known() -> None:
    aws = answering(THEIRS, account=ACCOUNT)
    with pytest.raises(SourceUnavailable):
        await aws.value(Source("team/db"))
    assert await aws.values(["team/db"]) == {}


@pytest.mark.parametrize("values", [(MINE, THEIRS), (THEIRS, MINE), (MINE, MINE), ()])
async def test_name_that_a_batch_answers_twice_or_not_at_all_is_read_alone(values: tuple[dict[str, Any], ...]) -> None:
    aws = answering(*values)
    assert await aws.values(["team/db"]) == {}


async def test_secret_of_another_account_is_never_in_a_batch() -> None:
    aws = answering(MINE)
    mine, theirs = arn_of("team/db"), arn_of("team/db", FOREIGN)
    assert aws.may_batch("team/db")
    assert not aws.may_batch(mine)  # the client does not know its own account yet
    await aws.value(Source(theirs.replace(FOREIGN, ACCOUNT)))
    assert not aws.may_batch(mine)  # the answer for an ARN does not show the client's own account
    await aws.value(Source("team/db"))
    assert aws.may_batch(mine)
    assert not aws.may_batch(theirs)


async def test_list_shows_the_own_account() -> None:
    aws = secrets_manager(FakeClient(lambda action, arguments: {"SecretList": [MINE]}))
    assert [page async for page in aws.list_secrets()]
    assert aws.may_batch(arn_of("team/x"))
    assert not aws.may_batch(arn_of("team/x", FOREIGN))


async def checked(aws: SecretsManager) -> None:
    """Wait for the check that an error has started."""
    assert aws._check
    await aws._check


async def test_store_that_does_not_answer_is_asked_rarely_and_never_in_a_batch() -> None:
    silent = True

    def answer(action: str, arguments: dict[str, Any]) -> Any:
        if silent:
            raise ConnectTimeoutError(endpoint_url="")
        return value_of(arguments["SecretId"])

    client = FakeClient(answer)
    aws = secrets_manager(client, trusted=False)
    assert not aws.may_batch("s0")
    for number in range(50):
        with pytest.raises(SourceUnavailable) as refused:
            await aws.value(Source(f"s{number}"))
    await checked(aws)
    # The store is asked for a list, too, because the secret may have been the reason.
    assert client.actions() == ["get_secret_value", "list_secrets"]
    assert "AWS region us-east-1 does not answer this receiver" in str(refused.value)
    silent = False
    aws._health._rests_until = 0.0
    assert (await aws.value(Source("s1"))).name == "s1"
    assert aws.may_batch("s0")
    await aws.value(Source("s2"))
    assert len(client.calls) == 4


async def test_refusal_of_aws_proves_that_a_store_answers() -> None:
    def answer(action: str, arguments: dict[str, Any]) -> Any:
        raise aws_error("AccessDeniedException")

    client = FakeClient(answer)
    aws = secrets_manager(client, trusted=False)
    for number in range(5):
        with pytest.raises(SourceRefused):
            await aws.value(Source(f"s{number}"))
    assert len(client.calls) == 5
    assert aws.may_batch("s0")


async def test_batch_whose_credentials_are_refused_is_checked_before_it_is_believed() -> None:
    refused = {"batch_get_secret_value"}

    def answer(action: str, arguments: dict[str, Any]) -> Any:
        if action in refused:
            raise aws_error("UnrecognizedClientException")
        return {"SecretList": []}

    aws = secrets_manager(FakeClient(answer))
    await aws.check_credentials()
    for _ in range(3):
        with pytest.raises(NoCredentials):
            await aws.values(["team/a", "team/b"])
        assert aws.credentials_error is None
        await checked(aws)
        assert aws.credentials_error is None
    refused.add("list_secrets")
    with pytest.raises(NoCredentials):
        await aws.values(["team/a", "team/b"])
    await checked(aws)
    assert aws.credentials_error


class PartlySilent:
    """A fake AWS that does not answer for the secrets and the actions in ``silent``."""

    def __init__(self, *silent: str) -> None:
        self.silent = set(silent)
        self.client = FakeClient(self.answer)

    def answer(self, action: str, arguments: dict[str, Any]) -> Any:
        if self.silent & {action, arguments.get("SecretId")}:
            raise ReadTimeoutError(endpoint_url="")
        return {"SecretList": []} if action == "list_secrets" else value_of(arguments["SecretId"])


@pytest.mark.parametrize("proven", [True, False])
async def test_secret_that_hangs_gives_the_others_of_its_region_no_rest(proven: bool) -> None:
    aws = PartlySilent("hostile/db")
    store = secrets_manager(aws.client, trusted=False)
    if proven:
        await store.value(Source("team/db"))
    for _ in range(3 * MAX_SILENT_CALLS):
        with pytest.raises(SourceUnavailable):
            await store.value(Source("hostile/db"))
        if not proven or store._check:
            await checked(store)
        assert (await store.value(Source("team/db"))).name == "team/db"


async def test_proven_region_that_hangs_as_a_whole_rests_after_a_check() -> None:
    aws = PartlySilent()
    store = secrets_manager(aws.client, trusted=False)
    await store.value(Source("team/db"))
    aws.silent |= {"team/db", "list_secrets"}
    for _ in range(MAX_SILENT_CALLS):
        with pytest.raises(SourceUnavailable):
            await store.value(Source("team/db"))
    await checked(store)
    before = len(aws.client.calls)
    with pytest.raises(SourceUnavailable) as refused:
        await store.value(Source("team/db"))
    assert "does not answer this receiver" in str(refused.value)
    assert len(aws.client.calls) == before


async def test_secret_that_hung_stays_in_quarantine_until_aws_answers_about_it() -> None:
    aws = PartlySilent("team/db")
    store = secrets_manager(aws.client)
    with pytest.raises(SourceUnavailable):
        await store.value(Source("team/db"))
    await store.value(Source("team/other"))
    assert store.is_quarantined("team/db")
    assert not store.may_batch("team/db")
    assert store._pool("team/db", False, False) is store._pools.quarantine

    def refuse(action: str, arguments: dict[str, Any]) -> Any:
        raise aws_error("AccessDeniedException")

    aws.client.answer = refuse
    with pytest.raises(SourceRefused):
        await store.value(Source("team/db"))
    assert not store.is_quarantined("team/db")


def unproven(pools: ThreadPools, client: FakeClient, *owners: str) -> SecretsManager:
    fake: Any = client
    return SecretsManager(fake, fake, pools, Metrics(), TenantIdentity(""), StoreHealth(False), owners)


@pytest.mark.parametrize("namespaces", [1, 30])
async def test_regions_that_hang_leave_places_to_the_stores_of_others(namespaces: int) -> None:
    """Thirty regions never answer. One namespace names them all, or each of thirty namespaces names one."""
    over = threading.Event()
    pools = ThreadPools.of(2)

    def hang(action: str, arguments: dict[str, Any]) -> Any:
        over.wait(30)
        raise ConnectTimeoutError(endpoint_url="")

    reads = [
        asyncio.create_task(
            unproven(pools, FakeClient(hang), f"region r{number}", OTHER_REGIONS).value(
                Source("db"), f"hostile-{number % namespaces}"
            )
        )
        for number in range(30)
    ]
    await asyncio.sleep(0.1)
    answer = FakeClient(lambda action, arguments: value_of(arguments["SecretId"]))
    async with asyncio.timeout(2):
        role = unproven(pools, answer, namespace_owner("team"))
        assert (await role.value(Source("team/db"), "team")).name == "team/db"
        if namespaces == 1:
            region = unproven(pools, answer, "region honest", OTHER_REGIONS)
            assert (await region.value(Source("team/db"), "team")).name == "team/db"
    for each in reads:
        each.cancel()
    over.set()


async def test_calls_that_wait_while_their_region_begins_to_rest_are_not_made() -> None:
    over = threading.Event()

    def hang(action: str, arguments: dict[str, Any]) -> Any:
        over.wait(30)
        raise ConnectTimeoutError(endpoint_url="")

    client = FakeClient(hang)
    store = unproven(ThreadPools.of(2), client, "region silent", OTHER_REGIONS)
    reads = [asyncio.create_task(store.value(Source(f"s{number}"), "team")) for number in range(20)]
    await asyncio.sleep(0.1)
    over.set()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(each, SourceUnavailable) for each in results)
    assert client.actions().count("get_secret_value") == CALLS_PER_OWNER
