"""Workloads are read and marked at the paths that the table of workload kinds gives."""

from pathlib import Path
from typing import Any

import pytest

import keyturn_receiver
from keyturn_receiver.cluster.workload_client import WorkloadClient
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind

pytestmark = pytest.mark.anyio
RECEIVER = Path(keyturn_receiver.__file__).parent


class Api:
    """A fake Kubernetes client. It records the requests, and replies with a workload that reads no Secret."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []

    async def request(
        self, method: str, path: str, query: Any = None, body: Any = None, content_type: str = "application/json"
    ) -> Any:
        self.requests.append((method, path, body))
        return {"metadata": {"namespace": "team", "name": "web", "resourceVersion": "2"}}


def consumer(kind: str) -> Consumer:
    return Consumer(WorkloadRef(kind, "team", "web"), "1", {}, {}, {}, rollout_disabled=False, manual=False)


@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
async def test_kind_is_read_and_marked_at_its_path(kind: WorkloadKind) -> None:
    api = Api()
    client = WorkloadClient(api)
    await client.read(WorkloadRef(kind.kind, "team", "web"))
    await client.mark(consumer(kind.kind), RolloutAnnotation("mark", "v1", restart=False))
    path = f"/apis/apps/v1/namespaces/team/{kind.kind.lower()}s/web"
    unrestarted = {"metadata": {"resourceVersion": "1", "annotations": {"mark": "v1"}}}
    assert api.requests == [("GET", path, None), ("PATCH", path, unrestarted)]


async def test_restart_marks_the_workload_and_its_pod_template(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = WorkloadKind("Deep", "example.org/v1", "deeps", template=("spec", "workload", "template"))
    monkeypatch.setitem(WORKLOAD_KINDS, "Deep", deep)
    for kind, spec in (
        ("Deployment", {"template": {"metadata": {"annotations": {"mark": "v1"}}}}),
        ("Deep", {"workload": {"template": {"metadata": {"annotations": {"mark": "v1"}}}}}),
    ):
        api = Api()
        await WorkloadClient(api).mark(consumer(kind), RolloutAnnotation("mark", "v1", restart=True))
        ((_, _, body),) = api.requests
        assert body == {"metadata": {"resourceVersion": "1", "annotations": {"mark": "v1"}}, "spec": spec}


@pytest.mark.parametrize("kind", WORKLOAD_KINDS.values(), ids=WORKLOAD_KINDS)
def test_kind_is_named_in_the_table_alone(kind: WorkloadKind) -> None:
    names = (f'"{kind.kind}"', kind.group_version, kind.plural)
    files = [file for file in RECEIVER.rglob("*.py") if any(name in file.read_text() for name in names)]
    assert files == [RECEIVER / "core" / "workload_kinds.py"]
