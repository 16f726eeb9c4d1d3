"""Every reference to a Secret on the real API server: who is restarted when one key of it changes."""

import json
import time
from typing import Any

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from support.cluster_state import annotations_of, data_of
from support.manifests import env_from, secret, workload
from support.wait import eventually

MARK = "revision.keyturn.dev/db"
READS = {"keyturn.dev/reads": "cache, db"}


def variable(key: str, **more: Any) -> dict[str, Any]:
    return {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "db", "key": key, **more}}}]}


def init(key: str, **more: str) -> dict[str, Any]:
    return {"initContainers": [{"name": "first", "image": "none", **variable(key), **more}]}


def volume(*keys: str) -> dict[str, Any]:
    items = {"items": [{"key": key, "path": key} for key in keys]} if keys else {}
    return {"volumes": [{"name": "v", "secret": {"secretName": "db", **items}}]}


def projected(*keys: str) -> dict[str, Any]:
    items: dict[str, Any] = {"items": [{"key": key, "path": key} for key in keys]} if keys else {}
    return {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "db", **items}}]}}]}


def optional_volume(key: str) -> dict[str, Any]:
    made = volume(key)
    made["volumes"][0]["secret"]["optional"] = True
    return made


# Each reference: the pod, whether it is restarted when the key ``a`` changes and ``b`` does not, and the annotations of
# the workload and of its pod template.
Case = tuple[dict[str, Any], bool, dict[str, str], dict[str, str]]
CASES: dict[str, Case] = {
    "env-read": ({"container": variable("a")}, True, {}, {}),
    "env-not-read": ({"container": variable("b")}, False, {}, {}),
    "env-optional": ({"container": variable("a", optional=True)}, True, {}, {}),
    "env-missing": ({"container": variable("nowhere", optional=True)}, False, {}, {}),
    "env-from": (env_from("db"), True, {}, {}),
    "env-from-other": (env_from("cache"), False, {}, {}),
    "volume": (volume(), True, {}, {}),
    "volume-read": (volume("a", "b"), True, {}, {}),
    "volume-not-read": (volume("b"), False, {}, {}),
    "volume-optional": (optional_volume("a"), True, {}, {}),
    "volume-missing": (optional_volume("nowhere"), False, {}, {}),
    "projected": (projected(), True, {}, {}),
    "projected-read": (projected("a"), True, {}, {}),
    "projected-not-read": (projected("b"), False, {}, {}),
    "init-read": (init("a"), True, {}, {}),
    "init-not-read": (init("b"), False, {}, {}),
    "sidecar": (init("a", restartPolicy="Always"), True, {}, {}),
    "by-name": ({}, True, READS, {}),
    "by-name-on-template": ({}, True, {}, READS),
    "pull": ({"imagePullSecrets": [{"name": "db"}]}, False, {}, {}),
    "pull-asked-for": ({"imagePullSecrets": [{"name": "db"}]}, True, READS, {}),
}


def restarted(stack: Stack, kind: str, namespace: str) -> set[str]:
    """Return the workloads of a kind whose pod template has the mark."""
    listed = stack.cluster.list(kind.lower(), namespace)
    of_templates = {each["metadata"]["name"]: each["spec"]["template"]["metadata"] for each in listed}
    return {name for name, metadata in of_templates.items() if MARK in (metadata.get("annotations") or {})}


@pytest.mark.parametrize("kind", WORKLOAD_KINDS)
def test_change_of_one_key_restarts_exactly_those_that_read_it(stack: Stack, namespace: str, kind: str) -> None:
    client = stack.aws.secrets_manager()
    client.create_secret(Name=f"{namespace}/db", SecretString=json.dumps({"a": "1", "b": "1"}))
    stack.cluster.create([secret(namespace, "db", f"{namespace}/db")])
    eventually(lambda: data_of(stack.cluster, namespace, "db"))
    made = []
    for name, (pod, _, own, on_template) in CASES.items():
        one = workload(namespace, name, dict(pod), kind)
        one["metadata"]["annotations"] = own
        one["spec"]["template"]["metadata"]["annotations"] = on_template
        made.append(one)
    stack.cluster.create(made)
    expected = {name for name, (_, restarted, _, _) in CASES.items() if restarted}
    for name in expected:
        eventually(lambda name=name: MARK in annotations_of(stack.cluster, kind.lower(), namespace, name))
    rotate(client, f"{namespace}/db", json.dumps({"a": "2", "b": "1"}))
    eventually(lambda: restarted(stack, kind, namespace) >= expected)
    time.sleep(2)  # an unwanted restart would show by now
    assert restarted(stack, kind, namespace) == expected
