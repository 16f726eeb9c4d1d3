"""Bound Secrets in the form in which a watch delivers them, for tests without an API server."""

from base64 import b64encode
from typing import Any

from keyturn_receiver.cluster.record_key import RecordKey
from keyturn_receiver.core.binding import SECRET_ID, binding_hash
from keyturn_receiver.core.revision import (
    RECORD,
    RECORD_HASH,
    STATE,
    Record,
    data_hash,
    record_hash,
    state_of,
    version_key,
    write_record,
)

KEYED = RecordKey(b"the record key of the unit tests")
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/{}-a1B2c3"


def bound_object(
    name: str, version_id: str | None = None, status: str = "ok", version: int = 1, **annotations: str
) -> dict[str, Any]:
    """Return a Secret bound to `prod/<name>`.

    If ``version_id`` is None, the Secret has never been filled. Otherwise it has been filled from this version, and the
    value of the version is the id itself.
    """
    binding = {SECRET_ID: f"prod/{name}", **annotations}
    fields: list[Any] = []
    uid, values = f"uid-{name}", {"value": version_id.encode()} if version_id else {}
    record = Record(status="" if status == "ok" else status)
    if version_id:
        version_ids = {version_key(ARN.format(name), "AWSCURRENT"): version_id}
        record = Record(
            version_ids, {"value": version_id}, data_hash(KEYED, uid, values), binding_hash(binding), status
        )
        ours = {f"f:{each}": {} for each in RECORD}
        owned = {"f:data": {"f:value": {}}, "f:metadata": {"f:annotations": ours}}
        fields = [{"manager": "keyturn", "operation": "Apply", "fieldsV1": owned}]
    annotations = {**binding, **write_record(record, "2026-11-25T00:00:00Z")}
    annotations[RECORD_HASH] = record_hash(KEYED, uid, annotations)
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"keyturn.dev/bind": "true", STATE: state_of(record.status)},
            "annotations": annotations,
            "managedFields": fields,
        },
        "data": {key: b64encode(value).decode() for key, value in values.items()},
    }
