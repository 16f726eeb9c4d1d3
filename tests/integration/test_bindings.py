"""Labelled Secrets as bindings on the real API server: how they are filled, and how errors are reported."""

import json
import re
from uuid import uuid4

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.kubernetes.cluster import KubectlFailed
from keyturn_local.receiver.process import SERVICE_ACCOUNT
from keyturn_local.stack import Stack
from support.cluster_state import annotations_of, data_of, warnings_of
from support.manifests import env_from, secret, workload
from support.wait import eventually

DATA = "keyturn.dev/data"


def create(stack: Stack, name: str, value: str | bytes) -> str:
    """Create an AWS secret and return its ARN."""
    client = stack.aws.secrets_manager()
    if isinstance(value, bytes):
        return client.create_secret(Name=name, SecretBinary=value)["ARN"]
    return client.create_secret(Name=name, SecretString=value)["ARN"]


def filled(stack: Stack, namespace: str, name: str = "db") -> dict[str, bytes]:
    return eventually(lambda: data_of(stack.cluster, namespace, name))


def test_binding_by_name_takes_every_top_level_key(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", json.dumps({"user": "u", "port": 5432, "tls": True, "tags": ["a", "b"]}))
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    assert filled(stack, namespace) == {"user": b"u", "port": b"5432", "tls": b"true", "tags": b'["a","b"]'}


@pytest.mark.parametrize("cut", [0, 7], ids=["the whole ARN", "the ARN without its random end"])
def test_binding_by_whole_or_partial_arn_is_filled(stack: Stack, namespace: str, cut: int) -> None:
    arn = create(stack, f"{namespace}/db", "plain")
    stack.cluster.create([secret(namespace, "db", arn[:-cut] if cut else arn)])
    assert filled(stack, namespace) == {"value": b"plain"}
    rotate(stack.aws.secrets_manager(), f"{namespace}/db", "turned")
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"value": b"turned"})


def test_expressions_name_and_join_properties(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", json.dumps({"username": "u", "password": "p%#", "host": "h", "nest": {"a": [7]}}))
    url = "join('', ['postgres://', username, ':', url_encode(password), '@', host, '/app'])"
    lines = f"PASSWORD: password\nDATABASE_URL: {url}\nSEVEN: nest.a[0]\n"
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db", **{DATA: lines})])
    assert filled(stack, namespace) == {
        "PASSWORD": b"p%#",
        "DATABASE_URL": b"postgres://u:p%25%23@h/app",
        "SEVEN": b"7",
    }


@pytest.mark.parametrize("value", ["not JSON", "12345678", '"quoted"', "{broken"])
def test_value_that_is_no_json_object_is_stored_under_the_key_value(stack: Stack, namespace: str, value: str) -> None:
    create(stack, f"{namespace}/db", value)
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    assert filled(stack, namespace) == {"value": value.encode()}


def test_binary_value_arrives_byte_for_byte_under_the_named_key(stack: Stack, namespace: str) -> None:
    content = bytes(range(256))
    create(stack, f"{namespace}/store", content)
    stack.cluster.create(
        [
            secret(namespace, "db", f"{namespace}/store"),
            secret(namespace, "named", f"{namespace}/store", **{DATA: 'keystore.p12: "@"'}),
        ]
    )
    assert filled(stack, namespace) == {"value": content}
    assert filled(stack, namespace, "named") == {"keystore.p12": content}


def test_secret_bound_twice_fills_both(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    stack.cluster.create([secret(namespace, each, f"{namespace}/db") for each in ("a", "b")])
    for each in ("a", "b"):
        assert filled(stack, namespace, each) == {"value": b"one"}
    rotate(stack.aws.secrets_manager(), f"{namespace}/db", "two")
    for each in ("a", "b"):
        eventually(lambda each=each: data_of(stack.cluster, namespace, each) == {"value": b"two"})


def test_edited_binding_takes_effect_at_once(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", json.dumps({"a": "1", "b": "2"}))
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db", **{DATA: "X: a"})])
    assert filled(stack, namespace) == {"X": b"1"}
    stack.cluster.kubectl("annotate", "secret", "db", "-n", namespace, "--overwrite", f"{DATA}=X: b")
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"X": b"2"})


def test_edit_by_hand_is_restored(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    filled(stack, namespace)
    stack.cluster.kubectl("patch", "secret", "db", "-n", namespace, "-p", '{"stringData": {"value": "tampered"}}')
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"value": b"one"})


