"""Rotations between values of different kinds on the real API server: exact bytes, and one restart for each."""

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from keyturn_local.aws.rotation import rotate
from keyturn_local.stack import Stack
from support.cluster_state import annotations_of, data_of, replica_sets
from support.manifests import env_from, secret, workload
from support.wait import eventually

DATA = "keyturn.dev/data"
STATUS = "keyturn.dev/status"
MARK = "revision.keyturn.dev/db"
KEYSTORES = [bytes([48, 130, number, *range(256)]) for number in range(2)]  # binary, as a PKCS #12 file is
QUIET = 2  # seconds in which a needless restart would show

# For each case: the annotation `data` (None if there is none), and the values in AWS, each with the data that the
# Secret must hold. Each value after the first is a rotation.
Step = tuple[str, dict[str, bytes]]
ROTATIONS: dict[str, tuple[str | None, Sequence[Step]]] = {
    "bytes out of base64": (
        "keystore.p12: base64_decode(keystore)",
        [(json.dumps({"keystore": base64.b64encode(each).decode()}), {"keystore.p12": each}) for each in KEYSTORES],
    ),
    "digits of a number that stays equal": (
        "VERSION: version",
        [('{"version": 1.10}', {"VERSION": b"1.10"}), ('{"version": 1.100}', {"VERSION": b"1.100"})],
    ),
    "text, JSON and text": (
        None,
        [
            ("token-1", {"value": b"token-1"}),
            ('\ufeff{"token": "token-2", "retries": 1e1, "proxy": null}', {"token": b"token-2", "retries": b"1e1"}),
            ("token-3", {"value": b"token-3"}),
        ],
    ),
}


@pytest.mark.parametrize(("data", "steps"), ROTATIONS.values(), ids=ROTATIONS)
def test_rotation_gives_the_exact_bytes_and_restarts_the_consumer_once(
    stack: Stack, namespace: str, data: str | None, steps: Sequence[Step]
) -> None:
    name, client = f"{namespace}/db", stack.aws.secrets_manager()
    client.create_secret(Name=name, SecretString=steps[0][0])
    annotations = {} if data is None else {DATA: data}
    stack.cluster.create([secret(namespace, "db", name, **annotations)])
    eventually(lambda: data_of(stack.cluster, namespace, "db") == steps[0][1])
    stack.cluster.create([workload(namespace, "web", env_from("db"))])
    eventually(lambda: MARK in annotations_of(stack.cluster, "deployment", namespace, "web"))
    first = eventually(lambda: replica_sets(stack.cluster, namespace, "web"))
    for number, (value, held) in enumerate(steps[1:], 1):
        rotate(client, name, value)
        eventually(lambda held=held: data_of(stack.cluster, namespace, "db") == held)
        eventually(lambda number=number: replica_sets(stack.cluster, namespace, "web") == first + number)
    time.sleep(QUIET)
    assert replica_sets(stack.cluster, namespace, "web") == first + len(steps) - 1


def test_misspelt_json_keeps_the_secret_and_its_pods_until_it_is_corrected(stack: Stack, namespace: str) -> None:
    name, client = f"{namespace}/db", stack.aws.secrets_manager()
    client.create_secret(Name=name, SecretString='{"key": "one"}')
    stack.cluster.create([secret(namespace, "db", name)])
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"key": b"one"})
    stack.cluster.create([workload(namespace, "web", env_from("db"))])
    eventually(lambda: MARK in annotations_of(stack.cluster, "deployment", namespace, "web"))
    first = eventually(lambda: replica_sets(stack.cluster, namespace, "web"))

    rotate(client, name, '{"key": "-----BEGIN KEY-----\nhunter2\n-----END KEY-----"}')
    eventually(lambda: annotations_of(stack.cluster, "secret", namespace, "db")[STATUS].startswith("InvalidValue"))
    status = " ".join(annotations_of(stack.cluster, "secret", namespace, "db")[STATUS].split())
    assert "line 1, column 29: a string has a line break" in status
    assert "hunter2" not in status
    assert data_of(stack.cluster, namespace, "db") == {"key": b"one"}

    rotate(client, name, '{"key": "-----BEGIN KEY-----\\nhunter2\\n-----END KEY-----"}')
    corrected = {"key": b"-----BEGIN KEY-----\nhunter2\n-----END KEY-----"}
    eventually(lambda: data_of(stack.cluster, namespace, "db") == corrected)
    eventually(lambda: annotations_of(stack.cluster, "secret", namespace, "db")[STATUS] == "ok")
    eventually(lambda: replica_sets(stack.cluster, namespace, "web") == first + 1)


def test_optional_key_that_goes_restarts_those_who_read_only_it(stack: Stack, namespace: str) -> None:
    name, client = f"{namespace}/db", stack.aws.secrets_manager()
    client.create_secret(Name=name, SecretString='{"user": "u", "proxy": "p"}')
    readers = {"optional": True, "required": False}
    workloads = [
        workload(namespace, reader, {"container": {"env": [variable("proxy", optional)]}})
        for reader, optional in readers.items()
    ]
    stack.cluster.create([secret(namespace, "db", name)])
    eventually(lambda: data_of(stack.cluster, namespace, "db").keys() == {"user", "proxy"})
    stack.cluster.create(workloads)
    for reader in readers:
        eventually(lambda reader=reader: MARK in annotations_of(stack.cluster, "deployment", namespace, reader))
    # A Deployment has no replica set before its controller has seen it.
    first = {
        reader: eventually(lambda reader=reader: replica_sets(stack.cluster, namespace, reader)) for reader in readers
    }
    rotate(client, name, '{"user": "u", "proxy": null}')
    eventually(lambda: data_of(stack.cluster, namespace, "db") == {"user": b"u"})
    eventually(lambda: replica_sets(stack.cluster, namespace, "optional") == first["optional"] + 1)
    rotate(client, name, '{"user": "u", "proxy": "q"}')
    eventually(lambda: replica_sets(stack.cluster, namespace, "optional") == first["optional"] + 2)
    eventually(lambda: replica_sets(stack.cluster, namespace, "required") == first["required"] + 1)
    time.sleep(QUIET)
    assert replica_sets(stack.cluster, namespace, "optional") == first["optional"] + 2
    assert replica_sets(stack.cluster, namespace, "required") == first["required"] + 1


def variable(key: str, optional: bool) -> dict[str, Any]:
    return {"name": key, "valueFrom": {"secretKeyRef": {"name": "db", "key": key, "optional": optional}}}
