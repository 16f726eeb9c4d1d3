"""Workloads are read and marked at the paths that the table of workload kinds gives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import keyturn_receiver
from keyturn_receiver.cluster.api import ReplyTooLarge
from keyturn_receiver.cluster.object_pages import MAX_PAGE, PAGE_SIZE
from keyturn_receiver.cluster.workload_client import MAX_CRASH_PODS, WorkloadClient
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name, read_consumer
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind

pytestmark = pytest.mark.anyio
RECEIVER = Path(keyturn_receiver.__file__).parent


class Api:
    """A fake Kubernetes client. It records the requests, and replies with a workload that reads no Secret."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.queries: list[Any] = []

    async def request(
        self,
        method: str,
        path: str,
        query: Any = None,
        body: Any = None,
        content_type: str = "application/json",
        decoder: Any = None,
    ) -> Any:
        self.requests.append((method, path, body))
        self.queries.append(query)
        return {"metadata": {"namespace": "team", "name": "web", "resourceVersion": "2"}}


def consumer(kind: str) -> Consumer:
    return Consumer(WorkloadRef(kind, "team", "web"), "1", {}, {}, {}, switch=Switch.UNSET)


@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
async def test_kind_is_read_and_marked_at_its_path(kind: WorkloadKind) -> None:
    api = Api()
    client = WorkloadClient(api)
    await client.read(WorkloadRef(kind.kind, "team", "web"))
    await client.mark(consumer(kind.kind), RolloutAnnotation("mark", "v1", restart=False))
    path = f"/apis/{kind.group_version}/namespaces/team/{kind.kind.lower()}s/web"
    unrestarted = {"metadata": {"resourceVersion": "1", "annotations": {"mark": "v1"}}}
    assert api.requests == [("GET", path, None), ("PATCH", path, unrestarted)]


async def test_restart_marks_the_pod_template_alone_and_takes_the_settled_mark_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = WorkloadKind("Deep", "example.org/v1", "deeps", template=("spec", "workload", "template"))
    monkeypatch.setitem(WORKLOAD_KINDS, "Deep", deep)
    for kind, spec in (
        ("Deployment", {"template": {"metadata": {"annotations": {"mark": "v1"}}}}),
        ("Deep", {"workload": {"template": {"metadata": {"annotations": {"mark": "v1"}}}}}),
    ):
        api = Api()
        client, mark = WorkloadClient(api), RolloutAnnotation("mark", "v1", restart=True)
        await client.mark(consumer(kind), mark)
        await client.mark(replace(consumer(kind), baseline={"mark": "v0", "other": "v0"}), mark)
        bodies = [body for _, _, body in api.requests]
        assert bodies == [
            {"metadata": {"resourceVersion": "1"}, "spec": spec},
            {"metadata": {"resourceVersion": "1", "annotations": {"mark": None}}, "spec": spec},
        ]


async def test_mark_that_restarts_nobody_has_a_field_manager_of_its_own() -> None:
    """Otherwise its write would move the time at which Keyturn has restarted the workload."""
    api = Api()
    for restart in (True, False):
        await WorkloadClient(api).mark(consumer("Deployment"), RolloutAnnotation("mark", "v1", restart))
    assert [query["fieldManager"] for query in api.queries] == ["keyturn", "keyturn-settled"]


@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
def test_kind_is_named_in_the_table_alone(kind: WorkloadKind) -> None:
    # The plural of Argo's Rollout is left out, because it is also an ordinary word.
    names = (f'"{kind.kind}"', kind.group_version, *([] if kind.is_custom else [kind.plural]))
    files = [file for file in RECEIVER.rglob("*.py") if any(name in file.read_text() for name in names)]
    assert files == [RECEIVER / "core" / "workload_kinds.py"]


