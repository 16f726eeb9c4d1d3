"""Signed deliveries for tests, as the notifier would send them."""

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from keyturn_contract.message import CONTENT_TYPE_BATCH, EventType, Notification, NotificationData
from keyturn_contract.signature import parse_key, sign

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from keyturn_local.stack import Stack


def notification(subject: str, version_id: str = "v1", kind: EventType = EventType.CHANGED) -> Notification:
    """Return a notification with a new id. Unless ``kind`` is given, it reports that AWSCURRENT of ``subject`` has
    moved to ``version_id``."""
    data = NotificationData(
        "SecretLabelUpdated", "123456789012", "us-east-1", version_id=version_id, label="AWSCURRENT"
    )
    return Notification(str(uuid4()), "aws.secretsmanager", kind, subject, "2026-11-24T00:00:00Z", data)


def current_key(stack: "Stack") -> bytes:
    """Return the current signing key."""
    answer = stack.aws.secrets_manager().get_secret_value(SecretId=stack.path.signing_key_secret_id)
    return parse_key(answer["SecretString"])


def signed(key: bytes, body: bytes, age: int = 0) -> dict[str, str]:
    """Return the headers of a delivery of ``body``, with a new id and a signature that is ``age`` seconds old."""
    message_id, timestamp = f"msg_{uuid4().hex}", int(time.time()) - age
    return {
        "content-type": CONTENT_TYPE_BATCH,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(key, message_id, timestamp, body),
    }


def queue_length(sqs: "SQSClient", url: str) -> int:
    """Return the number of messages in a queue, both visible and in flight.

    Poll this function instead of trusting one result. moto counts the visible messages and those in flight one after
    the other, so a message that becomes visible in between is counted twice or not at all.
    """
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesNotVisible"])
