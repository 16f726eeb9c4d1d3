"""What Lambda calls: records from SQS in, those to be sent again out. The composition root of the notifier."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import urllib3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from keyturn_contract.message import MAX_BODY, Notification, encode
from keyturn_contract.signature import parse_key
from keyturn_notifier.delivery import Delivery, Fate
from keyturn_notifier.event import Ignored, Malformed, read
from keyturn_notifier.settings import read_settings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_secretsmanager import SecretsManagerClient

logger = Logger(service="keyturn-notifier")
metrics = Metrics(namespace="Keyturn", service="keyturn-notifier")


class Notifier:
    """The notifier's parts, put together once for all invocations of one sandbox."""

    def __init__(self) -> None:
        settings = read_settings()
        self._settings = settings
        # The stub types are those of `boto3-stubs-lite`, which gives clients their types by annotation.
        self._secrets_manager: SecretsManagerClient = boto3.client("secretsmanager")
        self._sqs = boto3.client("sqs")
        self._key: bytes | None = None
        timeout = urllib3.Timeout(connect=3.0, read=settings.timeout_seconds)
        self._delivery = Delivery(settings.receiver_url, self._signing_key, urllib3.PoolManager(timeout=timeout))

    def handle(self, records: Sequence[dict[str, Any]]) -> list[str]:
        """Deliver the events in ``records`` (SQS, as Lambda gives them); return the ids of messages to send again."""
        # EventBridge may send an event twice: the two messages share one notification, and its fate.
        messages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        notifications: dict[str, Notification] = {}
        again: list[str] = []
        for record in records:
            try:
                outcome = read(json.loads(record["body"]))
            except (Malformed, ValueError) as error:
                reason = str(error) if isinstance(error, Malformed) else "the body is not JSON"
                again += self._poison(record, reason)
                continue
            if isinstance(outcome, Ignored):
                logger.info("ignored", extra={"message_id": record["messageId"], "reason": outcome.reason})
                continue
            messages[outcome.id].append(record)
            notifications[outcome.id] = outcome
        for batch in _batches([*notifications.values()]):
            fates, word = self._delivery.deliver(batch)
            for notification in batch:
                again += self._settle(notification, fates[notification.id], word, messages[notification.id])
        return again

    def _settle(
        self, notification: Notification, fate: Fate, word: str, records: Sequence[dict[str, Any]]
    ) -> list[str]:
        metrics.add_metric(name=f"Deliveries{fate.value.capitalize()}", unit=MetricUnit.Count, value=1)
        logger.info(
            "delivered" if fate is Fate.DONE else "not delivered",
            extra={
                "correlation_id": notification.id,
                "secret_arn": notification.subject,
                "version_id": notification.data.version_id,
                "fate": fate.value,
                "answer": word,
            },
        )
        if fate is Fate.DONE:
            return []
        if fate is Fate.AGAIN:
            return [record["messageId"] for record in records]
        return [message for record in records for message in self._poison(record, f"the receiver refuses it: {word}")]

    def _poison(self, record: dict[str, Any], reason: str) -> list[str]:
        """Put a message where a person will look: it would fail for ever. Else the queue's redrive does."""
        logger.error("poison", extra={"message_id": record["messageId"], "reason": reason})
        try:
            self._sqs.send_message(QueueUrl=self._settings.dlq_url, MessageBody=record["body"])
        except Exception as error:
            logger.error("dead-letter queue", extra={"error": type(error).__name__})
            return [record["messageId"]]
        return []

    def _signing_key(self, fresh: bool) -> bytes:
        if self._key is None or fresh:
            answer = self._secrets_manager.get_secret_value(
                SecretId=self._settings.signing_key_secret_id, VersionStage="AWSCURRENT"
            )
            self._key = parse_key(answer["SecretString"])
        return self._key


def _batches(notifications: Sequence[Notification]) -> Iterator[list[Notification]]:
    """As few batches as the contract's limit on the body allows: nearly always one."""
    batch: list[Notification] = []
    for notification in notifications:
        if batch and len(encode([*batch, notification])) > MAX_BODY:
            yield batch
            batch = []
        batch.append(notification)
    if batch:
        yield batch


@cache
def _notifier() -> Notifier:
    return Notifier()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, list[dict[str, str]]]:
    """Handle one batch of SQS records, with partial failures.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    metrics.add_metric(name="EventsReceived", unit=MetricUnit.Count, value=len(event["Records"]))
    again = _notifier().handle(event["Records"])
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}
