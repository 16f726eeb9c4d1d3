"""Argo Rollouts: how they restart, what holds that back, and which of them take another workload's pod template."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec import Raw

from keyturn_receiver.cluster.api import Json
from keyturn_receiver.cluster.consumer_cache import ConsumerCache, ConsumerIndex
from keyturn_receiver.cluster.template_borrowers import MAX_BORROWERS, Borrowers, RolloutCache
from keyturn_receiver.cluster.wanted_fields import workload_decoder
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.argo_rollouts import (
    MAX_STEPS,
    PAUSED,
    RELOADER_STRATEGY,
    STOPS,
    UNPROMOTED,
    read_argo_hold,
    restart_time,
)
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, read_consumer
from keyturn_receiver.core.reloader import ReloaderMode
from keyturn_receiver.core.restart_time import last_written
from keyturn_receiver.core.restart_way import RESTART
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, RolloutHold
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from keyturn_receiver.core.write_times import REMOVED, WriteTime
from keyturn_receiver.errors import ClusterRefused, UnknownField

ROLLOUT = WORKLOAD_KINDS["Rollout"]
DEPLOYMENT = WORKLOAD_KINDS["Deployment"]
WEB = WorkloadRef("Rollout", "team", "web")
LENDER = WorkloadRef("Deployment", "team", "web-template")
POD = {"containers": [{"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}]}
MARK = RolloutAnnotation("revision.keyturn.dev/db", "v2", restart=True)


def obj(spec: Mapping[str, Any], name: str = "web", **annotations: str) -> dict[str, Any]:
    """Return a workload. The argument ``way`` sets the annotation that chooses how the workload restarts."""
    own = {RESTART if key == "way" else key: text for key, text in annotations.items()}
    return {
        "metadata": {"namespace": "team", "name": name, "resourceVersion": "1", "uid": "u", "annotations": own},
        "spec": spec,
    }


def canary(*steps: Any) -> dict[str, Any]:
    return {"strategy": {"canary": {"steps": list(steps)}}}


@pytest.mark.parametrize(
    ("spec", "by_template", "by_time"),
    [
        ({}, None, None),
        ({"replicas": 0, "paused": True}, NO_REPLICAS, NO_REPLICAS),
        ({"paused": True}, PAUSED, None),
        ({"strategy": {"blueGreen": {}}}, None, None),
        ({"strategy": {"blueGreen": {"autoPromotionEnabled": True}}}, None, None),
        ({"strategy": {"blueGreen": {"autoPromotionEnabled": False}}}, UNPROMOTED, None),
        (canary(), None, None),
        (canary({"setWeight": 20}, {"pause": {"duration": "1h"}}), None, None),
        (canary({"setWeight": 20}, {"pause": {"duration": 60}}, {"pause": {}}), STOPS, None),
        (canary({"pause": None}), STOPS, None),
        (canary("nonsense"), None, None),
    ],
)
def test_hold_is_what_a_person_has_to_end(
    spec: dict[str, Any], by_template: RolloutHold | None, by_time: RolloutHold | None
) -> None:
    decoded = workload_decoder(ROLLOUT).decode(json.dumps(obj(spec)))
    for each in (obj(spec), decoded):
        assert read_argo_hold(each, by_time=False) == by_template
        assert read_argo_hold(each, by_time=True) == by_time


def test_very_long_list_of_steps_is_not_parsed() -> None:
    spec = canary({"pause": {}}, *[{}] * MAX_STEPS)
    decoded = workload_decoder(ROLLOUT).decode(json.dumps(obj(spec)))
    assert isinstance(decoded["spec"]["strategy"]["canary"]["steps"], Raw)
    assert read_argo_hold(decoded, by_time=False) is None


def consumer_of(workload: Mapping[str, object], mode: ReloaderMode = ReloaderMode.ABSENT) -> Consumer:
    made = read_consumer(ROLLOUT, workload, mode)
    assert made
    return made


@pytest.mark.parametrize(
    ("annotations", "mode", "by_time"),
    [
        ({}, ReloaderMode.REPLACED, False),
        ({RESTART: "template"}, ReloaderMode.ABSENT, False),
        ({RESTART: " restart-at "}, ReloaderMode.ABSENT, True),
        ({RELOADER_STRATEGY: "restart"}, ReloaderMode.REPLACED, True),
        ({RELOADER_STRATEGY: "restart"}, ReloaderMode.ABSENT, False),
        ({RELOADER_STRATEGY: "restart"}, ReloaderMode.RUNNING, False),
        ({RELOADER_STRATEGY: "rollout"}, ReloaderMode.REPLACED, False),
        ({RELOADER_STRATEGY: "restart", RESTART: "template"}, ReloaderMode.REPLACED, False),
    ],
)
def test_annotation_chooses_the_way(annotations: dict[str, str], mode: ReloaderMode, by_time: bool) -> None:
    consumer = consumer_of(obj({"template": {"spec": POD}}, **annotations), mode)
    assert consumer.by_time is by_time
    assert consumer.faults == ()


@pytest.mark.parametrize("text", ["Restart-at", "restart", "", "restartAt"])
def test_way_that_is_not_understood_restarts_nobody(text: str) -> None:
    consumer = consumer_of(obj({"template": {"spec": POD}}, way=text))
    assert consumer.switch is Switch.UNKNOWN
    assert consumer.faults == (
        f'annotation {RESTART} is "{text}": write evict, restart-at, or template, which is the default',
    )


def test_way_means_nothing_on_other_kinds() -> None:
    consumer = read_consumer(DEPLOYMENT, obj({"template": {"spec": POD}}, way="restart-at"))
    assert consumer
    assert consumer.faults == (f'annotation {RESTART} is "restart-at": write evict, or template, which is the default',)


BORROWED = {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-template"}}


def test_names_of_secrets_on_a_rollout_without_a_template_never_change_its_template() -> None:
    """A Rollout without a template of its own becomes invalid if its template gets a label or an annotation."""
    reads = {"keyturn.dev/reads": "db"}
    consumer = consumer_of(obj(BORROWED, **reads))
    assert consumer.switch is Switch.UNKNOWN
    assert "move them to that workload, or write keyturn.dev/restart: restart-at" in consumer.faults[0]
    assert consumer_of(obj(BORROWED, **reads, way="restart-at")).faults == ()
    assert read_consumer(ROLLOUT, obj(BORROWED)) is None


class Api:
    """A fake Kubernetes client with two objects. If ``refused``, it refuses the field ``restartAt`` as unknown."""

    def __init__(self, refused: bool = False) -> None:
        self.objects = {"rollouts/web": obj(BORROWED), "deployments/web-template": lent()}
        self.patches: list[tuple[str, Mapping[str, str], Json]] = []
        self._refused = refused

    async def request(
        self, method: str, path: str, query: Any = None, body: Any = None, content_type: str = "", decoder: Any = None
    ) -> Any:
        name = "/".join(path.rsplit("/", 2)[1:])
        if method == "GET":
            return self.objects[name]
        if self._refused and "restartAt" in body.get("spec", {}):
            assert query["fieldValidation"] == "Strict"
            raise UnknownField("strict decoding error")
        self.patches.append((name, query, body))
        made = self.objects[name]
        made["metadata"]["annotations"] |= body["metadata"].get("annotations", {})
        return made


def lent(replicas: int = 0) -> dict[str, Any]:
    return obj({"replicas": replicas, "template": {"spec": POD}}, "web-template")


def cached(rollout: dict[str, Any]) -> tuple[Borrowers, RolloutCache]:
    borrowers = Borrowers()
    cache = RolloutCache(ROLLOUT, ConsumerCache(ROLLOUT, ConsumerIndex()), borrowers)
    cache.update(cache.transform(workload_decoder(ROLLOUT).decode(json.dumps(rollout))))
    return borrowers, cache


@pytest.mark.anyio
async def test_rollout_is_restarted_by_time_without_a_change_of_its_template() -> None:
    api = Api()
    consumer = consumer_of(obj({"template": {"spec": POD}}, way="restart-at"))
    client = WorkloadClient(api)  # type: ignore[arg-type]
    assert client.restarts_by_time(consumer)
    await client.mark(consumer, MARK, 1767225599)
    ((name, query, body),) = api.patches
    assert (name, query) == ("rollouts/web", {"fieldManager": "keyturn", "fieldValidation": "Strict"})
    metadata = {"resourceVersion": "1", "annotations": {MARK.name: "v2"}}
    assert body == {"metadata": metadata, "spec": {"restartAt": "2026-01-01T00:00:00Z"}}


@pytest.mark.anyio
@pytest.mark.parametrize("is_borrowed", [False, True])
async def test_rollout_that_restarts_for_two_secrets_keeps_the_later_time(is_borrowed: bool) -> None:
    """Both Secrets are due, and the one that was written last is served first."""
    api, later = Api(), "1970-01-01T00:16:51Z"
    borrowers, _ = cached(obj(BORROWED, way="restart-at")) if is_borrowed else (Borrowers(), None)
    consumer = consumer_of(obj({"template": {"spec": POD}}, way="restart-at"))
    if is_borrowed:
        lender = read_consumer(DEPLOYMENT, lent())
        assert lender
        consumer = lender
    client = WorkloadClient(api, borrowers=borrowers, wall=lambda: 1060)  # type: ignore[arg-type]
    for name, written_at in (("cache", 1010), ("db", 1000)):
        await client.mark(consumer, replace(MARK, name=f"revision.keyturn.dev/{name}"), written_at)
        api.objects["rollouts/web"]["spec"] |= {"restartAt": later}
    times = [body["spec"]["restartAt"] for _, _, body in api.patches if "restartAt" in body.get("spec", {})]
    assert times == [later, later]


@pytest.mark.anyio
async def test_definition_that_lacks_the_field_is_told() -> None:
    consumer = consumer_of(obj({"template": {"spec": POD}}, way="restart-at"))
    with pytest.raises(ClusterRefused, match=r"Rollout team/web: its definition .* has no spec.restartAt: .*template"):
        await WorkloadClient(Api(refused=True)).mark(consumer, MARK, 1)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("replicas", [0, 2])
async def test_lender_of_a_template_is_marked_for_the_rollout(replicas: int) -> None:
    """With "restart-at", and if the Deployment has no pods of its own, ``restartAt`` of the Rollout is set once, and
    the mark is written on the Deployment itself. Otherwise the mark is written on the Deployment's template."""
    for way in ("template", "restart-at"):
        borrowers, _ = cached(obj(BORROWED, way=way))
        api = Api()
        api.objects["deployments/web-template"] = lent(replicas)
        client = WorkloadClient(api, borrowers=borrowers)  # type: ignore[arg-type]
        consumer = read_consumer(DEPLOYMENT, lent(replicas))
        assert consumer
        by_time = client.restarts_by_time(consumer)
        assert by_time == (way == "restart-at" and replicas == 0)
        for _ in range(2):
            marked = await client.mark(consumer, MARK, 1 if by_time else None)
            assert marked
            assert marked.hold is None
        patched = [
            (name, "restartAt" in body.get("spec", {}), "template" in body.get("spec", {}))
            for name, _, body in api.patches
        ]
        own = ("deployments/web-template", False, not by_time)
        assert patched == ([("rollouts/web", True, False), own, own] if by_time else [own, own])


