"""Sync status: whether a bound Secret needs work. It is derived from cached metadata alone, without values or calls."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from keyturn_receiver.core.binding import BindingSpec
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.revision import OK, RECORD, Record
from keyturn_receiver.core.rollout import rollout


class SyncStatus(StrEnum):
    """What has to be done so that a Secret matches its binding."""

    IN_SYNC = "in sync"
    ROLLOUT_DUE = "rollout due"  # a consumer has not been restarted since its keys changed
    # The Secret was never filled, was edited, has a malformed record, or has an error whose cause may be gone.
    FILL_DUE = "fill due"


def sync_status(
    record: Record, spec: BindingSpec, solely_managed: bool, secret_name: str, consumers: Iterable[Consumer]
) -> SyncStatus:
    """Compare a Secret's ``record`` with the ``spec`` of its binding and with its ``consumers``.

    ``solely_managed`` is true if no other writer has changed the fields that Keyturn owns. Changes in AWS are not
    considered here, because notifications and the poller detect them.
    """
    applied = record.was_written and record.status == OK and record.labelled and record.binding_hash == spec.hash
    applied = applied and spec.reconcile in ("", record.reconciled)
    if not applied or not solely_managed:
        return SyncStatus.FILL_DUE
    if any(rollout(consumer, secret_name, record) for consumer in consumers):
        return SyncStatus.ROLLOUT_DUE
    return SyncStatus.IN_SYNC


def is_solely_managed(manager: str, managed_fields: Iterable[Mapping[str, object]], record: Record) -> bool:
    """Return whether ``manager`` has applied the Secret's keys and record, and no other writer has changed them since.

    A writer that changes the value of a field becomes the field's owner, and a writer that removes a field also removes
    its ownership. So the owners of the fields reveal an edit, and no values have to be compared.
    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    for entry in managed_fields:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            fields = as_object(entry.get("fieldsV1"))
            annotations = as_object(as_object(fields.get("f:metadata")).get("f:annotations"))
            keys = {name.removeprefix("f:") for name in as_object(fields.get("f:data"))}
            return keys == record.revisions.keys() and all(f"f:{name}" in annotations for name in RECORD)
    return False
