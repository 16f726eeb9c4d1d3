"""Reading the right version: the staging label decides, the notification is only held against it."""

from collections.abc import Mapping, Sequence

import pytest

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import StaleRead
from keyturn_receiver.reconcile.fetch import fetch

pytestmark = pytest.mark.anyio
SOURCE = Source("prod/db")
AT_ONCE = (0.0,) * 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Aws:
    """Secrets Manager at its port: gives ``reads`` one after the other, the last one for ever."""

    def __init__(self, reads: Sequence[str], current: str) -> None:
        self.reads = [*reads]
        self.current = current
        self.described = 0

    async def read(self, source: Source) -> SecretVersion:
        version_id = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        return SecretVersion("arn", "prod/db", version_id, "value")

    async def stages(self, secret_id: str) -> Mapping[str, frozenset[str]]:
        self.described += 1
        return {self.current: frozenset({"AWSCURRENT"}), "v0": frozenset({"AWSPREVIOUS"})}


@pytest.mark.parametrize("expected", [set(), {"v2"}])
async def test_what_was_told_or_nothing_told_needs_one_call(expected: set[str]) -> None:
    aws = Aws(["v2"], current="v2")
    assert (await fetch(aws, SOURCE, expected, AT_ONCE)).version_id == "v2"
    assert aws.described == 0


async def test_a_late_notification_never_takes_anything_back() -> None:
    aws = Aws(["v3"], current="v3")
    assert (await fetch(aws, SOURCE, {"v2"}, AT_ONCE)).version_id == "v3"


async def test_a_roll_back_to_an_old_version_is_read_as_told() -> None:
    assert (await fetch(Aws(["v1"], current="v1"), SOURCE, {"v1"}, AT_ONCE)).version_id == "v1"


async def test_a_stale_read_is_repeated_until_it_agrees_with_the_label() -> None:
    aws = Aws(["v1", "v1", "v2"], current="v2")
    assert (await fetch(aws, SOURCE, {"v2"}, AT_ONCE)).version_id == "v2"
    assert aws.described == 2


async def test_of_several_told_the_label_decides() -> None:
    assert (await fetch(Aws(["v3"], current="v3"), SOURCE, {"v2", "v3"}, AT_ONCE)).version_id == "v3"


async def test_when_it_stays_stale_it_is_a_temporary_failure() -> None:
    with pytest.raises(StaleRead):
        await fetch(Aws(["v1"], current="v2"), SOURCE, {"v2"}, AT_ONCE)
