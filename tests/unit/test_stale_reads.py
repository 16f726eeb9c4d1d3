"""Reads return the version that has the staging label. The version in a notification is only compared with it."""

from collections.abc import Mapping, Sequence

import pytest

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import StaleRead
from keyturn_receiver.reconcile.stale_reads import fetch
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import StoreKey

pytestmark = pytest.mark.anyio
SOURCE = Source("prod/db")
NOTHING: Mapping[str, str] = {}


class Aws:
    """Fake stores that return the versions ``reads`` one after another, and then repeat the last one."""

    def __init__(self, reads: Sequence[str], current: str) -> None:
        self.reads = [*reads]
        self.current = current
        self.described = 0
        self.since: list[float] = []

    async def read(
        self, key: StoreKey, source: Source, since: float, background: bool, namespace: str
    ) -> SecretVersion:
        self.since.append(since)
        version_id = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        return SecretVersion("arn", "prod/db", version_id, "value")

    async def describe(self, key: StoreKey, secret_id: str, since: float, namespace: str) -> SecretMetadata:
        self.described += 1
        return SecretMetadata(
            "arn", "prod/db", {self.current: frozenset({"AWSCURRENT"}), "v0": frozenset({"AWSPREVIOUS"})}
        )


async def fetched(aws: Aws, expected: set[str], recorded: Mapping[str, str] = NOTHING) -> str:
    store = StoreKey("", "eu-west-1")
    return (await fetch(aws, store, SOURCE, expected, recorded, 0.0, delays=(0.0,) * 3)).version_id


@pytest.mark.parametrize("expected", [set(), {"v2"}])
async def test_expected_version_needs_one_call(expected: set[str]) -> None:
    aws = Aws(["v2"], current="v2")
    assert await fetched(aws, expected) == "v2"
    assert aws.described == 0


async def test_version_in_the_secret_needs_one_call() -> None:
    aws = Aws(["v2"], current="v2")
    assert await fetched(aws, set(), {"arn#AWSCURRENT": "v2"}) == "v2"
    assert aws.described == 0


async def test_change_that_nobody_has_reported_is_confirmed_by_the_label() -> None:
    """Otherwise a stale read would put an older value back over the one in the Secret."""
    recorded = {"arn#AWSCURRENT": "v2", "other#AWSCURRENT": "v9"}
    aws = Aws(["v1", "v2"], current="v2")
    assert await fetched(aws, set(), recorded) == "v2"
    assert aws.described == 1
    assert await fetched(Aws(["v3"], current="v3"), set(), recorded) == "v3"
    with pytest.raises(StaleRead):
        await fetched(Aws(["v1"], current="v2"), set(), recorded)


async def test_late_notification_does_not_restore_an_old_version() -> None:
    aws = Aws(["v3"], current="v3")
    assert await fetched(aws, {"v2"}) == "v3"


async def test_rollback_to_an_old_version_is_read() -> None:
    assert await fetched(Aws(["v1"], current="v1"), {"v1"}) == "v1"


async def test_stale_read_is_repeated_until_it_agrees_with_the_label() -> None:
    aws = Aws(["v1", "v1", "v2"], current="v2")
    assert await fetched(aws, {"v2"}) == "v2"
    assert aws.described == 2


async def test_label_decides_between_several_expected_versions() -> None:
    assert await fetched(Aws(["v3"], current="v3"), {"v2", "v3"}) == "v3"


async def test_read_that_stays_stale_raises_stale_read() -> None:
    with pytest.raises(StaleRead):
        await fetched(Aws(["v1"], current="v2"), {"v2"})


async def test_repeated_read_does_not_share_the_first_result() -> None:
    aws = Aws(["v1", "v2"], current="v2")
    await fetched(aws, {"v2"})
    assert aws.since[0] < aws.since[1]  # if the times were equal, single flight would return the first result again
