"""What a bound Secret lacks, told by the cluster's own metadata: no value and no call is needed."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from keyturn_receiver.core.binding import BindingSpec
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.revision import OK, RECORD, Record
from keyturn_receiver.core.rollout import rollout


class SyncStatus(StrEnum):
    """What has to be done about a Secret."""

    IN_SYNC = "in sync"
    ROLLOUT_DUE = "rollout due"  # a consumer has not been restarted for what the Secret holds
    FILL_DUE = "fill due"  # never filled, edited, garbled, or in an error that may be over


def sync_status(
    record: Record, spec: BindingSpec, solely_managed: bool, secret_name: str, consumers: Iterable[Consumer]
) -> SyncStatus:
    """Compare a Secret's ``record`` with its binding's ``spec`` and with its ``consumers``.

    ``solely_managed``: no other writer has touched what Keyturn owns. Whether AWS has moved on is not asked here:
    notifications and the poller tell that.
    """
    applied = record.filled and record.status == OK and record.binding_hash == spec.hash
    if not applied or not solely_managed:
        return SyncStatus.FILL_DUE
    if any(rollout(consumer, secret_name, record.revisions) for consumer in consumers):
        return SyncStatus.ROLLOUT_DUE
    return SyncStatus.IN_SYNC


def is_solely_managed(manager: str, managed_fields: Iterable[Mapping[str, object]], record: Record) -> bool:
    """Tell whether ``manager``, and nobody since, has applied the keys and the record that the Secret shows.

    Whoever writes another value into a field takes it over, and whoever removes it removes the ownership, too; so the
    fields' owners tell what only a comparison of values could tell otherwise.
    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    for entry in managed_fields:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            fields = as_object(entry.get("fieldsV1"))
            annotations = as_object(as_object(fields.get("f:metadata")).get("f:annotations"))
            keys = {name.removeprefix("f:") for name in as_object(fields.get("f:data"))}
            return keys == record.revisions.keys() and all(f"f:{name}" in annotations for name in RECORD)
    return False
