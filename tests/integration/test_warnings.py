"""Warnings that the API server prints for Secrets which the receiver does not see, since they lack its label.

The real Helm installs the chart's policy, and the real kubectl shows what the API server says.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from keyturn_local.kubernetes.chart import SOME_KEY
from keyturn_local.kubernetes.control_plane import ControlPlane
from support.helm import Helm, helm_in_namespace
from support.wait import eventually

ID = {"keyturn.dev/secret-id": "shop/db"}
BOUND = {"keyturn.dev/bind": "true"}
POLICIES = "validatingadmissionpolicies,validatingadmissionpolicybindings"


def secret(namespace: str, annotations: dict[str, str], labels: dict[str, str], name: str = "db") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "annotations": annotations, "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": "hunter2"}}


def kubectl(helm: Helm, *arguments: str, stdin: Any = None) -> str:
    """Run kubectl, require that it succeeds, and return what it prints besides its result."""
    command = [*helm.cluster.command, *arguments, "-n", helm.namespace]
    text = None if stdin is None else json.dumps(stdin)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def dry_run(helm: Helm, annotations: dict[str, str], labels: dict[str, str]) -> str:
    """Return what `kubectl apply --dry-run=server` warns of."""
    made = secret(helm.namespace, annotations, labels)
    return kubectl(helm, "apply", "--dry-run=server", "-f", "-", stdin=made)


@pytest.fixture(scope="module")
def helm(control_plane: ControlPlane) -> Iterator[Helm]:
    with helm_in_namespace(control_plane) as made:
        made.install(SOME_KEY, wait="hookOnly")
        eventually(lambda: "Warning: " in dry_run(made, ID, {}))  # the API server enforces a policy after a moment
        yield made


def test_secret_without_the_label_is_warned_of_and_admitted(helm: Helm) -> None:
    told = kubectl(helm, "apply", "-f", "-", stdin=secret(helm.namespace, ID, {}))
    policy = f"{helm.namespace}.keyturn"
    assert told == (
        f"Warning: Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{policy}': Keyturn does not"
        " fill Secret db: it has the annotation keyturn.dev/secret-id, but not the label keyturn.dev/bind:"
        ' "true": add the label, or remove the annotation\n'
    )
    assert helm.cluster.get("secret", "db", helm.namespace)["metadata"]["annotations"].items() >= ID.items()
    # What the warning says to do is enough.
    assert kubectl(helm, "label", "secret", "db", "keyturn.dev/bind=true") == ""
    assert kubectl(helm, "annotate", "secret", "db", "keyturn.dev/data=PASSWORD: password") == ""
    assert "Keyturn does not fill Secret db" in kubectl(helm, "label", "secret", "db", "keyturn.dev/bind-")
    assert "Warning" not in kubectl(helm, "delete", "secret", "db")


WARNED: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "secret-id": (ID, {}, "it has the annotation keyturn.dev/secret-id, but not the label"),
    "data": ({"keyturn.dev/data": "A: a"}, {"app": "shop"}, "it has the annotation keyturn.dev/data, but not"),
    "rollout": ({"keyturn.dev/rollout": "disabled"}, {}, "it has the annotation keyturn.dev/rollout, but not"),
    "a name that is not known": ({"keyturn.dev/secretId": "x"}, {}, "it has the annotation keyturn.dev/secretId, but"),
    "the label as an annotation": ({**ID, **BOUND}, {}, "keyturn.dev/bind is an annotation: make it a label"),
    "the label as an annotation alone": (BOUND, {}, "keyturn.dev/bind is an annotation: make it a label"),
    "the label in capitals": (ID, {"keyturn.dev/Bind": "true"}, "keyturn.dev/Bind means nothing: write the label"),
    "the other label as an annotation": ({"keyturn.dev/watch": "true"}, {}, "keyturn.dev/watch is an annotation: make"),
    "another word": (ID, {"keyturn.dev/bound": "true"}, "keyturn.dev/bound means nothing: write the label"),
    "the label of another domain": ({}, {"keyturn.io/bind": "true"}, "keyturn.io/bind means nothing: write the label"),
    "the label of no domain": ({}, {"keyturn-bind": "true"}, "keyturn-bind means nothing: write the label"),
    "a letter too few": ({}, {"keytrn.dev/bind": "true"}, "keytrn.dev/bind means nothing: write the label"),
    "another domain": ({"keyturn.io/secret-id": "x"}, {}, "keyturn.io/secret-id means nothing: names of Keyturn begin"),
    "letters changed over": ({"keytrun.dev/secretId": "x"}, {}, "keytrun.dev/secretId means nothing: names of Keyturn"),
    "the label of watched Secrets": ({}, {"keyturn.dev/Watch": "true"}, "keyturn.dev/bind and keyturn.dev/watch"),
    "an annotation as a label": ({}, {"keyturn.dev/secret-id": "x"}, "keyturn.dev/secret-id means nothing: names of"),
    "an annotation of workloads": ({"keyturn.dev/reads": "a"}, {}, "not belong on a Secret: move it to the workload"),
    "an annotation of namespaces": ({"keyturn.dev/allow-secrets": "*"}, {}, "move it to the namespace"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNED)
def test_mistake_is_warned_of_in_one_line_already_at_a_dry_run(helm: Helm, name: str) -> None:
    annotations, labels, words = WARNED[name]
    told = dry_run(helm, annotations, labels)
    assert told.startswith("Warning: ")
    assert words in told
    assert len(told.splitlines()) == 1
    assert "hunter2" not in told


SILENT: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a bound Secret": ({**ID, "keyturn.dev/data": "PASSWORD: password"}, BOUND),
    "a label that the receiver tells of": (ID, {"keyturn.dev/bind": "True"}),
    "a Secret that is not to be bound": (ID, {"keyturn.dev/bind": "false"}),
    "a Secret that was bound": ({"keyturn.dev/status": "NotBound: x", "keyturn.dev/revisions": "{}"}, {}),
    "a watched Secret": (
        {"keyturn.dev/rollout": "disabled", "keyturn.dev/watched": "x"},
        {"keyturn.dev/watch": "true"},
    ),
    "a Secret of others": ({"example.com/secret-id": "x", "data": "y"}, {"app": "shop", "return.dev/bind": "true"}),
    "domains of others": ({"saturn.dev/data": "x", "turnkey.dev/secret-id": "y"}, {"key.turnstile.io/bind": "true"}),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize("name", SILENT)
def test_secret_without_a_mistake_is_not_warned_of(helm: Helm, name: str) -> None:
    assert dry_run(helm, *SILENT[name]) == ""


def test_secret_of_a_generated_name_is_warned_of(helm: Helm) -> None:
    made = secret(helm.namespace, ID, {})
    made["metadata"]["generateName"] = f"{made['metadata'].pop('name')}-"
    assert "Keyturn does not fill Secret" in kubectl(helm, "create", "-f", "-", stdin=made)


def test_server_side_apply_is_warned_of(helm: Helm) -> None:
    made = secret(helm.namespace, ID, {}, "server-side")
    assert "Keyturn does not fill Secret server-side" in kubectl(helm, "apply", "--server-side", "-f", "-", stdin=made)


@pytest.mark.parametrize("count", [2000, 6000])
def test_secret_with_thousands_of_annotations_is_admitted(helm: Helm, count: int) -> None:
    """Thousands of names near Keyturn's exhaust the cost that the API server allows an expression, and harm nobody."""
    annotations = {f"keyturn.dev.{number:05}.keyturn/secret-id": "x" for number in range(count)}
    made = secret(helm.namespace, annotations, {}, f"large-{count}")
    kubectl(helm, "create", "-f", "-", stdin=made)
    assert len(helm.cluster.get("secret", f"large-{count}", helm.namespace)["metadata"]["annotations"]) == count


@pytest.mark.parametrize("values", [{"warnings": {"enabled": False}}, {"namespaces": ["default"]}], ids=str)
def test_policy_is_not_made_where_it_is_switched_off_or_namespaces_are_named(
    control_plane: ControlPlane, values: dict[str, Any]
) -> None:
    with helm_in_namespace(control_plane) as other:
        other.install({**SOME_KEY, **values}, wait="hookOnly")
        made = other.cluster.kubectl("get", POLICIES, "-o", "name")
        assert f"{other.namespace}.keyturn" not in made


def test_warnings_end_with_the_release(control_plane: ControlPlane) -> None:
    with helm_in_namespace(control_plane) as other:
        other.install(SOME_KEY, wait="hookOnly")
        policy = f"'{other.namespace}.keyturn'"
        eventually(lambda: policy in dry_run(other, ID, {}))
        other.uninstall()
        assert f"{other.namespace}.keyturn" not in other.cluster.kubectl("get", POLICIES, "-o", "name")
        eventually(lambda: policy not in dry_run(other, ID, {}))
