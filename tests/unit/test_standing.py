"""Whether a Secret is as it should be, told by its metadata alone."""

from dataclasses import replace

import pytest

from keyturn_receiver.core.binding import SECRET_ID, binding_hash, read_spec
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef, mark_name
from keyturn_receiver.core.revision import RECORD, Record, digest
from keyturn_receiver.core.sync_status import SyncStatus, is_solely_managed, sync_status

ANNOTATIONS = {SECRET_ID: "prod/db"}
RECORD_OF_IT = Record({"arn#AWSCURRENT": "v1"}, {"a": "v1", "b": "v1"}, "hash", binding_hash(ANNOTATIONS), "ok")


def consumer(mark: str | None) -> Consumer:
    marks = {mark_name("db"): mark} if mark else {}
    ref = WorkloadRef("Deployment", "team", "web")
    return Consumer(ref, "1", {"db": Reads(whole=True)}, {}, marks, rollout_disabled=False, manual=False)


def test_what_is_in_order_is_left_alone() -> None:
    marked = consumer(digest(RECORD_OF_IT.revisions, ["a", "b"]))
    assert sync_status(RECORD_OF_IT, read_spec(ANNOTATIONS), True, "db", [marked]) is SyncStatus.IN_SYNC


@pytest.mark.parametrize("mark", [None, "of an older revision"])
def test_a_consumer_that_does_not_know_yet_is_told(mark: str | None) -> None:
    assert sync_status(RECORD_OF_IT, read_spec(ANNOTATIONS), True, "db", [consumer(mark)]) is SyncStatus.ROLLOUT_DUE


@pytest.mark.parametrize(
    ("record", "annotations", "intact"),
    [
        (Record(), ANNOTATIONS, True),
        (RECORD_OF_IT, {SECRET_ID: "prod/other"}, True),
        (RECORD_OF_IT, ANNOTATIONS, False),
        (replace(RECORD_OF_IT, status="SourceRefused: ..."), ANNOTATIONS, True),
        (replace(RECORD_OF_IT, binding_hash=""), ANNOTATIONS, True),  # written by an older Keyturn
    ],
    ids=["never filled", "bound to another", "edited by hand", "was in an error", "does not say what it was bound to"],
)
def test_what_is_not_in_order_is_looked_at(record: Record, annotations: dict[str, str], intact: bool) -> None:
    assert sync_status(record, read_spec(annotations), intact, "db", []) is SyncStatus.FILL_DUE


def managed(keys: str, annotations: tuple[str, ...] = RECORD, manager: str = "keyturn", operation: str = "Apply"):
    fields = {
        "f:data": {f"f:{key}": {} for key in keys},
        "f:metadata": {"f:annotations": {f"f:{name}": {} for name in annotations}},
    }
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


@pytest.mark.parametrize(
    ("fields", "intact"),
    [
        ([managed("ab")], True),
        ([managed("ab"), managed("c", (), "kubectl-edit", "Update")], True),  # a key of their own
        ([managed("a"), managed("b", (), "kubectl-edit", "Update")], False),
        ([managed("a")], False),  # somebody has removed the other
        ([managed("ab", RECORD[1:])], False),
        ([managed("ab", operation="Update")], False),
        ([managed("ab", manager="kubectl")], False),
        ([], False),
        ([{"manager": "keyturn", "operation": "Apply", "fieldsV1": "garbled"}], False),
    ],
)
def test_who_owns_the_fields_tells_whether_a_hand_was_in_it(fields: list, intact: bool) -> None:
    assert is_solely_managed("keyturn", fields, RECORD_OF_IT) is intact
