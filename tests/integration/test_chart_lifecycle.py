"""Releases of the chart, made by the real Helm. They install alone and next to other releases, and uninstall without a
trace."""

from collections.abc import Iterator
from typing import Any

import pytest
from helm_python.errors import HelmError

from keyturn_local.kubernetes.chart import SOME_KEY
from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.chart_values import ANYWHERE
from support.helm import Helm, helm_in_namespace
from support.wait import eventually

# Because of this annotation, kwok never makes the pods ready.
NEVER_READY = {**SOME_KEY, "podAnnotations": {"keyturn.dev/ready-after": "never"}}
# With this value, the release has every kind of object that lies outside namespaces.
ALSO_BEYOND = {**SOME_KEY, "priorityClass": {"create": True}}


@pytest.fixture
def helm(control_plane: ControlPlane) -> Iterator[Helm]:
    with helm_in_namespace(control_plane) as made:
        yield made


def test_installed_release_has_ready_receivers(helm: Helm) -> None:
    release = helm.install()
    assert release["status"] == "deployed"
    assert f"helm test keyturn -n {helm.namespace}" in release["notes"]
    assert len(helm.ready_pods()) == 2
    helm.cluster.kubectl("wait", "--for=condition=Available", "deployment/keyturn", "-n", helm.namespace)


@pytest.mark.parametrize("is_default", [False, True], ids=["a class", "the default class"])
def test_ingress_without_a_class_is_warned_of_unless_the_cluster_has_a_default_one(
    helm: Helm, is_default: bool
) -> None:
    mark = {"ingressclass.kubernetes.io/is-default-class": "true"} if is_default else {}
    ingress_class = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": helm.namespace, "annotations": mark},
        "spec": {"controller": "example.com/controller"},
    }
    helm.cluster.create([ingress_class])
    try:
        values = {**SOME_KEY, "ingress": {"enabled": True, "host": "keyturn.example.com"}}
        notes = helm.install(values, dry_run="server", wait="hookOnly")["notes"]
    finally:
        helm.cluster.delete([ingress_class])
    assert ("Warning: the Ingress has no class" in notes) is not is_default


@pytest.mark.usefixtures("custom_resources")
@pytest.mark.parametrize(("whole", "kinds"), [(False, 14), (True, 18)], ids=["the defaults", "everything"])
def test_uninstalled_release_leaves_nothing(helm: Helm, namespace: str, whole: bool, kinds: int) -> None:
    before = helm.inventory(namespace)
    helm.install({**ANYWHERE, "namespaces": [namespace]} if whole else SOME_KEY, wait="hookOnly")
    helm.wait_for_rollout()
    made = helm.inventory(namespace) - before
    assert len({kind for kind, _, _ in made}) >= kinds, sorted(made)
    helm.uninstall()
    eventually(lambda: not helm.inventory(namespace) - before)
    gone = before - helm.inventory(namespace)
    assert not [each for each in gone if each[1] in (helm.namespace, namespace)]


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        ({}, {}, "signingKey"),
        ({**SOME_KEY, "replica": 1}, {}, "replica"),
        (NEVER_READY, {"timeout": 3, "rollback_on_failure": True}, "deadline"),
        ({**SOME_KEY, "namespaces": ["nowhere"]}, {"rollback_on_failure": True}, "nowhere"),
    ],
    ids=["no signing key", "a misspelt value", "receivers that never get ready", "a namespace that is not there"],
)
def test_failed_installation_leaves_nothing(helm: Helm, values: Any, options: Any, told: str) -> None:
    before = helm.inventory()
    with pytest.raises(HelmError, match=told):
        helm.install(values, **options)
    eventually(lambda: not helm.inventory() - before)


def test_installation_without_a_signing_key_makes_no_namespace(control_plane: ControlPlane) -> None:
    nowhere = Helm(control_plane, "keyturn-without-key")
    with pytest.raises(HelmError, match="signingKey"):
        nowhere.install({}, create_namespace=True)
    nowhere.close()
    with pytest.raises(KubectlFailed, match="NotFound"):
        control_plane.kubectl("get", "namespace", nowhere.namespace)


def test_two_releases_in_one_namespace_do_not_touch_each_other(helm: Helm) -> None:
    helm.install(ALSO_BEYOND)
    alone = helm.object_versions()
    helm.install({**ALSO_BEYOND, "replicas": 1}, "second")
    assert helm.object_versions().items() >= alone.items()
    for name, count in (("keyturn", 2), ("second-keyturn", 1)):
        for selector in selectors(helm, name):
            found = helm.ready_pods(selector)
            assert [pod.rsplit("-", 2)[0] for pod in found] == [name] * count
    helm.uninstall("second")
    eventually(lambda: helm.object_versions() == alone)


def selectors(helm: Helm, name: str) -> list[str]:
    """Return the selectors with which the objects of a release select their pods."""
    deployment, service, budget, policy = (
        helm.cluster.get(kind, name, helm.namespace)["spec"]
        for kind in ("deployment", "service", "poddisruptionbudget", "networkpolicy")
    )
    chosen = [deployment["selector"], {"matchLabels": service["selector"]}, budget["selector"], policy["podSelector"]]
    return [",".join(f"{key}={value}" for key, value in each["matchLabels"].items()) for each in chosen]


@pytest.mark.parametrize(("suffix", "first"), [("-other", "keyturn"), ("-a", "a-keyturn")])
def test_two_releases_in_two_namespaces_share_nothing(helm: Helm, suffix: str, first: str) -> None:
    """Two releases share nothing, even if namespace and release name join to the same text, as "x" with "a-keyturn" and
    "x-a" with "keyturn" do."""
    with helm_in_namespace(helm.cluster, helm.namespace + suffix) as other:
        helm.install(ALSO_BEYOND, first)
        alone, before = helm.object_versions(), helm.inventory()
        other.install(ALSO_BEYOND)
        beyond = {kind for kind, _, _ in helm.inventory() - before}
        policies = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
        assert beyond == {"ClusterRole", "ClusterRoleBinding", "PriorityClass", "IPAddress", *policies}
        other.uninstall()
        assert helm.object_versions() == alone
