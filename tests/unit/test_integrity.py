"""Integrity: whether a Secret still is as Keyturn wrote it, whoever seems to own its fields."""

import json
from base64 import b64encode
from copy import deepcopy
from typing import Any

import pytest

from keyturn_receiver.cluster.record_key import RecordKey
from keyturn_receiver.core.integrity import Integrity, holders, integrity
from keyturn_receiver.core.revision import (
    APPLIED_AT,
    BINDING_HASH,
    DATA_HASH,
    RECORD,
    RECORD_HASH,
    REVISIONS,
    VERSION_IDS,
    read_record,
    unkeyed_data_hash,
)
from support.bindings import KEYED, bound_object
from support.counted_map import CountedMap

PIN = "123456"


def filled() -> dict[str, Any]:
    return bound_object("db", PIN)


def judged(obj: dict[str, Any], keyed: RecordKey = KEYED) -> Integrity:
    metadata = obj["metadata"]
    return integrity(keyed, "keyturn", metadata, obj["data"], read_record(metadata["annotations"]))


def unkeyed(obj: dict[str, Any], value: str = PIN) -> dict[str, Any]:
    """Return the Secret as release 0.2 would have written it."""
    obj = deepcopy(obj)
    annotations = obj["metadata"]["annotations"]
    del annotations[RECORD_HASH]
    annotations[DATA_HASH] = unkeyed_data_hash({"value": value.encode()})
    return obj


def test_filled_secret_is_intact() -> None:
    assert judged(filled()) is Integrity.INTACT


def test_never_filled_secret_is_not_intact() -> None:
    assert judged(bound_object("db")) is Integrity.BROKEN


def test_foreign_keys_do_not_matter() -> None:
    obj = filled()
    obj["data"]["theirs"] = b64encode(b"x").decode()
    assert judged(obj) is Integrity.INTACT


@pytest.mark.parametrize("value", ["other", "", PIN + " "])
def test_changed_value_is_noticed_although_the_owner_of_its_field_is_the_same(value: str) -> None:
    obj = filled()
    obj["data"]["value"] = b64encode(value.encode()).decode()
    assert judged(obj) is Integrity.BROKEN


def test_removed_key_is_noticed_although_the_owner_of_its_field_is_the_same() -> None:
    obj = filled()
    del obj["data"]["value"]
    assert judged(obj) is Integrity.BROKEN


@pytest.mark.parametrize("name", [VERSION_IDS, REVISIONS, DATA_HASH, BINDING_HASH, RECORD_HASH])
@pytest.mark.parametrize("text", ["", "{}", '{"value": "v2"}', "x" * 64, "\ud800"])
def test_changed_record_is_noticed(name: str, text: str) -> None:
    obj = filled()
    obj["metadata"]["annotations"][name] = text
    assert judged(obj) is Integrity.BROKEN


def test_record_of_another_secret_is_noticed() -> None:
    obj = filled()
    obj["metadata"]["uid"] = "of a Secret that was created again"
    assert judged(obj) is Integrity.BROKEN


def test_record_of_another_key_is_noticed() -> None:
    assert judged(filled(), RecordKey(b"another key")) is Integrity.BROKEN


def test_owner_that_has_lost_the_record_is_noticed() -> None:
    obj = filled()
    (entry,) = obj["metadata"]["managedFields"]
    del entry["fieldsV1"]["f:metadata"]["f:annotations"][f"f:{APPLIED_AT}"]
    assert judged(obj) is Integrity.BROKEN


def test_record_of_release_0_2_is_told_from_an_edited_one() -> None:
    assert judged(unkeyed(filled())) is Integrity.UNKEYED
    assert judged(unkeyed(filled(), "other")) is Integrity.BROKEN


def test_annotations_do_not_reveal_a_pin() -> None:
    annotations = json.dumps(filled()["metadata"]["annotations"])
    assert unkeyed_data_hash({"value": PIN.encode()}) not in annotations
    assert KEYED.value.decode() not in annotations
    assert (
        filled()["metadata"]["annotations"][DATA_HASH]
        != bound_object("other", PIN)["metadata"]["annotations"][DATA_HASH]
    )


def entry(manager: str, *keys: str, field: str = "f:data", operation: str = "Update") -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": operation,
        "fieldsV1": {field: {".": {}, **{f"f:{key}": {} for key in keys}}},
    }


def test_holders_are_those_who_hold_a_key_that_keyturn_has_not_applied() -> None:
    entries = [
        entry("keyturn", "a", "shared", operation="Apply"),
        entry("kubectl-edit", "b", "shared", "gone"),
        entry("helm", "c", field="f:stringData"),
    ]
    assert holders("keyturn", entries, ["a", "b", "c", "d", "shared"]) == {"b": "kubectl-edit", "c": "helm", "d": ""}


@pytest.mark.parametrize("manager", ["keyturn", "kubectl"])
def test_fields_of_a_tenant_are_not_looked_at_one_by_one(manager: str) -> None:
    """A Secret may have tens of thousands of annotations and keys, and its integrity is judged on the event loop, at
    each watch event."""
    obj = filled()
    metadata = obj["metadata"]
    many = {f"x-{number}": "" for number in range(20_000)}
    keys = CountedMap({"f:value": {}, **{f"f:{name}": {} for name in many}})
    names = CountedMap({**{f"f:{name}": {} for name in (*RECORD, *many)}})
    texts = CountedMap({**metadata["annotations"], **many})
    fields = {"f:data": keys, "f:metadata": {"f:annotations": names}}
    metadata["managedFields"].insert(0, {"manager": manager, "operation": "Apply", "fieldsV1": fields})
    whole = integrity(KEYED, "keyturn", {**metadata, "annotations": texts}, obj["data"], read_record(texts))
    assert whole is (Integrity.BROKEN if manager == "keyturn" else Integrity.INTACT)
    assert max(keys.looks, names.looks, texts.looks) < 50
