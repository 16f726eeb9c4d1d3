"""S14: objects as large as Kubernetes allows do not end a watch, and fit into the receiver's memory."""

import json
from typing import Any
from uuid import uuid4

import pytest

from support.background import ObjectEditor
from support.cluster_state import annotations_of, replica_sets
from support.fault_env import FaultEnv
from support.manifests import env_from, secret, workload
from support.wait import eventually

LARGE = "<" * 1_300_000  # the API server writes each of these characters as six bytes of JSON
MEMORY = 256 * 1024 * 1024  # the chart's limit
OBJECTS = 12
KINDS = {"Deployment": "deployments", "Secret": "secrets"}
MARK = "revision.keyturn.dev/db"  # if this is on the Deployment itself, the receiver has seen the Deployment


def large_deployment(namespace: str, name: str) -> dict[str, Any]:
    made = workload(namespace, name, {"container": {"env": [{"name": "LARGE", "value": LARGE}]}})
    made["spec"]["replicas"] = 0
    return made


def large_secret(namespace: str, name: str) -> dict[str, Any]:
    """Return a labelled Secret that is large because of the name of its owner. Kubernetes does not limit the length of
    that name."""
    made = secret(namespace, name, f"{namespace}/none")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": LARGE[:1_000_000], "uid": str(uuid4())}
    made["metadata"]["ownerReferences"] = [owner]
    return made


def post(env: FaultEnv, path: str, made: dict[str, Any]) -> None:
    """Create an object, with its JSON exactly as given here. kubectl would write each "<" as six bytes, which is too
    much."""
    env.cluster.kubectl(
        "create",
        f"--raw={path}/{made['metadata']['namespace']}/{KINDS[made['kind']]}",
        "-f",
        "-",
        stdin=json.dumps(made),
    )


@pytest.mark.long
@pytest.mark.fault("S14")
def test_large_objects_of_one_tenant_end_no_watch_and_fit_into_memory(env: FaultEnv) -> None:
    """A tenant creates Deployments and bound Secrets of about the largest size that Kubernetes accepts, and edits two
    of them again and again. The receiver sees another tenant's new consumers and restarts them. This receiver and one
    that starts afterwards stay under the memory limit."""
    receiver = env.receiver()
    env.create_bound_secret("db")
    eventually(lambda: env.is_current("db"))
    name = f"hostile-{uuid4().hex[:6]}"
    env.create_objects({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for number in range(OBJECTS):
        post(env, "/apis/apps/v1/namespaces", large_deployment(name, f"d{number}"))
        post(env, "/api/v1/namespaces", large_secret(name, f"s{number}"))
    with ObjectEditor(env.cluster, name, ["deployment/d0", "secret/s0"], "edited={}".format, pause=0.3):
        for number in range(3):
            consumer = f"late{number}"
            env.cluster.create([workload(env.namespace, consumer, env_from("db"))])
            eventually(lambda: MARK in annotations_of(env.cluster, "deployment", env.namespace, consumer))  # noqa: B023
            assert env.send(env.rotate("db")).status == 200
            eventually(lambda: replica_sets(env.cluster, env.namespace, consumer) == 2)  # noqa: B023
    fresh = env.receiver()
    for each in (receiver, fresh):
        assert each.alive()[0] == each.ready()[0] == 200
        assert each.metric("process_resident_memory_bytes") < MEMORY
        assert "LineTooLong" not in each.log
        assert "LimitOverrunError" not in each.log
    env.wait_converged()


def forged_secret(namespace: str, name: str, annotation: str, text: str) -> dict[str, Any]:
    """Return a labelled Secret with one annotation of a size that Kubernetes still accepts."""
    return secret(namespace, name, f"{namespace}/none", **{annotation: text})


@pytest.mark.fault("S14")
def test_forged_records_and_long_annotations_of_one_tenant_fit_into_memory(env: FaultEnv) -> None:
    """A tenant creates 152 bound Secrets with a forged record of 16,000 names, with long bindings, or with a long
    status. One receiver runs meanwhile, and another one starts later. Both stay under the memory limit, and another
    tenant's Secret is filled."""
    receiver = env.receiver()
    name = f"hostile-{uuid4().hex[:6]}"
    env.create_objects({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    names = json.dumps({f"a{number}#": "v" for number in range(16_000)})
    keys = "".join(f"K{number}: k\n" for number in range(7_000))
    forged = [("version-ids", names), ("revisions", names), ("data", keys), ("status", "x" * 200_000)]
    for kind, (annotation, text) in enumerate(forged):
        made = [forged_secret(name, f"s{kind}-{number}", f"keyturn.dev/{annotation}", text) for number in range(38)]
        env.cluster.create(made)
    env.create_bound_secret("db")
    fresh = env.receiver()
    for each in (receiver, fresh):
        eventually(lambda each=each: each.metric("keyturn_bindings") >= 4 * 38 + 1, 60)
    assert env.send_until_accepted(env.rotate("db")).outcome in ("applied", "unchanged")
    env.wait_converged()
    for each in (receiver, fresh):
        assert each.alive()[0] == each.ready()[0] == 200
        assert each.metric("process_resident_memory_bytes") < MEMORY