def test_restored_backup_of_a_secret_is_brought_up_to_date(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    filled(stack, namespace)
    backup = stack.cluster.get("secret", "db", namespace)
    version_id = rotate(stack.aws.secrets_manager(), f"{namespace}/db", "two")
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"value": b"two"})
    eventually(lambda: version_id in stack.aws.notifier_log.delivered())
    for volatile in ("resourceVersion", "uid", "managedFields"):
        backup["metadata"].pop(volatile, None)
    stack.cluster.kubectl("replace", "-f", "-", stdin=json.dumps(backup))
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"value": b"two"})


# Each case breaks a valid binding. It gives the annotations to set, the new value of the AWS secret (or None), and the
# expected reason and advice.
BROKEN = {
    "a secret that does not exist": ({"keyturn.dev/secret-id": "{ns}/missing"}, None, "SourceNotFound", "create it"),
    "a property that is missing": ({DATA: "A: nowhere"}, None, "InvalidValue", "no such property"),
    "an annotation that does not parse": ({DATA: "A: [unclosed"}, None, "InvalidBinding", "KEY: expression"),
    "an expression that is not one": ({DATA: "A: a b c"}, None, "InvalidBinding", "not a JMESPath expression"),
    "a name with a hyphen": ({DATA: "A: a-b"}, None, "InvalidBinding", "as in A: '\"a-b\"'"),
    "a constant without its own quotes": ({DATA: "A: db.internal"}, None, "InvalidValue", "write A: \"'db.internal'\""),
    "JSON with a comma too many": ({DATA: "A: a"}, '{"a": "2",}', "InvalidValue", "line 1, column 11"),
    "an expression that yields null": ({DATA: "A: empty"}, None, "InvalidValue", "or it is null"),
    "a function on the wrong type": ({DATA: "A: join('', number)"}, None, "InvalidValue", "to_string()"),
    "a key that no Secret can have": ({DATA: '"A B": a'}, None, "InvalidBinding", "is not a valid key for a Secret"),
    "another team's secret": ({"keyturn.dev/secret-id": "other/db"}, None, "NotAllowed", "cluster admin"),
    "no secret id": ({"keyturn.dev/secret-id": ""}, None, "InvalidBinding", "set it to the name or ARN"),
    "a value that is no JSON any more": ({DATA: "A: a"}, "plain", "InvalidValue", "not JSON"),
}


@pytest.mark.parametrize(("annotations", "value", "reason", "advice"), BROKEN.values(), ids=BROKEN)
def test_broken_binding_keeps_the_data_and_says_what_to_do(
    stack: Stack, namespace: str, annotations: dict[str, str], value: str | None, reason: str, advice: str
) -> None:
    good = json.dumps({"a": "1", "empty": None, "number": 7})
    create(stack, f"{namespace}/db", good)
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db", **{DATA: "A: a"})])
    before = filled(stack, namespace)

    for name, text in annotations.items():
        text = text.replace("{ns}", namespace)
        stack.cluster.kubectl("annotate", "secret", "db", "-n", namespace, "--overwrite", f"{name}={text}")
    if value is not None:
        rotate(stack.aws.secrets_manager(), f"{namespace}/db", value)
    told = eventually(lambda: warnings_of(stack.cluster, namespace, "db"))
    assert advice in told[reason]
    eventually(lambda: re.fullmatch(rf"{reason}: .*{re.escape(advice)}.*", status(stack, namespace)))
    assert state(stack, namespace) == reason
    assert data_of(stack.cluster, namespace, "db") == before == {"A": b"1"}

    # Meanwhile, other bindings keep working.
    create(stack, f"{namespace}/other", "one")
    stack.cluster.create([secret(namespace, "other", f"{namespace}/other")])
    filled(stack, namespace, "other")


def status(stack: Stack, namespace: str, name: str = "db") -> str:
    """Return the status of a Secret. A status has no line breaks."""
    return annotations_of(stack.cluster, "secret", namespace, name).get("keyturn.dev/status", "")


def state(stack: Stack, namespace: str, name: str = "db") -> str:
    """Return the label keyturn.dev/state, by which people filter Secrets."""
    labels = stack.cluster.get("secret", name, namespace)["metadata"].get("labels") or {}
    return labels.get("keyturn.dev/state", "")


