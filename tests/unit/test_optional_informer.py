"""Informer of a kind that the API server may not have."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from keyturn_receiver.cluster.optional_informer import OptionalInformer
from keyturn_receiver.cluster.reflector import ListWatch, Reflector
from keyturn_receiver.errors import ClusterUnavailable, NotFound

pytestmark = pytest.mark.anyio
PATH = "/apis/argoproj.io/v1alpha1/rollouts"


class Api:
    """A fake Kubernetes client whose API server has the kind while ``present`` is true."""

    def __init__(self) -> None:
        self.present = False
        self.failing = False
        self.lists = 0

    async def request(self, method: str, path: str, query: Mapping[str, str], **_: Any) -> Any:
        self.lists += 1
        if self.failing:
            raise ClusterUnavailable("down")
        if not self.present:
            raise NotFound("404")
        return {"metadata": {"resourceVersion": "1"}, "items": [b"{}"]}

    async def watch(self, *_: Any) -> AsyncIterator[Any]:
        while self.present:  # noqa: ASYNC110 - it plays a watch
            await asyncio.sleep(0.01)
        raise NotFound("404")
        yield {}


class Cache:
    """A cache that keeps what it was given last."""

    def __init__(self) -> None:
        self.items: list[Any] | None = None

    def transform(self, obj: Any) -> Any:
        return obj

    def replace(self, items: list[Any], namespace: str | None) -> None:
        self.items = list(items)

    def update(self, item: Any) -> None: ...

    def delete(self, obj: Any) -> None: ...


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is any
            await asyncio.sleep(0.01)


async def test_kind_that_comes_and_goes_is_followed_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    api, cache = Api(), Cache()
    reflector: Reflector[Any] = Reflector(api, ListWatch(PATH), cache, is_optional=True)  # type: ignore[arg-type]
    informer = OptionalInformer(reflector, cache, "rollouts", 0.05)
    with caplog.at_level(logging.INFO):
        task = asyncio.create_task(informer.run())
        await until(lambda: api.lists > 3)
        assert informer.synced.is_set()
        assert cache.items == []
        api.present = True
        await until(lambda: cache.items)
        api.present = False
        await until(lambda: cache.items == [])
        before = api.lists
        await until(lambda: api.lists > before + 3)
        task.cancel()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["the cluster does not define rollouts: looking again every 0.05 s"] * 2


async def test_api_server_that_does_not_answer_says_nothing_about_the_kind() -> None:
    api, cache = Api(), Cache()
    api.failing = True
    reflector: Reflector[Any] = Reflector(api, ListWatch(PATH), cache, is_optional=True)  # type: ignore[arg-type]
    informer = OptionalInformer(reflector, cache, "rollouts", 0.05)
    task = asyncio.create_task(informer.run())
    await until(lambda: api.lists)
    await asyncio.sleep(0.1)
    assert not informer.synced.is_set()
    api.failing = False
    await until(informer.synced.is_set)
    assert cache.items == []
    task.cancel()