class PodApi:
    """A fake Kubernetes client with one workload and its pods. A page of more than ``max_pods`` pods is too large."""

    def __init__(self, selector: dict[str, Any], pods: int, max_pods: int = PAGE_SIZE) -> None:
        owner = {"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": "web-1"}
        metadata = {"creationTimestamp": "1970-01-01T00:00:01Z", "ownerReferences": [owner]}
        metadata["labels"] = {"pod-template-hash": "1"}
        metadata_of = {"uid": "web", "namespace": "team", "name": "web", "resourceVersion": "1"}
        self._workload: dict[str, Any] = {"metadata": metadata_of, "spec": {"selector": selector}}
        self._pods = [{"metadata": metadata, "spec": {}}] * pods
        self._max_pods = max_pods
        self.queries: list[dict[str, str]] = []

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the workload, for a test to change."""
        return self._workload["metadata"].setdefault("annotations", {})

    async def request(
        self, method: str, path: str, query: Any = None, max_bytes: float = 0, decoder: Any = None
    ) -> Any:
        if not path.endswith("/pods"):
            return self._workload
        self.queries.append(dict(query))
        limit, first = int(query["limit"]), int(query.get("continue", 0))
        assert max_bytes == (MAX_PAGE if limit > 1 else float("inf"))
        if limit > self._max_pods:
            raise ReplyTooLarge
        metadata = {"continue": str(first + limit)} if first + limit < len(self._pods) else {}
        return {"metadata": metadata, "items": [json.dumps(each) for each in self._pods[first : first + limit]]}


async def pods_of(api: Any) -> list[Pod]:
    client = WorkloadClient(api)
    return [pod async for pod in client.pods(await client.inspect(WorkloadRef("Deployment", "team", "web"), "mark"))]


@pytest.mark.parametrize(
    ("selector", "query"),
    [
        ({"matchLabels": {"app": "web", "tier": "front"}}, "app=web,tier=front"),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}, "app in (a,b)"),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, "app notin (a)"),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, "app"),
        (
            {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]},
            "a=1,!app",
        ),
    ],
)
async def test_pods_are_listed_by_the_selector_of_the_workload(selector: dict[str, Any], query: str) -> None:
    api = PodApi(selector, 1)
    assert len(await pods_of(api)) == 1
    assert [each["labelSelector"] for each in api.queries] == [query]


@pytest.mark.parametrize("max_pods", [PAGE_SIZE, 5, 1])
async def test_pods_are_listed_in_pages_that_fit_into_memory(max_pods: int) -> None:
    api = PodApi({"matchLabels": {"app": "web"}}, 2 * PAGE_SIZE + 1, max_pods)
    assert len(await pods_of(api)) == 101


async def test_pods_read_the_secrets_that_their_workload_names() -> None:
    api = PodApi({"matchLabels": {"app": "web"}}, 1)
    api.annotations["keyturn.dev/reads"] = "db"
    assert [pod.reads for pod in await pods_of(api)] == [{"db": Reads(whole=True)}]


class CrashApi(PodApi):
    """A workload that was restarted for the Secret `db`, and whose pods each read it."""

    def __init__(self) -> None:
        super().__init__({"matchLabels": {"app": "web"}}, 0)
        container = {"name": "main", "envFrom": [{"secretRef": {"name": "db"}}]}
        self._spec: dict[str, Any] = {"containers": [container]}
        self._workload["spec"]["template"] = {"metadata": {"annotations": {mark_name("db"): "v2"}}, "spec": self._spec}

    def add_pods(self, count: int, mark: str, reason: str = "", owner: str = "web-1") -> None:
        owners = [{"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": owner}]
        metadata: dict[str, Any] = {"creationTimestamp": "1970-01-01T00:00:01Z", "ownerReferences": owners}
        metadata |= {"labels": {"pod-template-hash": "1"}, "annotations": {mark_name("db"): mark}}
        containers = [{"restartCount": 3, "state": {"waiting": {"reason": reason}}}] if reason else []
        status: dict[str, Any] = {"containerStatuses": containers}
        self._pods += [{"metadata": metadata, "spec": self._spec, "status": status}] * count

    async def crash_reason(self, mark: str = "v2") -> str | None:
        api: Any = self
        restarted = read_consumer(WORKLOAD_KINDS["Deployment"], self._workload)
        assert restarted
        consumer = replace(restarted, marks={mark_name("db"): mark})
        return await WorkloadClient(api).crash_reason(consumer, 1000.0, False)


async def test_crash_of_a_new_pod_is_found_behind_many_others() -> None:
    api = CrashApi()
    api.add_pods(2 * PAGE_SIZE, "v1")
    api.add_pods(PAGE_SIZE, "v2")
    api.add_pods(1, "v2", "CrashLoopBackOff")
    assert await api.crash_reason() == "CrashLoopBackOff"
    assert await api.crash_reason("v1") is None  # the workload has another mark by now


async def test_crash_of_an_old_pod_or_of_a_pod_of_another_workload_does_not_count() -> None:
    api = CrashApi()
    api.add_pods(1, "v1", "CrashLoopBackOff")
    api.add_pods(1, "v2", "CrashLoopBackOff", owner="other-1")
    api.add_pods(1, "v2", "ImagePullBackOff")
    assert await api.crash_reason() == ""


async def test_crash_is_looked_for_in_so_many_pods_alone() -> None:
    api = CrashApi()
    api.add_pods(10 * MAX_CRASH_PODS, "v1")
    assert await api.crash_reason() == ""
    assert len(api.queries) == MAX_CRASH_PODS // PAGE_SIZE
