"""Consumers on the real API server: which references to a Secret count, and which level of the switch decides."""

import json
import time
from typing import Any

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS
from support.cluster_state import annotations_of, data_of, warnings_of
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


@pytest.mark.parametrize("kind", [kind.kind for kind in WORKLOAD_KINDS.values() if not kind.is_custom])
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


ON_SECRETS = {"db": None, "on": "enabled", "off": "disabled", "odd": "sometimes"}
ON_WORKLOADS = {
    "unset": (None, None),
    "on": ("enabled", None),
    "off": ("disabled", None),
    "off-on": ("disabled", "enabled"),
    "on-off": ("enabled", "disabled"),
    "odd-on": ("off", "enabled"),
}


def switch(text: str | None) -> dict[str, str]:
    return {} if text is None else {"keyturn.dev/rollout": text}


def test_innermost_level_of_the_switch_decides(stack: Stack, namespace: str) -> None:
    client = stack.aws.secrets_manager()
    client.create_secret(Name=f"{namespace}/db", SecretString="one")
    stack.cluster.kubectl("annotate", "namespace", namespace, "keyturn.dev/rollout=disabled")
    stack.cluster.create(
        secret(namespace, name, f"{namespace}/db", **switch(text)) for name, text in ON_SECRETS.items()
    )
    for name in ON_SECRETS:
        eventually(lambda name=name: data_of(stack.cluster, namespace, name))
    made, expected = [], set()
    for of_secret, on_secret in ON_SECRETS.items():
        for of_workload, (on_workload, on_template) in ON_WORKLOADS.items():
            one = workload(namespace, f"{of_secret}-{of_workload}", env_from(of_secret))
            one["metadata"]["annotations"] = switch(on_workload)
            one["spec"]["template"]["metadata"]["annotations"] = switch(on_template)
            made.append(one)
            told = [text for text in ("disabled", on_secret, on_workload, on_template) if text]
            if told[-1] == "enabled" and set(told) <= {"enabled", "disabled"}:
                expected.add((one["metadata"]["name"], f"revision.keyturn.dev/{of_secret}"))
    assert len(expected) == 7
    stack.cluster.create(made)
    for name, mark in expected:
        eventually(lambda name=name, mark=mark: mark in annotations_of(stack.cluster, "deployment", namespace, name))
    rotate(client, f"{namespace}/db", "two")

    def marked() -> set[tuple[str, str]]:
        listed = {each["metadata"]["name"]: each for each in stack.cluster.list("deployments", namespace)}
        templates = {name: each["spec"]["template"]["metadata"] for name, each in listed.items()}
        return {
            (name, mark)
            for name, metadata in templates.items()
            for mark in metadata.get("annotations") or {}
            if mark.startswith("revision.keyturn.dev/")
        }

    eventually(lambda: marked() >= expected)
    time.sleep(2)
    assert marked() == expected
    warned = eventually(lambda: warnings_of(stack.cluster, namespace, "db-odd-on", "Deployment"))
    assert "did you mean disabled? write enabled or disabled" in warned["InvalidBinding"]
