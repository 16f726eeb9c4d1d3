"""The record key: all replicas use the same one, and it stays the same."""

import asyncio
from base64 import b64decode, b64encode
from typing import Any

import pytest

from keyturn_receiver.cluster.record_key import CHECK_INTERVAL, KEY_BYTES, RecordKey, RecordKeyClient, RecordKeyMonitor
from keyturn_receiver.errors import ClusterUnavailable, Conflict, KeyturnError, NotFound

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Api:
    """The Secret of the record key, behind the port of the API client. Each call raises ``error`` if there is one."""

    def __init__(self, *texts: str) -> None:
        self.data: dict[str, str] = {"key": texts[0]} if texts else {}
        self.version = 1
        self.error: KeyturnError | None = None
        self.writes = 0

    async def request(self, method: str, path: str, query: object = None, body: Any = None, **_: object) -> Any:
        assert path == "/api/v1/namespaces/keyturn/secrets/keyturn-record-key"
        state = {"metadata": {"uid": "uid", "resourceVersion": str(self.version)}, "data": dict(self.data) or None}
        await asyncio.sleep(0)  # other replicas run in between
        if self.error:
            raise self.error
        if method == "PATCH":
            if body["metadata"]["resourceVersion"] != str(self.version):
                raise Conflict("changed")
            self.data, self.version, self.writes = body["data"], self.version + 1, self.writes + 1
        return state


class Replica:
    def __init__(self, api: Any) -> None:
        self.key, self.changes = RecordKey(), 0
        client = RecordKeyClient(api, "keyturn", "keyturn-record-key")
        self.monitor = RecordKeyMonitor(client, self.key, self._changed)
        self.task = asyncio.create_task(self.monitor.run())

    def _changed(self) -> None:
        self.changes += 1


def text(character: bytes, length: int = KEY_BYTES) -> str:
    return b64encode(character * length).decode()


async def test_replicas_that_start_together_agree_on_one_random_key() -> None:
    api = Api()
    replicas = [Replica(api) for _ in range(3)]
    for each in replicas:
        await each.monitor.synced.wait()
    assert api.writes == 1
    assert {each.key.value for each in replicas} == {b64decode(api.data["key"])}
    assert len(replicas[0].key.value) == KEY_BYTES


async def test_existing_key_is_used_and_not_written() -> None:
    api = Api(text(b"k"))
    replica = Replica(api)
    await replica.monitor.synced.wait()
    assert (replica.key.value, api.writes, replica.changes) == (b"k" * KEY_BYTES, 0, 0)


@pytest.mark.parametrize("content", ["", "!", text(b"k", 8)], ids=["empty", "malformed", "too short"])
async def test_key_that_is_none_is_replaced(content: str) -> None:
    api = Api(content)
    replica = Replica(api)
    await replica.monitor.synced.wait()
    assert replica.key.value == b64decode(api.data["key"])
    assert len(replica.key.value) == KEY_BYTES


async def test_emptied_secret_gets_its_key_back() -> None:
    api = Api()
    replica = Replica(api)
    await replica.monitor.synced.wait()
    before = replica.key.value
    api.data = {}
    await asyncio.sleep(CHECK_INTERVAL * 1.1)
    assert b64decode(api.data["key"]) == replica.key.value == before
    assert replica.changes == 0


async def test_new_key_is_used_and_reported() -> None:
    api = Api(text(b"a"))
    replica = Replica(api)
    await replica.monitor.synced.wait()
    api.data = {"key": text(b"b")}
    await asyncio.sleep(CHECK_INTERVAL * 1.1)
    assert (replica.key.value, replica.changes) == (b"b" * KEY_BYTES, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotFound("no such Secret"), "Secret keyturn/keyturn-record-key is missing: create it again, empty"),
        (ClusterUnavailable("no answer"), "the record key cannot be read: no answer"),
    ],
)
async def test_missing_key_is_waited_for_and_reported(
    error: KeyturnError, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(text(b"k"))
    api.error = error
    replica = Replica(api)
    await asyncio.sleep(30)
    assert not replica.monitor.synced.is_set()
    assert [message in record.getMessage() for record in caplog.records] == [True]  # only once in 30 s
    with pytest.raises(RuntimeError):
        replica.key(b"content")
    api.error = None
    await asyncio.sleep(2)
    assert replica.monitor.synced.is_set()
