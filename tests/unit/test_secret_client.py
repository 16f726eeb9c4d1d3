"""The client for single Secrets: however large a tenant's Secret is, its read does not hold up others."""

import asyncio
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest

from keyturn_receiver.cluster.fingerprint import new_fingerprint
from keyturn_receiver.cluster.secret_client import SecretClient
from keyturn_receiver.core.binding import Target
from support.bindings import KEYED, bound_object

pytestmark = pytest.mark.anyio


class Api:
    def __init__(self, obj: dict[str, Any]) -> None:
        self._obj = obj

    async def request(self, method: str, path: str, **more: object) -> dict[str, Any]:
        return self._obj


async def test_secret_with_very_many_keys_does_not_hold_up_other_tasks() -> None:
    obj = bound_object("db")
    obj["data"] = {f"key-{number}": b64encode(b"x").decode() for number in range(50_000)}
    client = SecretClient(Api(obj), new_fingerprint(), KEYED, lambda: datetime.now(UTC))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    found = await client.read(Target("team", "db"))
    task.cancel()
    assert len(found.live.fingerprints) == len(obj["data"])
    assert turns > 1  # 50,000 keys take far longer than a slice on any machine
