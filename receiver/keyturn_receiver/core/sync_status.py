"""Whether a bound Secret is as it should be, as far as the cluster's own metadata tell: no value and no call needed."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from keyturn_receiver.core.binding import binding_hash
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.revision import OK, RECORD, Record
from keyturn_receiver.core.rollout import rollout


class SyncStatus(StrEnum):
    """What a Secret lacks."""

    NOTHING = "nothing"
    RESTARTS = "restarts"  # its consumers have not been told of what it holds
    DATA = "data"  # never filled, edited, garbled, or in an error that may be over


def due(
    record: Record, annotations: Mapping[str, str], intact: bool, secret_name: str, consumers: Iterable[Consumer]
) -> SyncStatus:
    """Tell what is to be done about a Secret, by its ``record``, its binding's ``annotations`` and its ``consumers``.

    ``intact``: nobody else has written what Keyturn owns. Whether AWS has moved on is for notifications and the poller.
    """
    in_order = record.filled and record.status == OK and record.binding_hash == binding_hash(annotations)
    if not in_order or not intact:
        return SyncStatus.DATA
    if any(rollout(consumer, secret_name, record.revisions) for consumer in consumers):
        return SyncStatus.RESTARTS
    return SyncStatus.NOTHING


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
