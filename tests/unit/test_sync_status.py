"""Sync status: the work that a Secret needs, derived from its metadata and its consumers."""

from dataclasses import replace

import pytest

from keyturn_receiver.core.binding import SECRET_ID, binding_hash, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.integrity import owns_all
from keyturn_receiver.core.revision import RECORD, Record, digest
from keyturn_receiver.core.rollout_switch import Switch
from keyturn_receiver.core.sync_status import SyncStatus, sync_status

ANNOTATIONS = {SECRET_ID: "prod/db"}
APPLIED = Record({"arn#AWSCURRENT": "v1"}, {"a": "v1", "b": "v1"}, "hash", binding_hash(ANNOTATIONS), "ok")


def consumer(mark: str | None) -> Consumer:
    marks = {mark_name("db"): mark} if mark else {}
    ref = WorkloadRef("Deployment", "team", "web")
    return Consumer(ref, "1", {"db": Reads(whole=True)}, {}, marks, switch=Switch.UNSET)


def test_filled_secret_with_marked_consumers_is_in_sync() -> None:
    marked = consumer(digest(APPLIED.revisions, ["a", "b"]))
    assert sync_status(APPLIED, read_spec(ANNOTATIONS), True, "db", [marked]) is SyncStatus.IN_SYNC


@pytest.mark.parametrize("mark", [None, "of an older revision"])
def test_consumer_without_the_current_mark_is_due_for_a_rollout(mark: str | None) -> None:
    assert sync_status(APPLIED, read_spec(ANNOTATIONS), True, "db", [consumer(mark)]) is SyncStatus.ROLLOUT_DUE


@pytest.mark.parametrize(
    ("record", "annotations", "intact"),
    [
        (Record(), ANNOTATIONS, True),
        (APPLIED, {SECRET_ID: "prod/other"}, True),
        (APPLIED, ANNOTATIONS, False),
        (replace(APPLIED, status="SourceRefused: ..."), ANNOTATIONS, True),
        (replace(APPLIED, binding_hash=""), ANNOTATIONS, True),  # an older Keyturn wrote this record
    ],
    ids=["never filled", "bound to another secret", "edited by a person", "in an error", "without a binding hash"],
)
def test_secret_without_a_valid_record_is_due_for_a_fill(
    record: Record, annotations: dict[str, str], intact: bool
) -> None:
    assert sync_status(record, read_spec(annotations), intact, "db", []) is SyncStatus.FILL_DUE


def managed(keys: str, annotations: tuple[str, ...] = RECORD, manager: str = "keyturn", operation: str = "Apply"):
    fields = {
        "f:data": {f"f:{key}": {} for key in keys},
        "f:metadata": {"f:annotations": {f"f:{name}": {} for name in annotations}},
    }
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


@pytest.mark.parametrize(
    ("fields", "owned"),
    [
        ([managed("ab")], True),
        ([managed("ab"), managed("c", (), "kubectl-edit", "Update")], True),  # another writer owns c
        ([managed("a"), managed("b", (), "kubectl-edit", "Update")], False),
        ([managed("a")], False),  # another writer has removed b
        ([managed("ab", RECORD[1:])], False),
        ([managed("ab", operation="Update")], False),
        ([managed("ab", manager="kubectl")], False),
        ([], False),
        ([{"manager": "keyturn", "operation": "Apply", "fieldsV1": "malformed"}], False),
    ],
)
def test_edit_by_another_writer_changes_the_owners_of_fields(fields: list, owned: bool) -> None:
    assert owns_all("keyturn", fields, APPLIED) is owned
