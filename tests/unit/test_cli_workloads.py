"""Lists of workloads and pods: which pods count as those of a workload."""

from collections.abc import Iterator
from typing import Any

import pytest

from keyturn_cli.cluster import Cluster
from keyturn_cli.errors import NotFound
from keyturn_cli.release import Settings
from keyturn_cli.sight import Sight

SPEC = {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}


def pod(replica_set: str, label: str, value: str) -> dict[str, Any]:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "controller": True}
    return {
        "metadata": {"name": f"{replica_set}-x", "labels": {label: value}, "ownerReferences": [owner]},
        "spec": SPEC,
    }


def workload(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name, "uid": name, "resourceVersion": "1"}, "spec": spec}


class FakeCluster(Cluster):
    """Two Deployments, and a Rollout that takes its pod template from the first one."""

    def __init__(self) -> None:
        """Connect to nothing."""

    def list(self, path: str, *args: Any, **_: Any) -> Iterator[Any]:
        resource = path.rpartition("/")[2]
        if resource == "deployments":
            yield from (workload(name, {"template": {"spec": SPEC}}) for name in ("web", "web-canary"))
        elif resource == "rollouts":
            yield workload("shop", {"workloadRef": {"kind": "Deployment", "name": "web"}})
        elif resource == "pods":
            yield pod("web-5d", "pod-template-hash", "5d")
            yield pod("web-canary-6c", "pod-template-hash", "6c")
            yield pod("shop-7b", "rollouts-pod-template-hash", "7b")
        else:
            raise NotFound(path)


@pytest.mark.parametrize("argo", [True, False])
def test_pods_of_a_workload_are_its_own_and_those_of_rollouts_with_its_template(argo: bool) -> None:
    sight = Sight(FakeCluster(), Settings(argo_rollouts=argo))
    pods = {each.ref.name: [pod.name for pod in sight.pods(each) or ()] for each in sight.consumers("team")}
    assert pods == {"web": ["web-5d-x", *(["shop-7b-x"] if argo else [])], "web-canary": ["web-canary-6c-x"]}
