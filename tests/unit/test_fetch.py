"""Reading the right version: the staging label decides, the notification is only held against it."""

from collections.abc import Sequence

import pytest

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import StaleRead
from keyturn_receiver.reconcile.fetch import fetch
from keyturn_receiver.sources.secrets_manager import SecretMetadata
from keyturn_receiver.sources.stores import StoreKey

pytestmark = pytest.mark.anyio
SOURCE = Source("prod/db")


class Aws:
    """The stores at their port: gives ``reads`` one after the other, the last one for ever."""

    def __init__(self, reads: Sequence[str], current: str) -> None:
        self.reads = [*reads]
        self.current = current
        self.described = 0
        self.since: list[float] = []

    async def read(self, key: StoreKey, source: Source, since: float, background: bool) -> SecretVersion:
        self.since.append(since)
        version_id = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        return SecretVersion("arn", "prod/db", version_id, "value")

    async def describe(self, key: StoreKey, secret_id: str, since: float) -> SecretMetadata:
        self.described += 1
        return SecretMetadata(
            "arn", "prod/db", {self.current: frozenset({"AWSCURRENT"}), "v0": frozenset({"AWSPREVIOUS"})}
        )


async def fetched(aws: Aws, expected: set[str]) -> str:
    return (await fetch(aws, StoreKey("", "eu-west-1"), SOURCE, expected, 0.0, delays=(0.0,) * 3)).version_id


@pytest.mark.parametrize("expected", [set(), {"v2"}])
async def test_what_was_told_or_nothing_told_needs_one_call(expected: set[str]) -> None:
    aws = Aws(["v2"], current="v2")
    assert await fetched(aws, expected) == "v2"
    assert aws.described == 0


async def test_a_late_notification_never_takes_anything_back() -> None:
    aws = Aws(["v3"], current="v3")
    assert await fetched(aws, {"v2"}) == "v3"


async def test_a_roll_back_to_an_old_version_is_read_as_told() -> None:
    assert await fetched(Aws(["v1"], current="v1"), {"v1"}) == "v1"


async def test_a_stale_read_is_repeated_until_it_agrees_with_the_label() -> None:
    aws = Aws(["v1", "v1", "v2"], current="v2")
    assert await fetched(aws, {"v2"}) == "v2"
    assert aws.described == 2


async def test_of_several_told_the_label_decides() -> None:
    assert await fetched(Aws(["v3"], current="v3"), {"v2", "v3"}) == "v3"


async def test_when_it_stays_stale_it_is_a_temporary_failure() -> None:
    with pytest.raises(StaleRead):
        await fetched(Aws(["v1"], current="v2"), {"v2"})


async def test_what_is_read_again_is_read_anew() -> None:
    aws = Aws(["v1", "v2"], current="v2")
    await fetched(aws, {"v2"})
    assert aws.since[0] < aws.since[1]  # else whoever joins reads of the same secret would be given the first again
