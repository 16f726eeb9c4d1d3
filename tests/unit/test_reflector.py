"""A cache that a reflector fills stays correct, whatever happens to the watches."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from keyturn_receiver.cluster.api import ReplyTooLarge
from keyturn_receiver.cluster.reflector import MAX_PAGE, ListWatch, Reflector, WatchTimeouts
from keyturn_receiver.errors import ClusterUnavailable, Expired

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class NameCache:
    """A cache that keeps only the names of objects."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def transform(self, obj: Any) -> str:
        return obj["metadata"]["name"]

    def replace(self, items: Sequence[str], namespace: str | None) -> None:
        self.names = set(items)

    def update(self, item: str) -> None:
        self.names.add(item)

    def delete(self, obj: Any) -> None:
        self.names.discard(obj["metadata"]["name"])


SILENCE = object()  # a watch that brings nothing, and which the server does not end


def named(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": named(name, version)}


class Api:
    """A fake Kubernetes client. The test determines the pages of the list, and what each watch yields or raises."""

    def __init__(self, pages: list[list[Any]], watches: list[list[Any]]) -> None:
        self.pages = pages
        self.watches = watches
        self.watched_from: list[str] = []
        self.lists = 0
        self.done = asyncio.Event()

    async def request(
        self, method: str, path: str, query: Mapping[str, str], accept: str, max_bytes: float, decoder: Any
    ) -> Any:
        if "continue" not in query:
            self.lists += 1
        number = int(query.get("continue", "0"))
        more = {"continue": str(number + 1)} if number + 1 < len(self.pages) else {}
        return {
            "metadata": {"resourceVersion": "10", **more},
            "items": [json.dumps(each) for each in self.pages[number]],
        }

    async def watch(
        self, path: str, query: Mapping[str, str], accept: str, deadline: float, decoder: Any
    ) -> AsyncIterator[Any]:
        self.watched_from.append(query["resourceVersion"])
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()
        for item in self.watches.pop(0):
            if item is SILENCE:
                await asyncio.sleep(deadline)
                raise ClusterUnavailable("the watch is silent")
            if isinstance(item, Exception):
                raise item
            yield item


async def follow(api: Api, resync: float = 3600) -> set[str]:
    """Run a reflector until all watches of the test are used up. Return the names in its cache."""
    cache = NameCache()
    timeouts = WatchTimeouts(max_delay=0.01, resync=resync)
    running = asyncio.create_task(Reflector(api, ListWatch("/api/v1/things"), cache, timeouts).run())
    await asyncio.wait_for(api.done.wait(), 600)
    running.cancel()
    return cache.names


PAGES = [[named("a", 1), named("b", 2)], [named("c", 3)]]


async def test_all_pages_of_the_list_fill_the_cache() -> None:
    api = Api(PAGES, [])
    assert await follow(api) == {"a", "b", "c"}
    assert api.watched_from == ["10"]


async def test_events_change_the_cache_and_the_next_watch_resumes_after_them() -> None:
    api = Api(PAGES, [[event("ADDED", "d", 11), event("DELETED", "a", 12), event("BOOKMARK", "", 20)], []])
    assert await follow(api) == {"b", "c", "d"}
    assert api.watched_from == ["10", "20", "20"]
    assert api.lists == 1


async def test_broken_watch_resumes_after_the_last_event_without_a_list() -> None:
    api = Api(PAGES, [[event("ADDED", "d", 11), ClusterUnavailable("cut")], [event("ADDED", "e", 12)]])
    assert await follow(api) == {"a", "b", "c", "d", "e"}
    assert api.watched_from == ["10", "11", "12"]
    assert api.lists == 1


async def test_watches_that_stay_silent_are_replaced_by_lists() -> None:
    api = Api(PAGES, [[SILENCE], [SILENCE], [SILENCE], [SILENCE], [SILENCE]])
    await follow(api)
    assert api.watched_from == ["10"] * 6
    assert api.lists == 3  # the first list, and one after every second watch


async def test_single_silent_watch_resumes_without_a_list() -> None:
    cut = ClusterUnavailable("cut")
    api = Api(PAGES, [[SILENCE], [event("ADDED", "d", 11), cut], [SILENCE], [cut], [SILENCE], []])
    assert await follow(api) == {"a", "b", "c", "d"}
    assert api.watched_from == ["10", "10", "11", "11", "11", "11", "11"]
    assert api.lists == 1


GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}


@pytest.mark.parametrize("gone", [GONE, Expired("410 Gone")], ids=["in the stream", "at once"])
async def test_410_relists_and_drops_objects_deleted_meanwhile(gone: Any) -> None:
    api = Api(PAGES, [[event("ADDED", "deleted-unseen", 11), gone]])
    assert await follow(api) == {"a", "b", "c"}
    assert api.lists == 2


