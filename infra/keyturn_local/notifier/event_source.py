"""Lambda's event source mapping for SQS: takes messages off the queue, and runs the notifier's own handler.

Semantics: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html. What the handler reports as
failed, and everything if it raises or names an unknown message, stays in the queue until its visibility time-out; the
rest is deleted; the queue's redrive policy (moto's) moves what has failed too often to the dead-letter queue.

``python -m keyturn_local.notifier.event_source --queue-url URL --timeline FILE`` runs it.
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
    """What a handler is told of its invocation, as far as the notifier and Powertools look."""

    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_name: str = "keyturn-notifier"
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:keyturn-notifier"
    end: float = field(default_factory=lambda: time.monotonic() + TIMEOUT_SECONDS)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda would end it."""
        return max(0, int((self.end - time.monotonic()) * 1000))


class EventSource:
    """Polls one queue for one handler."""

    def __init__(self, sqs: "SQSClient", queue_url: str, handler: Handler, timeline: Timeline) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._handler = handler
        self._timeline = timeline
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
        self._queue_arn = attributes["QueueArn"]

    def poll_once(self, wait_seconds: int = 1) -> int:
        """Take one batch, if there is one within ``wait_seconds``; return how many messages it had."""
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
                self._timeline.add("queued", at=int(message["Attributes"]["SentTimestamp"]) / 1000, **_about(message))
                self._timeline.add("taken", **_about(message))
        failed = self._invoke(messages)
        for message in messages:
            if message["MessageId"] not in failed:
                self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])
            self._timeline.add("failed" if message["MessageId"] in failed else "delivered", **_about(message))
        return len(messages)

    def _invoke(self, messages: Sequence[Mapping[str, Any]]) -> set[str]:
        everything = {message["MessageId"] for message in messages}
        try:
            answer = self._handler({"Records": [self._record_of(message) for message in messages]}, Context())
            # No answer and no list of failures mean success, as Lambda has it.
            failures = dict(answer or {}).get("batchItemFailures") or []  # type: ignore[call-overload]
            failed = {failure["itemIdentifier"] for failure in failures}
        except Exception as error:
            print(f"the batch failed: {type(error).__name__}", file=sys.stderr, flush=True)
            return everything
        return failed if failed <= everything else everything

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


def _about(message: Mapping[str, Any]) -> dict[str, Any]:
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
    """The variables that template.yaml gives the functions, and those that Lambda does."""
    return {
        **aws.environment(),
        "KEYTURN_RECEIVER_URLS": ",".join(receiver_urls),
        "KEYTURN_SIGNING_KEY_SECRET_ID": path.signing_key_secret_id,
        "KEYTURN_QUEUE_URL": path.queue_url,
        "KEYTURN_DLQ_URL": path.dlq_url,
        "KEYTURN_KMS_KEY_ID": kms_key_id,
        "KEYTURN_CA_BUNDLE": base64.b64encode(ca_bundle).decode(),
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
    """Run the mapping, and in it the notifier, in a process of its own.

    ``ca_bundle``: certificates in PEM that the receivers' may be signed with, beside the public ones.
    """
    environment = {
        **clean_environment(),
        **function_environment(aws, path, receiver_urls, kms_key_id, ca_bundle),
        "PYTHONPATH": IMPORT_ROOTS,
        "PYTHONUNBUFFERED": "1",  # as in Lambda: metrics are printed, and nobody flushes them
    }
    command = [sys.executable, "-m", "keyturn_local.notifier.event_source", "--queue-url", path.queue_url]
    return Program("event-source", [*command, "--timeline", timeline.file], directory, environment)


def load(handler: str) -> Handler:
    """Import a handler as Lambda does: ``module.function``."""
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
