"""Writes the receipts of one invocation: it collects them while the results come, and puts them at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from keyturn_contract.message import Notification
from keyturn_notifier import receipts
from keyturn_notifier.disposition import DeliveryResult, Disposition
from keyturn_notifier.receipt_bus import ReceiptBus
from keyturn_notifier.receipts import Receipt


class ReceiptWriter:
    """Writer for one bus. ``with_details`` decides whether receipts have the names of Kubernetes objects."""

    def __init__(self, bus: ReceiptBus, with_details: bool) -> None:
        self._bus = bus
        self._with_details = with_details
        self._pending: list[Receipt] = []

    def collect(
        self,
        notification: Notification,
        records: Sequence[Mapping[str, Any]],
        results: Mapping[str, DeliveryResult],
        age: float,
    ) -> None:
        """Note what became of a notification in this invocation. ``records`` are the SQS records that carried it,
        ``results`` are by host, and ``age`` is in seconds."""
        if all(result.disposition is Disposition.DONE for result in results.values()):
            receipt = receipts.applied(notification, results, age, self._with_details)
        else:
            receipt = receipts.waiting(notification, records, results, age, self._with_details)
        if receipt:
            self._pending.append(receipt)

    def flush(self, deadline: float) -> None:
        """Put what was collected, before ``deadline`` of the monotonic clock. What cannot be put is lost."""
        pending, self._pending = self._pending, []
        self._bus.put(pending, deadline)