@pytest.mark.anyio
async def test_rollout_that_comes_after_the_client_is_found() -> None:
    borrowers = Borrowers()
    client = WorkloadClient(Api(), borrowers=borrowers)  # type: ignore[arg-type]
    cache = RolloutCache(ROLLOUT, ConsumerCache(ROLLOUT, ConsumerIndex()), borrowers)
    cache.update(cache.transform(obj(BORROWED, way="restart-at")))
    consumer = read_consumer(DEPLOYMENT, lent())
    assert consumer
    assert client.restarts_by_time(consumer)


@pytest.mark.anyio
async def test_hold_of_a_rollout_is_told_for_the_lender_of_its_template() -> None:
    borrowers, _ = cached(obj({**BORROWED, "paused": True}))
    consumer = read_consumer(DEPLOYMENT, lent())
    assert consumer
    marked = await WorkloadClient(Api(), borrowers=borrowers).mark(consumer, MARK)  # type: ignore[arg-type]
    assert marked
    assert marked.hold == RolloutHold(f"gives its pod template to Rollout web, which {PAUSED.text}")


def test_borrowers_follow_what_is_listed_and_watched() -> None:
    borrowers, cache = cached(obj(BORROWED))
    assert [each.rollout for each in borrowers.of(LENDER)] == [WEB]
    cache.update(cache.transform(obj({"template": {"spec": POD}})))
    assert borrowers.of(LENDER) == []
    cache.replace([cache.transform(obj(BORROWED, name)) for name in ("b", "a")])
    assert [each.rollout.name for each in borrowers.of(LENDER)] == ["a", "b"]
    cache.delete(obj(BORROWED, "a"))
    assert [each.rollout.name for each in borrowers.of(LENDER)] == ["b"]
    cache.replace([], "other")
    assert len(borrowers) == 1
    cache.replace([], "team")
    assert len(borrowers) == 0
    assert borrowers.of(LENDER) == []


