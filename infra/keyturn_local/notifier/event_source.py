"""Stand-in for Lambda's SQS event source. It receives messages from the queue, and calls the notifier's own handler.

Messages that the handler reports as failed stay in the queue and become visible after the visibility timeout. All
others are deleted. If the handler raises, or reports an unknown message, the whole batch counts as failed. moto applies
the redrive policy, which moves messages to the dead-letter queue.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html

``python -m keyturn_local.notifier.event_source --queue-url URL --timeline FILE`` runs the event source.
"""

import argparse
import base64
import importlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from keyturn_local.aws.server import EventPath, LocalAws
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.program import Program
from keyturn_local.timeline import Timeline

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

HANDLER = "keyturn_notifier.handler.handler"
TIMEOUT_SECONDS = 30.0

Handler = Callable[[dict[str, Any], "Context"], object]


@dataclass(frozen=True)
class Context:
    """Context of an invocation, with the fields that the notifier and Powertools read."""

    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_name: str = "keyturn-notifier"
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:keyturn-notifier"
    end: float = field(default_factory=lambda: time.monotonic() + TIMEOUT_SECONDS)

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda would end the invocation."""
        return max(0, int((self.end - time.monotonic()) * 1000))


class EventSource:
    """Poller that passes the messages of one queue to one handler."""

    def __init__(self, sqs: "SQSClient", queue_url: str, handler: Handler, timeline: Timeline) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._handler = handler
        self._timeline = timeline
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
        self._queue_arn = attributes["QueueArn"]

    def poll_once(self, wait_seconds: int = 1) -> int:
        """Handle one batch, if one arrives within ``wait_seconds``; return the number of its messages."""
        messages: Sequence[Any] = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait_seconds,
            AttributeNames=["All"],
        ).get("Messages", [])
        if not messages:
            return 0
        for message in messages:
            if message["Attributes"]["ApproximateReceiveCount"] == "1":
                self._timeline.add("queued", at=int(message["Attributes"]["SentTimestamp"]) / 1000, **_fields(message))
                self._timeline.add("taken", **_fields(message))
        failed = self._invoke(messages)
        for message in messages:
            if message["MessageId"] not in failed:
                self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])
            self._timeline.add("failed" if message["MessageId"] in failed else "delivered", **_fields(message))
        return len(messages)

    def _invoke(self, messages: Sequence[Mapping[str, Any]]) -> set[str]:
        all_ids = {message["MessageId"] for message in messages}
        try:
            answer = self._handler({"Records": [self._record_of(message) for message in messages]}, Context())
            # For Lambda, both no answer and an answer without failures mean success.
            failures = dict(answer or {}).get("batchItemFailures") or []  # type: ignore[call-overload]
            failed = {failure["itemIdentifier"] for failure in failures}
        except Exception as error:
            print(f"the batch failed: {type(error).__name__}", file=sys.stderr, flush=True)
            return all_ids
        return failed if failed <= all_ids else all_ids

    def _record_of(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {},  # EventBridge sets none
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._queue_arn,
            "awsRegion": self._queue_arn.split(":")[3],
        }


def _fields(message: Mapping[str, Any]) -> dict[str, Any]:
    try:
        event = json.loads(message["Body"])
        return {
            "event_id": event["id"],
            "secret_arn": event["resources"][0],
            "version_id": event["detail"]["versionId"],
        }
    except (ValueError, LookupError, TypeError):
        return {}


def function_environment(
    aws: LocalAws, path: EventPath, receiver_urls: Sequence[str], kms_key_id: str = "", ca_bundle: bytes = b""
) -> dict[str, str]:
    """Return the variables that template.yaml sets for the functions, and those that Lambda itself sets."""
    return {
        **aws.environment(),
        "KEYTURN_RECEIVER_URLS": ",".join(receiver_urls),
        "KEYTURN_SIGNING_KEY_SECRET_ID": path.signing_key_secret_id,
        "KEYTURN_QUEUE_URL": path.queue_url,
        "KEYTURN_DLQ_URL": path.dlq_url,
        "KEYTURN_KMS_KEY_ID": kms_key_id,
        "KEYTURN_NAME_PREFIXES": "",
        "KEYTURN_CA_BUNDLE": base64.b64encode(ca_bundle).decode(),
        "KEYTURN_CA_BUNDLE_SECRET_ID": "",
        "KEYTURN_HTTPS_PROXY": "",
        "KEYTURN_NO_PROXY": "",
        "POWERTOOLS_SERVICE_NAME": "keyturn",
    }


def start(
    directory: Path,
    aws: LocalAws,
    path: EventPath,
    receiver_urls: Sequence[str],
    timeline: Timeline,
    kms_key_id: str = "",
    ca_bundle: bytes = b"",
) -> Program:
    """Run the event source and the notifier as one process.

    ``ca_bundle`` holds PEM certificates of CAs to trust for receivers, in addition to the public CAs.
    """
    environment = {
        **clean_environment(),
        **function_environment(aws, path, receiver_urls, kms_key_id, ca_bundle),
        "PYTHONPATH": IMPORT_ROOTS,
        "PYTHONUNBUFFERED": "1",  # as in Lambda, because printed metrics must appear at once
    }
    command = [sys.executable, "-m", "keyturn_local.notifier.event_source", "--queue-url", path.queue_url]
    return Program("event-source", [*command, "--timeline", timeline.file], directory, environment)


def load(handler: str) -> Handler:
    """Import the handler ``module.function``, as Lambda does."""
    module, _, function = handler.rpartition(".")
    loaded: Handler = getattr(importlib.import_module(module), function)
    return loaded


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--queue-url", required=True)
    parser.add_argument("--handler", default=HANDLER)
    parser.add_argument("--timeline", type=Path, required=True)
    arguments = parser.parse_args()
    source = EventSource(
        boto3.client("sqs"), arguments.queue_url, load(arguments.handler), Timeline(arguments.timeline)
    )
    while True:
        source.poll_once()
