"""Upgrades with the real Helm: to other values and back, and from the previous version and back to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helm_python.errors import HelmError

from keyturn_local.kubernetes.chart import SOME_KEY
from keyturn_local.kubernetes.cluster import Cluster
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.helm import Helm, helm_in_namespace
from support.wait import eventually

RELEASED = Path(__file__).parents[1] / "released" / "keyturn-0.1.0"


@pytest.fixture
def helm(control_plane: ControlPlane) -> Iterator[Helm]:
    with helm_in_namespace(control_plane) as made:
        yield made


def test_upgrade_with_the_same_values_changes_nothing(helm: Helm) -> None:
    helm.install()
    before = helm.object_versions()
    assert {kind for kind, _ in before} >= {"Deployment", "ReplicaSet", "Pod", "Service", "ClusterRole", "Lease"}
    assert helm.upgrade()["revision"] == 2
    assert helm.object_versions() == before


def test_upgrade_replaces_the_pods_and_a_rollback_restores_them(helm: Helm) -> None:
    helm.install()
    (first,), old = helm.cluster.list("deployments", helm.namespace), helm.ready_pods()
    helm.upgrade({**SOME_KEY, "logLevel": "DEBUG", "podLabels": {"example.com/mesh": "off"}})
    eventually(lambda: len(helm.ready_pods()) == 2)
    assert not helm.ready_pods() & old
    assert len(helm.cluster.list("replicasets", helm.namespace)) == 2
    helm.roll_back()
    (last,) = helm.cluster.list("deployments", helm.namespace)
    assert last["spec"] == first["spec"]
    assert last["metadata"]["labels"] == first["metadata"]["labels"]
    assert len(helm.cluster.list("replicasets", helm.namespace)) == 2  # the first ReplicaSet is used again


def test_upgrade_without_ready_receivers_removes_no_old_one(helm: Helm) -> None:
    helm.install()
    before = helm.ready_pods()
    with pytest.raises(HelmError, match="deadline"):
        helm.upgrade({**SOME_KEY, "podAnnotations": {"keyturn.dev/ready-after": "never"}}, timeout=3)
    assert len(helm.cluster.list("pods", helm.namespace)) == 3
    assert helm.ready_pods() == before
    helm.roll_back()
    assert helm.ready_pods() == before


# The values that an installation of 0.1.0 has, and that are set again when it is upgraded.
CARRIED: dict[str, Any] = {
    "serviceAccount": {
        "name": "keyturn",
        "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/keyturn"},
    },
    "tenantRoles": {"enabled": True},
}


@pytest.mark.long
@pytest.mark.parametrize("release", ["keyturn", "rotation"])
def test_release_0_1_0_is_upgraded_rolled_back_and_upgraded_again(helm: Helm, namespace: str, release: str) -> None:
    carried = {**CARRIED, "namespaces": [namespace]}
    before = helm.inventory(namespace)
    assert helm.install(carried, release, RELEASED)["chart_version"] == "0.1.0"
    made_by_receivers(helm.cluster, helm.namespace)
    old = rights(helm, namespace)
    for _ in range(2):
        assert helm.upgrade({**SOME_KEY, **carried}, name=release)["chart_version"] != "0.1.0"
        assert len(helm.ready_pods()) == 2
        new = rights(helm, namespace)
        assert new["ServiceAccount"]["metadata"]["uid"] == old["ServiceAccount"]["metadata"]["uid"]
        assert (
            new["ServiceAccount"]["metadata"]["annotations"].items() >= CARRIED["serviceAccount"]["annotations"].items()
        )
        assert ["serviceaccounts/token"] in [rule["resources"] for rule in new["Role"]["rules"]]
        helm.roll_back(1, release)
        eventually(lambda: not helm.ready_pods())
        assert meaning(rights(helm, namespace)) == meaning(old)
    helm.upgrade({**SOME_KEY, **carried}, name=release)
    helm.uninstall(release)
    helm.cluster.kubectl("delete", "leases", "-n", helm.namespace, "-l", "made-by=receivers")
    eventually(lambda: not helm.inventory(namespace) - before)


def made_by_receivers(cluster: Cluster, namespace: str) -> None:
    """Create the Leases that receivers of 0.1.0 create. The chart of 0.1.0 contains only the receivers' identity and
    rights."""
    cluster.create(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": f"keyturn-{what}", "namespace": namespace, "labels": {"made-by": "receivers"}},
            "spec": {"holderIdentity": "receiver-1", "leaseDurationSeconds": 15},
        }
        for what in ("poller", "event-path")
    )


def rights(helm: Helm, served: str) -> dict[str, Any]:
    """Return the ServiceAccount of the receivers, and the Role and RoleBinding that they have in a namespace they
    serve."""
    (role,) = helm.cluster.list("roles", served)
    (binding,) = helm.cluster.list("rolebindings", served)
    account = helm.cluster.get("serviceaccount", "keyturn", helm.namespace)
    return {"ServiceAccount": account, "Role": role, "RoleBinding": binding}


def meaning(objects: dict[str, Any]) -> dict[str, Any]:
    """Return objects without the metadata that the API server adds."""
    traces = ("uid", "resourceVersion", "creationTimestamp", "managedFields")
    return {
        kind: {**each, "metadata": {key: value for key, value in each["metadata"].items() if key not in traces}}
        for kind, each in objects.items()
    }
