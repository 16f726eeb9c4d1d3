"""The queue that the events come from: what is to come again, and when; what never will, and why."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keyturn_notifier.signing import error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 180.0  # template.yaml: with maxReceiveCount it says how long a dead receiver is outlived


def delay(receives: int, retry_after: float, jitter: float) -> int:
    """Seconds until a message received ``receives`` times comes again.

    Doubles from FIRST_SECONDS to LONGEST_SECONDS, less up to a half for ``jitter`` from 0 to 1; never before
    ``retry_after`` seconds.
    """
    doubled = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(receives - 1, 16))
    return max(round(doubled * (1 - jitter / 2)), math.ceil(retry_after))


class Queue:
    """The queue and its dead-letter queue, through SQS. A call that fails loses nothing: the message stays."""

    def __init__(
        self,
        sqs: "SQSClient",
        queue_url: str,
        dlq_url: str,
        warn: Callable[[str, Mapping[str, Any]], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._dlq_url = dlq_url
        self._warn = warn
        self._jitter = jitter

    def postpone(self, records: Sequence[tuple[Mapping[str, Any], float]]) -> None:
        """Let messages stay away until their next try: each with the seconds that the receiver asked for (0: none)."""
        entries: Sequence[Any] = [
            {
                "Id": str(number),
                "ReceiptHandle": record["receiptHandle"],
                "VisibilityTimeout": delay(_receives(record), retry_after, self._jitter()),
            }
            for number, (record, retry_after) in enumerate(records)
        ]
        for start in range(0, len(entries), 10):  # SQS's limit for one call
            try:
                answer = self._sqs.change_message_visibility_batch(
                    QueueUrl=self._queue_url, Entries=entries[start : start + 10]
                )
                codes = sorted({failed["Code"] for failed in answer.get("Failed", [])})
            except Exception as error:
                codes = [error_code(error)]
            if codes:
                self._warn("not postponed: the queue's own visibility time-out holds", {"errors": codes})

    def bury(self, record: Mapping[str, Any], reason: str) -> bool:
        """Put a message where a person will look, with the reason; tell whether it may leave the queue now."""
        clean = "".join(char if char.isprintable() else "?" for char in reason)  # SQS takes no others
        attributes: dict[str, Any] = {
            "reason": {"DataType": "String", "StringValue": clean[:1000]},
            "originalMessageId": {"DataType": "String", "StringValue": record["messageId"]},
        }
        try:
            self._sqs.send_message(QueueUrl=self._dlq_url, MessageBody=record["body"], MessageAttributes=attributes)
        except Exception as error:
            self._warn("the dead-letter queue takes no message", {"errors": [error_code(error)]})
            return False
        return True


def _receives(record: Mapping[str, Any]) -> int:
    text = record.get("attributes", {}).get("ApproximateReceiveCount", "1")
    return max(1, int(text)) if str(text).isdecimal() else 1
