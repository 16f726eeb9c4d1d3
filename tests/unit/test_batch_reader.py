"""The batch loader reads a few values with single calls, and many values with batch calls of up to twenty."""

import asyncio
from collections.abc import Sequence

import pytest

from keyturn_receiver.core.binding import Source
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.errors import ActionDenied, KeyturnError, SourceNotFound, SourceRefused, SourceUnavailable
from keyturn_receiver.sources.batch_reader import BATCH_DISABLED_SECONDS, BatchReader

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Aws:
    """A fake Secrets Manager. The test determines which calls hang and which fail."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.singles: list[str] = []
        self.hung: set[str] = set()
        self.fault: KeyturnError | None = None
        self.errors: dict[str, KeyturnError] = {}
        self.poison: set[str] = set()  # AWS refuses each batch that contains one of these

    def may_batch(self, secret_id: str) -> bool:
        return secret_id not in ("quarantined", "foreign")

    async def value(self, source: Source, namespace: str) -> SecretVersion:
        self.singles.append(source.secret_id)
        await asyncio.sleep(60 if source.secret_id in self.hung else 0)
        if source.secret_id in self.errors:
            raise self.errors[source.secret_id]
        return SecretVersion("arn", source.secret_id, "v1", "single")

    async def values(self, secret_ids: Sequence[str], namespace: str) -> dict[str, SecretVersion]:
        self.batches.append(list(secret_ids))
        await asyncio.sleep(60 if self.hung & set(secret_ids) else 0)
        if self.fault:
            raise self.fault
        if self.poison & set(secret_ids):
            raise SourceRefused("BatchGetSecretValue is refused (InvalidParameterException)")
        omitted = {"omitted", *self.errors}
        return {each: SecretVersion("arn", each, "v1", "many") for each in secret_ids if each not in omitted}


async def read(reader: BatchReader, *secret_ids: str, stage: str = "AWSCURRENT") -> list[str]:
    versions = await asyncio.gather(*(reader.read(Source(each, stage)) for each in secret_ids))
    return [str(version.value) for version in versions]


async def test_single_read_uses_no_batch() -> None:
    aws = Aws()
    assert await read(BatchReader(aws), "a") == ["single"]
    assert aws.batches == []


async def test_many_reads_are_batched_by_twenty() -> None:
    aws = Aws()
    names = [f"s{number}" for number in range(100)]
    assert await read(BatchReader(aws), *names) == ["many"] * 100
    assert [len(batch) for batch in aws.batches] == [20] * 5
    assert aws.singles == []


async def test_error_of_one_secret_fails_only_its_read() -> None:
    aws = Aws()
    aws.errors["b"] = SourceNotFound("b does not exist")
    reader = BatchReader(aws)
    results = await asyncio.gather(*(reader.read(Source(each)) for each in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [SecretVersion, SourceNotFound, SecretVersion]
    assert aws.singles == ["b"]  # b is missing in the batch's reply, so it was read alone


async def test_secret_missing_in_the_response_is_read_alone() -> None:
    aws = Aws()
    assert await read(BatchReader(aws), "a", "omitted") == ["many", "single"]


async def test_denied_batch_disables_further_batches() -> None:
    aws = Aws()
    aws.fault = ActionDenied("BatchGetSecretValue may not be called")
    reader = BatchReader(aws)
    assert await read(reader, "a", "b") == ["single"] * 2
    assert await read(reader, "a", "b") == ["single"] * 2
    assert len(aws.batches) == 1


async def test_batch_refused_because_of_one_secret_is_split_and_batches_go_on() -> None:
    aws = Aws()
    aws.poison = {"s13"}
    names = [f"s{number}" for number in range(20)]
    reader = BatchReader(aws)
    values = await read(reader, *names)
    assert set(values) == {"many", "single"}
    assert "s13" in aws.singles
    assert len(aws.singles) <= 3
    aws.batches.clear()
    assert "many" in await read(reader, *names)
    assert all("s13" not in batch for batch in aws.batches)
    assert len(aws.batches) == 1


async def test_secret_that_failed_a_batch_joins_batches_again_after_ten_minutes() -> None:
    aws = Aws()
    aws.poison = {"a"}
    reader = BatchReader(aws)
    assert await read(reader, "a", "b") == ["single"] * 2
    aws.poison.clear()
    assert await read(reader, "a", "b") == ["single"] * 2
    await asyncio.sleep(BATCH_DISABLED_SECONDS)
    assert await read(reader, "a", "b") == ["many"] * 2


async def test_failed_batch_falls_back_to_single_reads() -> None:
    aws = Aws()
    aws.fault = SourceUnavailable("throttled")
    assert await read(BatchReader(aws), "a", "b") == ["single"] * 2


async def test_batch_that_hangs_times_out_and_falls_back_to_single_reads() -> None:
    aws = Aws()
    aws.hung = {"hung"}
    reader = BatchReader(aws)
    hung = asyncio.ensure_future(reader.read(Source("hung")))
    async with asyncio.timeout(5):
        assert await read(reader, "a", "b") == ["single"] * 2
    hung.cancel()


async def test_quarantined_and_foreign_secrets_and_other_labels_are_never_batched() -> None:
    aws = Aws()
    reader = BatchReader(aws)
    await asyncio.gather(
        read(reader, "a", "b"), read(reader, "quarantined", "foreign"), read(reader, "blue", stage="blue")
    )
    assert aws.batches == [["a", "b"]]
    assert sorted(aws.singles) == ["blue", "foreign", "quarantined"]


async def test_calls_that_hang_do_not_delay_other_reads() -> None:
    aws = Aws()
    aws.hung = {f"hung{number}" for number in range(10)}
    reader = BatchReader(aws)
    hung = []
    for name in aws.hung:
        hung.append(asyncio.ensure_future(reader.read(Source(name))))
        await asyncio.sleep(0.03)
    async with asyncio.timeout(1):
        assert await read(reader, "a") == ["single"]
    for each in hung:
        each.cancel()


async def test_foreground_read_takes_waiting_background_reads_into_its_batch() -> None:
    aws = Aws()
    reader = BatchReader(aws)
    background = [asyncio.ensure_future(reader.read(Source(name), background=True)) for name in "abc"]
    await asyncio.sleep(0.02)
    assert aws.batches == []
    assert await read(reader, "d") == ["many"]
    assert [str(version.value) for version in await asyncio.gather(*background)] == ["many"] * 3
    assert aws.batches == [["a", "b", "c", "d"]]
