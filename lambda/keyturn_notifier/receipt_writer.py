"""Writer of receipts. It collects receipts while the results of an invocation arrive, and puts them on the bus at the
end of the invocation."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from keyturn_contract.message import EventType, Notification
from keyturn_notifier import receipts
from keyturn_notifier.disposition import DeliveryResult, Disposition
from keyturn_notifier.receipt_bus import ReceiptBus
from keyturn_notifier.receipts import Receipt

MAX_TOLD = 10_000  # at most this many ids of written receipts are kept in memory
MAX_PENDING = 200  # at most this many receipts about versions in one invocation; the next heartbeat repeats the others


class ReceiptWriter:
    """Writer of receipts for one bus. ``with_details`` tells whether receipts contain the names of Kubernetes objects.

    Receivers repeat each state of a version for a quarter of an hour. The writer remembers the receipts that it has
    written. So each execution environment of the function writes the receipt of a state only once.
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
        dead_lettered: bool,
    ) -> None:
        """Collect the receipts about one notification. ``records`` are the SQS records that contain it. ``results`` has
        the result of each host. ``age`` is in seconds. ``dead_lettered`` tells whether all records were moved to the
        dead-letter queue."""
        if notification.type is EventType.HEARTBEAT:
            self._collect_versions(results)
            return
        if all(result.disposition is Disposition.DONE for result in results.values()):
            receipt = receipts.applied(notification, results, age, self._with_details)
        else:
            receipt = receipts.waiting(notification, records, results, age, dead_lettered, self._with_details)
        if receipt:
            self._pending.append(receipt)

    def flush(self, deadline: float) -> None:
        """Put the collected receipts on the bus before ``deadline``, a time of the monotonic clock. A receipt that
        cannot be put is lost. But a receipt about a version is written again if a later heartbeat repeats the state."""
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
