"""Queues as moto has them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


def waiting(sqs: "SQSClient", url: str) -> int:
    """Messages in a queue, whether visible or put off.

    To be asked more than once: moto counts the two one after the other, and a message that gets visible in between is
    counted twice, or not at all.
    """
    told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(told["ApproximateNumberOfMessages"]) + int(told["ApproximateNumberOfMessagesNotVisible"])
