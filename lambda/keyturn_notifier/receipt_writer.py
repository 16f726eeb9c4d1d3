"""Writes the receipts of one invocation: it collects them while the results come, and puts them at the end."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from keyturn_contract.message import EventType, Notification
from keyturn_notifier import receipts
from keyturn_notifier.disposition import DeliveryResult, Disposition
from keyturn_notifier.receipt_bus import ReceiptBus
from keyturn_notifier.receipts import Receipt

MAX_TOLD = 10_000  # ids of receipts about versions that are kept in memory
MAX_PENDING = 200  # receipts about versions in one invocation; the next heartbeat brings the others again


class ReceiptWriter:
    """Writer for one bus. ``with_details`` decides whether receipts have the names of Kubernetes objects.

    Receivers repeat for a quarter of an hour what they say about a version. The writer remembers what it has put, so
    one execution environment of the function puts each of these receipts once.
    """

    def __init__(self, bus: ReceiptBus, with_details: bool) -> None:
        self._bus = bus
        self._with_details = with_details
        self._pending: list[Receipt] = []
        self._of_versions: dict[str, Receipt] = {}
        self._told: OrderedDict[str, None] = OrderedDict()

    def collect(
        self,
        notification: Notification,
        records: Sequence[Mapping[str, Any]],
        results: Mapping[str, DeliveryResult],
        age: float,
    ) -> None:
        """Note what became of a notification in this invocation. ``records`` are the SQS records that carried it,
        ``results`` are by host, and ``age`` is in seconds."""
        if notification.type is EventType.HEARTBEAT:
            self._collect_versions(results)
            return
        if all(result.disposition is Disposition.DONE for result in results.values()):
            receipt = receipts.applied(notification, results, age, self._with_details)
        else:
            receipt = receipts.waiting(notification, records, results, age, self._with_details)
        if receipt:
            self._pending.append(receipt)

    def flush(self, deadline: float) -> None:
        """Put what was collected, before ``deadline`` of the monotonic clock. What cannot be put is lost, but for
        receipts about versions, which a later heartbeat may bring again."""
        pending = [*self._pending, *self._of_versions.values()]
        self._pending, self._of_versions = [], {}
        for receipt in self._bus.put(pending, deadline):
            self._told[receipt.detail["receiptId"]] = None
        while len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)

    def _collect_versions(self, results: Mapping[str, DeliveryResult]) -> None:
        for host, result in results.items():
            for state in result.result.versions if result.result else ():
                receipt = receipts.of_version(host, state, self._with_details)
                receipt_id = receipt.detail["receiptId"]
                if receipt_id not in self._told and len(self._of_versions) < MAX_PENDING:
                    self._of_versions[receipt_id] = receipt