def test_borrowers_of_one_namespace_are_bounded() -> None:
    borrowers, cache = cached(obj(BORROWED))
    for number in range(MAX_BORROWERS + 10):
        cache.update(cache.transform(obj(BORROWED, f"r{number}")))
    assert len(borrowers) == MAX_BORROWERS
    other = obj(BORROWED)
    other["metadata"]["namespace"] = "other"
    cache.update(cache.transform(other))
    assert len(borrowers) == MAX_BORROWERS + 1


def test_rollout_with_a_template_is_a_consumer_like_any_other() -> None:
    index = ConsumerIndex()
    cache = RolloutCache(ROLLOUT, ConsumerCache(ROLLOUT, index), Borrowers())
    cache.update(cache.transform(obj({"template": {"spec": POD}})))
    assert [each.ref for each in index.of(Target("team", "db"))] == [WEB]
    cache.delete(obj({}))
    assert index.of(Target("team", "db")) == []


@pytest.mark.parametrize(
    ("reads", "times", "written"),
    [
        (Reads(whole=True), {"a": WriteTime(5), "b": WriteTime(9)}, 9),
        (Reads(keys=frozenset("a")), {"a": WriteTime(5), "b": WriteTime(9)}, 5),
        (Reads(keys=frozenset("a")), {"a": WriteTime(5), "b": WriteTime(9), REMOVED: WriteTime(7)}, 7),
        (Reads(whole=True), {"a": WriteTime(5)}, None),
        (Reads(whole=True), {"a": WriteTime(5), "b": WriteTime(None)}, None),
        (Reads(), {"a": WriteTime(5)}, None),
    ],
)
def test_time_of_a_restart_is_that_of_the_last_write(
    reads: Reads, times: dict[str, WriteTime], written: int | None
) -> None:
    record = Record(revisions={"a": "1", "b": "1"}, write_times=times)
    assert last_written(reads, record) == written