def test_corrected_binding_is_filled_without_a_notification(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", json.dumps({"a": "1"}))
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db", **{DATA: "A: missing"})])
    eventually(lambda: warnings_of(stack.cluster, namespace, "db"))
    stack.cluster.kubectl("annotate", "secret", "db", "-n", namespace, "--overwrite", f"{DATA}=A: a")
    assert filled(stack, namespace) == {"A": b"1"}


def test_namespace_allowed_later_is_filled_then(stack: Stack, namespace: str) -> None:
    name = f"late-{uuid4().hex[:6]}/db"
    create(stack, name, "one")
    stack.cluster.create([secret(namespace, "db", name)])
    assert "NotAllowed" in eventually(lambda: warnings_of(stack.cluster, namespace, "db"))
    stack.cluster.kubectl("annotate", "namespace", namespace, "--overwrite", f"keyturn.dev/allow-secrets={name}")
    assert filled(stack, namespace) == {"value": b"one"}


def test_secret_of_a_credential_type_is_refused(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    token = {**secret(namespace, "db", f"{namespace}/db"), "type": "bootstrap.kubernetes.io/token"}
    stack.cluster.create([token])
    assert "use type Opaque" in eventually(lambda: warnings_of(stack.cluster, namespace, "db"))["NotAllowed"]


def test_immutable_secret_is_left_alone_and_reported(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    stack.cluster.create([{**secret(namespace, "db", f"{namespace}/db"), "immutable": True}])
    told = eventually(lambda: warnings_of(stack.cluster, namespace, "db"))
    assert "without `immutable: true`" in told["ClusterRefused"]


def test_refused_workload_delays_neither_the_secret_nor_others(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    filled(stack, namespace)
    policy = f"locked-{namespace}"
    rules = [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}]
    by_us = f"request.userInfo.username.endsWith(':{SERVICE_ACCOUNT}') && object.metadata.namespace == '{namespace}'"
    made = [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": policy},
            "spec": {
                "matchConstraints": {"resourceRules": rules},
                "validations": [{"expression": f"!({by_us} && object.metadata.name.startsWith('locked'))"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": policy},
            "spec": {"policyName": policy, "validationActions": ["Deny"]},
        },
    ]
    stack.cluster.create([*made, workload(namespace, "locked-probe", {})])
    try:
        eventually(lambda: denied(stack, namespace), seconds=30)
        stack.cluster.create(workload(namespace, name, env_from("db")) for name in ("locked", "web"))
        mark = "revision.keyturn.dev/db"
        eventually(lambda: mark in annotations_of(stack.cluster, "deployment", namespace, "web"))
        rotate(stack.aws.secrets_manager(), f"{namespace}/db", "two")
        eventually(lambda: data_of(stack.cluster, namespace, "db") == {"value": b"two"})
        template = ["spec", "template", "metadata", "annotations"]
        eventually(lambda: mark in (dig(stack.cluster.get("deployment", "web", namespace), template) or {}))
        told = eventually(lambda: warnings_of(stack.cluster, namespace, "db"))
        assert f"writing Deployment {namespace}/locked: " in told["ClusterRefused"]
    finally:
        stack.cluster.delete(made)


def denied(stack: Stack, namespace: str) -> bool:
    """Return whether the admission policy is in force. The API server takes a moment to enforce it."""
    account = f"system:serviceaccount:{stack.namespace}:{SERVICE_ACCOUNT}"
    command = ["annotate", "deployment", "locked-probe", "-n", namespace, "--overwrite", "a=b", f"--as={account}"]
    try:
        stack.cluster.kubectl(*command)
    except KubectlFailed as error:
        return "denied request" in str(error)
    return False


def test_rollouts_can_be_switched_off(stack: Stack, namespace: str) -> None:
    create(stack, f"{namespace}/db", "one")
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    filled(stack, namespace)
    still = workload(namespace, "still", env_from("db"))
    still["metadata"]["annotations"] = {"keyturn.dev/rollout": "disabled"}
    stack.cluster.create([still, workload(namespace, "web", env_from("db"))])
    mark = "revision.keyturn.dev/db"
    eventually(lambda: mark in annotations_of(stack.cluster, "deployment", namespace, "web"))
    rotate(stack.aws.secrets_manager(), f"{namespace}/db", "two")
    template = ["spec", "template", "metadata", "annotations"]
    eventually(lambda: mark in (dig(stack.cluster.get("deployment", "web", namespace), template) or {}))
    assert mark not in (dig(stack.cluster.get("deployment", "still", namespace), template) or {})
    assert mark not in annotations_of(stack.cluster, "deployment", namespace, "still")


def dig(obj: dict, path: list[str]) -> dict | None:
    for step in path:
        obj = obj.get(step) or {}
    return obj or None
