"""Current values: one by one while they are asked for one by one, twenty at a time in a rush."""

import asyncio
from collections.abc import Sequence

import pytest

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import KeyturnError, SourceNotFound, SourceRefused, SourceUnavailable
from keyturn_receiver.sources.batch_reader import BatchReader

pytestmark = pytest.mark.anyio


class Aws:
    """Secrets Manager at its port; ``values`` answers as the test says."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.singles: list[str] = []
        self.hung: set[str] = set()
        self.fault: KeyturnError | None = None
        self.errors: dict[str, KeyturnError] = {}

    def is_quarantined(self, secret_id: str) -> bool:
        return secret_id == "suspect"

    async def value(self, source: Source) -> SecretVersion:
        self.singles.append(source.secret_id)
        await asyncio.sleep(60 if source.secret_id in self.hung else 0)
        return SecretVersion("arn", source.secret_id, "v1", "single")

    async def values(self, secret_ids: Sequence[str]) -> dict[str, SecretVersion | KeyturnError]:
        self.batches.append(list(secret_ids))
        await asyncio.sleep(60 if self.hung & set(secret_ids) else 0)
        if self.fault:
            raise self.fault
        versions = {each: SecretVersion("arn", each, "v1", "many") for each in secret_ids if each != "silence"}
        return {**versions, **{each: error for each, error in self.errors.items() if each in secret_ids}}


async def read(values: BatchReader, *secret_ids: str, stage: str = "AWSCURRENT") -> list[str]:
    versions = await asyncio.gather(*(values.read(Source(each, stage)) for each in secret_ids))
    return [str(version.value) for version in versions]


async def test_one_is_read_by_itself() -> None:
    aws = Aws()
    assert await read(BatchReader(aws), "a") == ["single"]
    assert aws.batches == []


async def test_a_rush_is_read_twenty_at_a_time() -> None:
    aws = Aws()
    names = [f"s{number}" for number in range(100)]
    assert await read(BatchReader(aws), *names) == ["many"] * 100
    assert [len(batch) for batch in aws.batches] == [20] * 5
    assert aws.singles == []


async def test_an_error_of_one_is_its_own() -> None:
    aws = Aws()
    aws.errors["b"] = SourceNotFound("b does not exist")
    values = BatchReader(aws)
    results = await asyncio.gather(*(values.read(Source(each)) for each in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [SecretVersion, SourceNotFound, SecretVersion]


async def test_what_aws_says_nothing_about_is_asked_for_by_itself() -> None:
    aws = Aws()
    assert await read(BatchReader(aws), "a", "silence") == ["many", "single"]


async def test_without_the_right_to_read_many_each_is_read_by_itself_from_then_on() -> None:
    aws = Aws()
    aws.fault = SourceRefused("BatchGetSecretValue may not be called")
    values = BatchReader(aws)
    assert await read(values, "a", "b") == ["single"] * 2
    assert await read(values, "a", "b") == ["single"] * 2
    assert len(aws.batches) == 1


async def test_a_failed_call_for_many_fails_nobody() -> None:
    aws = Aws()
    aws.fault = SourceUnavailable("throttled")
    assert await read(BatchReader(aws), "a", "b") == ["single"] * 2


async def test_one_that_hangs_keeps_those_beside_it_waiting_for_a_moment_only() -> None:
    aws = Aws()
    aws.hung = {"hung"}
    values = BatchReader(aws)
    hung = asyncio.ensure_future(values.read(Source("hung")))
    async with asyncio.timeout(5):
        assert await read(values, "a", "b") == ["single"] * 2
    hung.cancel()


async def test_one_that_has_hung_and_other_labels_are_never_read_with_others() -> None:
    aws = Aws()
    values = BatchReader(aws)
    await asyncio.gather(read(values, "a", "b"), read(values, "suspect"), read(values, "blue", stage="blue"))
    assert aws.batches == [["a", "b"]]
    assert sorted(aws.singles) == ["blue", "suspect"]


async def test_calls_that_hang_keep_nobody_from_setting_out() -> None:
    aws = Aws()
    aws.hung = {f"hung{number}" for number in range(10)}
    values = BatchReader(aws)
    hung = []
    for name in aws.hung:
        hung.append(asyncio.ensure_future(values.read(Source(name))))
        await asyncio.sleep(0.03)
    async with asyncio.timeout(1):
        assert await read(values, "a") == ["single"]
    for each in hung:
        each.cancel()


async def test_who_is_patient_waits_for_company_and_who_is_not_takes_it_along() -> None:
    aws = Aws()
    values = BatchReader(aws)
    patient = [asyncio.ensure_future(values.read(Source(name), background=True)) for name in "abc"]
    await asyncio.sleep(0.02)
    assert aws.batches == []
    assert await read(values, "d") == ["many"]
    assert [str(version.value) for version in await asyncio.gather(*patient)] == ["many"] * 3
    assert aws.batches == [["a", "b", "c", "d"]]