@pytest.mark.parametrize(("times", "written"), [({"a": WriteTime(5)}, 5), ({"a": WriteTime(None)}, None), ({}, 3)])
def test_key_without_a_time_was_written_at_the_latest_when_times_were_first_kept(
    times: dict[str, WriteTime], written: int | None
) -> None:
    """If this time were unknown, the receiver's own clock would give the time of each restart for such a Secret."""
    record = Record(revisions={"a": "1", "b": "1"}, write_times=times, unknown_until=3)
    assert last_written(Reads(whole=True), record) == written


def test_restart_spares_no_pod_of_the_second_of_the_write() -> None:
    assert restart_time({}, 0, now=0) == "1970-01-01T00:00:01Z"


@pytest.mark.parametrize(
    ("present", "restart_at"),
    [
        (None, "1970-01-01T00:16:41Z"),
        ("no time", "1970-01-01T00:16:41Z"),
        ("1970-01-01T00:16:40Z", "1970-01-01T00:16:41Z"),
        ("1970-01-01T00:16:42Z", "1970-01-01T00:16:42Z"),  # a Secret that was written later needs this time
        ("1970-01-01T00:18:20Z", "1970-01-01T00:18:20Z"),  # the pods restart within a minute anyway
        ("1970-01-01T00:18:21Z", "1970-01-01T00:16:41Z"),  # somebody has planned this restart, but it is too late
    ],
)
def test_restart_for_an_earlier_write_does_not_move_the_time_back(present: str | None, restart_at: str) -> None:
    rollout = {"spec": {} if present is None else {"restartAt": present}}
    assert restart_time(rollout, 1000, now=1040) == restart_at
