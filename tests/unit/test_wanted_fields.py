"""What is kept of a workload or pod is all that the receiver reads of it."""

import copy
import json
from typing import Any

import pytest

from keyturn_receiver.cluster.wanted_fields import EVENT, OBJECT, PAGE, POD, workload_decoder
from keyturn_receiver.core.consumer import WorkloadRef, read_consumer
from keyturn_receiver.core.field_owners import other_writer
from keyturn_receiver.core.pod import read_pod
from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS, WorkloadKind

DEEP = WorkloadKind("Deep", "example.org/v1", "deeps", template=("spec", "jobTemplate", "spec", "template"))
FLAT = WorkloadKind("Flat", "example.org/v1", "flats", template=("template",))
KINDS = (*WORKLOAD_KINDS.values(), DEEP, FLAT)
POD_SPEC = {
    "tolerations": [{"operator": "Exists"}] * 3,
    "imagePullSecrets": [{"name": "pull"}],
    "initContainers": [{"name": "init", "image": "x", "env": None, "envFrom": [{"secretRef": {"name": "init"}}]}],
    "containers": [
        {
            "name": "app",
            "image": "x",
            "env": [
                {"name": "PLAIN", "value": "text"},
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "a", "optional": True}}},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "bulk", "optional": True}}],
        }
    ],
    "volumes": [
        {"name": "v", "secret": {"secretName": "files", "items": [{"key": "k", "path": "p"}], "optional": True}},
        {"name": "p", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "part"}}]}},
        {"name": "e", "emptyDir": {}},
    ],
}
READ = {"init", "db", "bulk", "files", "part"}


def workload(kind: WorkloadKind) -> dict[str, Any]:
    """Return a workload with every field that the receiver reads, and with some that it does not read."""
    metadata = {
        "labels": {"keyturn.dev/bnd": "true"},
        "annotations": {"revision.keyturn.dev/db": "v1", "keyturn.dev/rolout": "disabled"},
    }
    inner: dict[str, Any] = {"metadata": {"creationTimestamp": None, **metadata}, "spec": POD_SPEC}
    owned: dict[str, Any] = {"f:metadata": {"f:annotations": {"f:revision.keyturn.dev/db": {}}}, "f:spec": {"f:x": {}}}
    for field in reversed(kind.template):
        inner, owned = {field: inner}, {f"f:{field}": owned}
    inner.setdefault("spec", {}).update({"updateStrategy": {"type": "OnDelete"}, "replicas": 2, "serviceName": "x"})
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    status = {"observedGeneration": 4, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1, "collisionCount": 3}
    return {
        **inner,
        "kind": kind.kind,
        "status": {**status, "conditions": [condition]},
        "metadata": {
            "namespace": "team",
            "name": "web",
            "uid": "u",
            "resourceVersion": "7",
            "generation": 4,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
            "managedFields": [
                {"manager": "keyturn", "operation": "Apply", "time": "2026-01-01T00:00:02Z", "fieldsV1": {}},
                {"manager": "status", "subresource": "status", "time": "2026-01-01T00:00:03Z", "fieldsV1": owned},
                {"manager": "helm", "operation": "Update", "time": "2026-01-01T00:00:01Z", "fieldsV1": owned},
            ],
        },
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_consumer_is_read_from_what_is_kept_as_from_the_whole_workload(kind: WorkloadKind) -> None:
    whole = workload(kind)
    kept = workload_decoder(kind).decode(json.dumps(whole))
    consumer = read_consumer(kind, whole)
    assert consumer
    assert read_consumer(kind, kept) == consumer
    assert consumer.reads.keys() >= READ
    assert not consumer.progress or consumer.progress.updated or kind.kind == "DaemonSet"
    assert consumer.faults
    assert len(json.dumps(kept)) < len(json.dumps(whole))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("removed", [False, True])
def test_other_writer_is_read_from_what_is_kept_as_from_the_whole_workload(kind: WorkloadKind, removed: bool) -> None:
    whole = workload(kind)
    kept = workload_decoder(kind).decode(json.dumps(whole))
    for annotation in ("revision.keyturn.dev/db", "revision.keyturn.dev/other"):
        assert other_writer(kind, kept, annotation, removed) == other_writer(kind, whole, annotation, removed)
    assert other_writer(kind, kept, "revision.keyturn.dev/db", removed) == "helm"


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_pod_is_read_from_what_is_kept_as_from_the_whole_pod(phase: str) -> None:
    owner = {"apiVersion": "apps/v1", "controller": True, "kind": "ReplicaSet", "name": "web-1", "uid": "r"}
    metadata = {"name": "web-1-a", "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [owner]}
    metadata["labels"] = {"pod-template-hash": "1"}
    whole = {"metadata": metadata, "spec": POD_SPEC, "status": {"phase": phase}}
    (text,) = PAGE.decode(json.dumps({"metadata": {}, "items": [whole]}))["items"]
    ref = WorkloadRef("Deployment", "team", "web")
    assert read_pod(POD.decode(text), ref, "u") == read_pod(whole, ref, "u")
    assert (read_pod(whole, ref, "u") is None) == (phase == "Succeeded")


def test_absent_and_null_fields_are_kept_as_they_are() -> None:
    kind = WORKLOAD_KINDS["Deployment"]
    decoder = workload_decoder(kind)
    whole = workload(kind)
    for path in (("spec",), ("spec", "template"), ("spec", "template", "spec"), ("metadata", "managedFields")):
        for remove in (False, True):
            obj = copy.deepcopy(whole)
            inner = obj
            for field in path[:-1]:
                inner = inner[field]
            inner[path[-1]] = None
            if remove:
                del inner[path[-1]]
            assert read_consumer(kind, decoder.decode(json.dumps(obj))) == read_consumer(kind, obj)


def test_object_of_a_watch_event_is_parsed_by_the_decoder_of_its_kind() -> None:
    kind = WORKLOAD_KINDS["Deployment"]
    whole = workload(kind)
    event = EVENT.decode(json.dumps({"object": whole, "type": "ADDED"}))
    assert event.type == "ADDED"
    assert read_consumer(kind, workload_decoder(kind).decode(event.object)) == read_consumer(kind, whole)
    assert OBJECT.decode(event.object) == whole
