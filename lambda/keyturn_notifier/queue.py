"""The SQS queue of events. A visibility timeout delays each retry. Poison messages are moved to the dead-letter
queue."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keyturn_notifier.signing import error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

FIRST_DELAY = 2.0  # seconds
# Seconds, equal to VisibilityTimeout in template.yaml. A message becomes a dead letter after maxReceiveCount receives.
# So this delay also determines the longest outage of a receiver that a message survives.
MAX_DELAY = 180.0


def retry_delay(receives: int, retry_after: float, jitter: float) -> int:
    """Return the number of seconds until a message that was received ``receives`` times becomes visible again.

    The delay is an exponential back-off with jitter. It doubles from FIRST_DELAY to MAX_DELAY. ``jitter`` is between 0
    and 1, and shortens the delay by up to half. The delay is never shorter than ``retry_after`` seconds.
    """
    exponential = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(receives - 1, 16))
    return max(round(exponential * (1 - jitter / 2)), math.ceil(retry_after))


class SqsQueue:
    """The event queue and its dead-letter queue. If a call to SQS fails, nothing is lost, because the message stays
    queued."""

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
        """Hide messages until their next attempt. Each record comes with the receiver's Retry-After in seconds. It is 0
        if the receiver sent none."""
        entries: Sequence[Any] = [
            {
                "Id": str(number),
                "ReceiptHandle": record["receiptHandle"],
                "VisibilityTimeout": retry_delay(receive_count(record), retry_after, self._jitter()),
            }
            for number, (record, retry_after) in enumerate(records)
        ]
        for start in range(0, len(entries), 10):  # SQS allows ten entries in one call
            try:
                response = self._sqs.change_message_visibility_batch(
                    QueueUrl=self._queue_url, Entries=entries[start : start + 10]
                )
                codes = sorted({failed["Code"] for failed in response.get("Failed", [])})
            except Exception as error:
                codes = [error_code(error)]
            if codes:
                self._warn("retry delay not set: the queue's own visibility timeout applies", {"errors": codes})

    def dead_letter(self, record: Mapping[str, Any], reason: str) -> bool:
        """Send a message and the reason to the dead-letter queue. Return whether the caller may delete the original
        message."""
        clean = "".join(char if char.isprintable() else "?" for char in reason)  # SQS refuses control characters
        attributes: dict[str, Any] = {
            "reason": {"DataType": "String", "StringValue": clean[:1000]},
            "originalMessageId": {"DataType": "String", "StringValue": record["messageId"]},
        }
        try:
            self._sqs.send_message(QueueUrl=self._dlq_url, MessageBody=record["body"], MessageAttributes=attributes)
        except Exception as error:
            self._warn("sending to the dead-letter queue failed", {"errors": [error_code(error)]})
            return False
        return True


def receive_count(record: Mapping[str, Any]) -> int:
    """Return the approximate number of times that SQS has delivered a message."""
    text = record.get("attributes", {}).get("ApproximateReceiveCount", "1")
    return max(1, int(text)) if str(text).isdecimal() else 1


def seconds_in_queue(record: Mapping[str, Any], now: float) -> float:
    """Return the seconds since a message was sent to the queue. Return 0 if the message does not have SQS's attribute.
    ``now`` is in seconds since the epoch."""
    sent = str(record.get("attributes", {}).get("SentTimestamp", ""))  # in milliseconds
    return max(0.0, now - int(sent) / 1000) if sent.isdecimal() else 0.0
