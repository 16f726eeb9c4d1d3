"""Workloads that carry Reloader's annotations, on the real API server: Reloader is removed, or runs beside Keyturn."""

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from support.cluster_state import annotations_of, data_of, replica_sets
from support.manifests import env_from, secret, workload
from support.reloader import AUTO, IGNORE, MATCH, SEARCH, SECRET_AUTO, excluded, listed
from support.wait import eventually

OwnStack = Callable[..., AbstractContextManager[Stack]]

# Workloads as Reloader's own page shows them: the annotations, the pod, and whether Reloader would restart it.
EXAMPLES: Mapping[str, tuple[dict[str, str], dict[str, Any], bool]] = {
    "auto": (AUTO, env_from("db"), True),
    "typed": (SECRET_AUTO, env_from("db"), True),
    "listed": (listed("db"), env_from("db"), True),
    "listed-without-reference": (listed("cache, db"), {}, True),
    "search": (SEARCH, env_from("matched"), True),
    "search-without-match": (SEARCH, env_from("db"), False),
    "excluded": ({**AUTO, **excluded("db")}, env_from("db"), False),
    "ignored": (AUTO, env_from("ignored"), False),
    "nothing": ({}, env_from("db"), False),
}


def create_secrets(stack: Stack, namespace: str) -> None:
    stack.aws.secrets_manager().create_secret(Name=f"{namespace}/db", SecretString="one")
    for name, annotations in {"db": {}, "matched": MATCH, "ignored": IGNORE}.items():
        stack.cluster.create([secret(namespace, name, f"{namespace}/db", **annotations)])
        eventually(lambda name=name: data_of(stack.cluster, namespace, name), 60)


def create_workload(stack: Stack, namespace: str, name: str, pod: dict[str, Any], annotations: dict[str, str]) -> None:
    made = workload(namespace, name, dict(pod))
    made["metadata"]["annotations"] = annotations
    stack.cluster.create([made])


def has_baseline(stack: Stack, namespace: str, name: str) -> bool:
    annotations = annotations_of(stack.cluster, "deployment", namespace, name)
    return any(each.startswith("revision.keyturn.dev/") for each in annotations)


def test_examples_of_reloader_work_after_it_was_removed(own_stack: OwnStack, namespace: str) -> None:
    with own_stack(KEYTURN_RELOADER="replaced", KEYTURN_ROLLOUT_DEFAULT="disabled") as stack:
        create_secrets(stack, namespace)
        for name, (annotations, pod, _) in EXAMPLES.items():
            create_workload(stack, namespace, name, pod, annotations)
        expected = {name: 1 + restarted for name, (_, _, restarted) in EXAMPLES.items()}
        for name in (name for name, number in expected.items() if number > 1):
            eventually(lambda name=name: has_baseline(stack, namespace, name))
        eventually(lambda: all(replica_sets(stack.cluster, namespace, name) for name in EXAMPLES))
        rotate(stack.aws.secrets_manager(), f"{namespace}/db", "two")

        def made() -> dict[str, int]:
            return {name: replica_sets(stack.cluster, namespace, name) for name in EXAMPLES}

        eventually(lambda: made() == expected)
        time.sleep(2)  # an unwanted restart would show by now
        assert made() == expected


def test_examples_of_reloader_work_with_secrets_that_others_fill(own_stack: OwnStack, namespace: str) -> None:
    with own_stack(KEYTURN_RELOADER="replaced", KEYTURN_ROLLOUT_DEFAULT="disabled") as stack:
        for name, annotations in {"db": {}, "matched": MATCH, "ignored": IGNORE}.items():
            made = secret(namespace, name, **annotations)
            made["metadata"]["labels"] = {"keyturn.dev/watch": "true"}
            stack.cluster.create([{**made, "stringData": {"password": "one"}}])
        for name, (annotations, pod, _) in EXAMPLES.items():
            create_workload(stack, namespace, name, pod, annotations)
        expected = {name: 1 + restarted for name, (_, _, restarted) in EXAMPLES.items()}
        for name in (name for name, number in expected.items() if number > 1):
            eventually(lambda name=name: has_baseline(stack, namespace, name))
        eventually(lambda: all(replica_sets(stack.cluster, namespace, name) for name in EXAMPLES))
        for name in ("db", "matched", "ignored"):
            change = '--patch={"stringData":{"password":"two"}}'
            stack.cluster.kubectl("patch", "secret", name, "-n", namespace, "--type=merge", change)

        def made_now() -> dict[str, int]:
            return {name: replica_sets(stack.cluster, namespace, name) for name in EXAMPLES}

        eventually(lambda: made_now() == expected)
        time.sleep(2)  # an unwanted restart would show by now
        assert made_now() == expected


def test_workload_that_reloader_restarts_is_restarted_once(own_stack: OwnStack, namespace: str) -> None:
    with own_stack(KEYTURN_RELOADER="running") as stack:
        create_secrets(stack, namespace)
        create_workload(stack, namespace, "theirs", env_from("db"), AUTO)
        create_workload(stack, namespace, "ours", env_from("db"), {})
        eventually(lambda: has_baseline(stack, namespace, "ours"))
        rotate(stack.aws.secrets_manager(), f"{namespace}/db", "two")
        eventually(lambda: data_of(stack.cluster, namespace, "db") == {"value": b"two"})
        # With its strategy env-vars, Reloader does this when it sees that the data has changed.
        sha = hashlib.sha1(b"value=two;").hexdigest()  # noqa: S324 - it is Reloader's
        stack.cluster.kubectl("set", "env", "deployment/theirs", "-n", namespace, f"STAKATER_DB_SECRET={sha}")
        eventually(lambda: [replica_sets(stack.cluster, namespace, name) for name in ("theirs", "ours")] == [2, 2])
        time.sleep(3)
        assert [replica_sets(stack.cluster, namespace, name) for name in ("theirs", "ours")] == [2, 2]
        assert not has_baseline(stack, namespace, "theirs")
