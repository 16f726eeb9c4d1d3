"""Sync status: whether a bound Secret needs work. Only the caches are needed to find out, so no API is called."""

from collections.abc import Iterable
from enum import StrEnum

from keyturn_receiver.core.binding import BindingSpec
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.revision import OK, Record
from keyturn_receiver.core.rollout import rollout


class SyncStatus(StrEnum):
    """The work that makes a Secret match its binding."""

    IN_SYNC = "in sync"
    ROLLOUT_DUE = "rollout due"  # a consumer lacks the mark of the present keys, so it may need a restart
    # The Secret was never filled, its content, binding or state label was edited, its record is malformed, it has an
    # error whose cause may be gone, or somebody has asked for a reconcile.
    FILL_DUE = "fill due"


def sync_status(
    record: Record, spec: BindingSpec, intact: bool, secret_name: str, consumers: Iterable[Consumer]
) -> SyncStatus:
    """Compare a Secret's ``record`` (Keyturn's notes in annotations) with the ``spec`` of its binding and with its
    ``consumers``.

    ``intact`` is true if the Secret's keys and record are as Keyturn wrote them (integrity.py). Changes in AWS are not
    considered here, because notifications and the poller detect them.
    """
    applied = record.was_written and record.status == OK and record.labelled and record.binding_hash == spec.hash
    applied = applied and spec.reconcile in ("", record.reconciled)
    if not applied or not intact:
        return SyncStatus.FILL_DUE
    if any(rollout(consumer, secret_name, record) for consumer in consumers):
        return SyncStatus.ROLLOUT_DUE
    return SyncStatus.IN_SYNC