async def test_error_in_the_stream_is_not_taken_for_an_object() -> None:
    error = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "reason": "InternalError"}}
    api = Api(PAGES, [[event("ADDED", "d", 11), error]])
    assert await follow(api) == {"a", "b", "c", "d"}
    assert api.watched_from == ["10", "11"]


async def test_resync_relists_and_drops_objects_whose_deletion_no_watch_reported() -> None:
    api = Api(PAGES, [[event("ADDED", "never-heard-of-again", 11)], []])
    assert await follow(api, resync=0) == {"a", "b", "c"}
    assert api.lists == 3


@pytest.mark.parametrize("is_during_a_list", [False, True])
async def test_list_that_is_asked_for_follows_the_watch_even_if_a_list_is_running(is_during_a_list: bool) -> None:
    """The objects that the running list has transformed already would otherwise keep their former form."""

    class AskingApi(Api):
        async def request(self, *arguments: Any, **options: Any) -> Any:
            if is_during_a_list and not self.lists:
                reflector.list_again()
            return await super().request(*arguments, **options)

    api = AskingApi(PAGES, [[], []])
    reflector = Reflector(api, ListWatch("/api/v1/things"), NameCache(), WatchTimeouts(max_delay=0.01, resync=3600))
    running = asyncio.create_task(reflector.run())
    if not is_during_a_list:
        await reflector.synced.wait()
        reflector.list_again()
    await asyncio.wait_for(api.done.wait(), 600)
    running.cancel()
    assert api.lists == 2


@pytest.mark.parametrize("namespace", [None, "team"])
async def test_list_of_one_namespace_replaces_that_namespace_alone(namespace: str | None) -> None:
    replaced: list[str | None] = []

    class NamespaceRecorder(NameCache):
        def replace(self, items: Sequence[str], namespace: str | None) -> None:
            replaced.append(namespace)

    api = Api(PAGES, [])
    running = asyncio.create_task(Reflector(api, ListWatch("/api/v1/things", namespace), NamespaceRecorder()).run())
    await asyncio.wait_for(api.done.wait(), 5)
    running.cancel()
    assert replaced == [namespace]


class LargeObjects(Api):
    """A fake Kubernetes client with objects of the given sizes (in bytes). Each page has as many objects as the request
    asks for."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__([], [])
        self.sizes = sizes
        self.limits: list[int] = []

    async def request(
        self, method: str, path: str, query: Mapping[str, str], accept: str, max_bytes: float, decoder: Any
    ) -> Any:
        begin, limit = int(query.get("continue", "0")), int(query["limit"])
        self.limits.append(limit)
        sizes = self.sizes[begin : begin + limit]
        if sum(sizes) > max_bytes:
            raise ReplyTooLarge
        more = {"continue": str(begin + limit)} if begin + limit < len(self.sizes) else {}
        items = [json.dumps(named(str(number), number + 1)) for number in range(begin, begin + len(sizes))]
        return {"metadata": {"resourceVersion": "10", **more}, "items": items}


async def test_large_objects_are_listed_in_smaller_pages_and_the_others_in_full_ones_again() -> None:
    api = LargeObjects([1000] * 100 + [9_000_000] * 30 + [1000] * 500)
    assert await follow(api) == {str(number) for number in range(630)}
    assert max(api.limits) == 100
    assert api.limits[-1] == 100
    assert api.limits.count(100) >= 5


async def test_object_that_is_larger_than_a_page_may_be_is_listed_alone() -> None:
    api = LargeObjects([MAX_PAGE + 1])
    assert await follow(api) == {"0"}
    assert api.limits[-1] == 1


class SlowPages(LargeObjects):
    """A fake Kubernetes client that takes too long for a page of more than ``most`` objects."""

    def __init__(self, sizes: Sequence[int], most: int) -> None:
        super().__init__(sizes)
        self.most = most

    async def request(
        self, method: str, path: str, query: Mapping[str, str], accept: str, max_bytes: float, decoder: Any
    ) -> Any:
        if int(query["limit"]) > self.most:
            self.limits.append(int(query["limit"]))
            raise ClusterUnavailable("timed out")
        return await super().request(method, path, query, accept, max_bytes, decoder)


async def test_page_that_takes_too_long_is_asked_for_again_in_smaller_parts_and_not_from_the_start() -> None:
    api = SlowPages([1000] * 200, most=10)
    assert await follow(api) == {str(number) for number in range(200)}
    too_slow = [limit for limit in api.limits if limit > api.most]
    assert len(too_slow) < 6  # after that, no page grows to a size that has failed
