"""Namespaces: the annotations of a former namespace do not count for the Secrets of a later one of the same name."""

import asyncio
import itertools
import time
from typing import Any

import pytest

from keyturn_receiver.cluster.namespace_cache import NamespaceCache, NamespaceReader, NamespaceView
from keyturn_receiver.core.policy import ALLOW_SECRETS
from keyturn_receiver.errors import ClusterUnavailable, NotFound

pytestmark = pytest.mark.anyio


def namespace(uid: str, version: int, allowed: str | None = None) -> dict[str, Any]:
    annotations = {"other": "x"} if allowed is None else {ALLOW_SECRETS: allowed}
    return {"metadata": {"name": "team", "uid": uid, "resourceVersion": str(version), "annotations": annotations}}


class Cluster:
    """A fake API server with one namespace, ``current``, which may be None."""

    def __init__(self, current: dict[str, Any] | None) -> None:
        self.current = current
        self.reads = 0
        self.error: Exception | None = None

    async def request(self, method: str, path: str, accept: str = "") -> dict[str, Any]:
        assert (method, path) == ("GET", "/api/v1/namespaces/team")
        self.reads += 1
        current = self.current
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        if current is None:
            raise NotFound("team")
        return current


class Setting:
    """A cache with its reader. ``changes`` has the names that the cache's handler was told."""

    def __init__(self, current: dict[str, Any] | None) -> None:
        self.cluster, self.cache = Cluster(current), NamespaceCache()
        api: Any = self.cluster
        self.reader = NamespaceReader(api, self.cache)
        self.changes: list[str] = []
        self.cache.add_handler(self.changes.append)

    def watch(self, obj: dict[str, Any]) -> None:
        self.cache.update(self.cache.transform(obj))

    @property
    def allowed(self) -> str | None:
        return self.cache.annotations("team").get(ALLOW_SECRETS)


FORMER, LATTER = namespace("1", 100, "former/*"), namespace("2", 200, "latter/*")


async def test_namespace_that_is_created_again_is_read_once_for_the_secrets_that_it_has() -> None:
    setting = Setting(FORMER)
    setting.watch(FORMER)
    first_seen = time.monotonic()
    for _ in range(3):
        await setting.reader.confirm("team", first_seen)
    assert (setting.cluster.reads, setting.allowed) == (1, "former/*")
    setting.cluster.current = LATTER  # the watch does not show the new namespace
    await setting.reader.confirm("team", first_seen)  # for a Secret of the former namespace
    assert setting.cluster.reads == 1
    later_seen = time.monotonic()
    await asyncio.gather(*(setting.reader.confirm("team", later_seen) for _ in range(50)))
    assert (setting.cluster.reads, setting.allowed) == (2, "latter/*")
    assert setting.changes == ["team", "team"]


@pytest.mark.parametrize("latter", [LATTER, namespace("2", 200)], ids=["with annotations", "without"])
async def test_late_events_about_the_former_namespace_undo_nothing(latter: dict[str, Any]) -> None:
    setting = Setting(latter)
    setting.watch(FORMER)
    await setting.reader.confirm("team", time.monotonic())
    wanted = latter["metadata"]["annotations"].get(ALLOW_SECRETS)
    assert setting.allowed == wanted
    # The watch is well again, and delivers everything that it has kept back.
    setting.watch(namespace("1", 150, "more/*"))
    assert setting.allowed == wanted
    setting.cache.delete(namespace("1", 160, "more/*"))
    assert setting.allowed == wanted
    setting.watch(namespace("2", 170, "early/*"))
    assert setting.allowed == wanted
    await setting.reader.confirm("team", 0.0)
    assert setting.cluster.reads == 1
    setting.watch(namespace("2", 300, "newest/*"))
    assert setting.allowed == "newest/*"


async def test_whatever_the_order_of_events_a_former_namespace_is_never_believed_without_a_read() -> None:
    """Versions that are no numbers cannot be compared. So a namespace that may not be the Secret's is read again."""
    events = [("update", "1"), ("delete", "1"), ("update", "2"), ("list", "1"), ("list", "2")]
    for order in itertools.permutations(events, 3):
        setting = Setting(namespace("2", 0, "latter/*"))
        first_seen = time.monotonic()
        await setting.reader.confirm("team", first_seen)
        for kind, uid in order:
            obj = namespace(uid, 0, "former/*" if uid == "1" else "latter/*")
            obj["metadata"]["resourceVersion"] = "opaque"
            if kind == "delete":
                setting.cache.delete(obj)
            elif kind == "list":
                setting.cache.replace([setting.cache.transform(obj)])
            else:
                setting.watch(obj)
        await setting.reader.confirm("team", first_seen)
        assert setting.allowed == "latter/*", order


async def test_namespace_that_is_gone_allows_nothing() -> None:
    setting = Setting(None)
    setting.watch(FORMER)
    await setting.reader.confirm("team", time.monotonic())
    assert setting.allowed is None
    assert setting.changes == ["team", "team"]


async def test_failed_read_is_not_remembered() -> None:
    setting = Setting(FORMER)
    setting.cluster.error = ClusterUnavailable("the API server does not answer")
    first_seen = time.monotonic()
    for _ in range(2):
        with pytest.raises(ClusterUnavailable):
            await setting.reader.confirm("team", first_seen)
    setting.cluster.error = None
    await setting.reader.confirm("team", first_seen)
    assert setting.cluster.reads == 3


def test_namespace_without_annotations_and_without_secrets_takes_no_memory() -> None:
    cache = NamespaceCache()
    for number in range(100):
        cache.update(NamespaceView(f"n{number}", uid="uid", resource_version="1"))
        cache.update(NamespaceView(f"m{number}", {ALLOW_SECRETS: "x"}, "uid", resource_version="1"))
        cache.update(NamespaceView(f"m{number}", uid="uid", resource_version="2"))
    assert cache._entries == {}


def test_list_drops_namespaces_that_are_gone() -> None:
    setting = Setting(None)
    setting.watch(FORMER)
    setting.cache.replace([NamespaceView("another", {ALLOW_SECRETS: "x"}, "3", resource_version="1")])
    assert setting.allowed is None
    assert setting.changes == ["team", "team", "another"]
