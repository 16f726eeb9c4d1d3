"""Metadata of bound Secrets in the form in which a watch delivers it, for tests without an API server."""

from typing import Any

from keyturn_receiver.core.binding import SECRET_ID, binding_hash
from keyturn_receiver.core.revision import RECORD, STATE, Record, state_of, version_key, write_record

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/{}-a1B2c3"


def bound_object(
    name: str, version_id: str | None = None, status: str = "ok", version: int = 1, **annotations: str
) -> dict[str, Any]:
    """Return the metadata of a Secret bound to `prod/<name>`.

    The Secret has been filled from ``version_id``, or has never been filled if that is None.
    """
    binding = {SECRET_ID: f"prod/{name}", **annotations}
    fields: list[Any] = []
    record = Record(status="" if status == "ok" else status)
    if version_id:
        version_ids = {version_key(ARN.format(name), "AWSCURRENT"): version_id}
        record = Record(version_ids, {"value": version_id}, "hash", binding_hash(binding), status)
        ours = {f"f:{each}": {} for each in RECORD}
        owned = {"f:data": {"f:value": {}}, "f:metadata": {"f:annotations": ours}}
        fields = [{"manager": "keyturn", "operation": "Apply", "fieldsV1": owned}]
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"keyturn.dev/bind": "true", STATE: state_of(record.status)},
            "annotations": {**binding, **write_record(record, "2026-11-25T00:00:00Z")},
            "managedFields": fields,
        }
    }
