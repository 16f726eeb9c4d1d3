"""Notifications that a person sends. A notification goes either to a receiver, signed as the notifier signs it, or into
the queue as an event.

A notification only says "this secret may have changed". The receiver then reads the secret in AWS. So a notification
that a person sends does no harm.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from keyturn_cli.advice import ANY_STACK, advised, chosen
from keyturn_cli.aws import Aws, AwsError, Stack, errors
from keyturn_cli.aws_events import label_move
from keyturn_cli.errors import CliError
from keyturn_contract.message import (
    CONTENT_TYPE_BATCH,
    RECEIVER_HEADER,
    EventType,
    MalformedMessage,
    Notification,
    NotificationData,
    Result,
    decode_reply,
    encode,
    validate,
)
from keyturn_contract.signature import TOLERANCE, InvalidKey, parse_key, sign
from keyturn_receiver.core.arn import account_id, full_name, region
from keyturn_receiver.core.binding import CURRENT

SOURCE = "dev.keyturn.cli"

Post = Callable[[bytes, Mapping[str, str]], tuple[int, Mapping[str, str], bytes]]
"""Function that sends a body and headers to a receiver. It returns the reply: status, headers with lower-case names,
and body."""


class NotDelivered(CliError):
    """The notification could not be written or signed, or the receiver did not accept it. The text gives the reason,
    and the advice says what to do."""


@dataclass(frozen=True, slots=True)
class AwsSecret:
    """A secret as DescribeSecret returns it. ``version_id`` is the version with the staging label AWSCURRENT, or None
    if no version has it."""

    arn: str
    name: str
    version_id: str | None


def describe(aws: Aws, secret_id: str) -> AwsSecret:
    """Return the name, the ARN and the current version of a secret. Raises AwsError."""
    secret = aws.describe_secret(secret_id)
    stages: Mapping[str, list[str]] = secret.get("VersionIdsToStages") or {}
    version_id = next((version for version, labels in stages.items() if CURRENT in labels), None)
    return AwsSecret(str(secret["ARN"]), str(secret.get("Name") or full_name(secret["ARN"])), version_id)


def notification_of(secret: AwsSecret, now: datetime) -> Notification:
    """Return a notification for a possible move of a secret's staging label AWSCURRENT. Raises NotDelivered if the
    secret's name does not fit into a message."""
    notification = Notification(
        str(uuid4()),
        SOURCE,
        EventType.CHANGED,
        secret.arn,
        now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        NotificationData(
            "SecretLabelUpdated",
            account=account_id(secret.arn) or "-",
            region=region(secret.arn) or "-",
            name=secret.name,
            version_id=secret.version_id,
            label=CURRENT,
        ),
    )
    try:
        validate(notification)
    except MalformedMessage as error:
        raise NotDelivered(f"the notification cannot be written: {error}") from None
    return notification


def signing_key(aws: Aws, secret_id: str) -> bytes:
    """Read the current signing key. Raises AwsError, or NotDelivered if the value is not a signing key."""
    with errors("secretsmanager:GetSecretValue of the signing key", "docs/runbook.md#keyturnnosigningkey writes one"):
        reply = aws.secrets_manager(secret_id).get_secret_value(SecretId=secret_id)
    try:
        return parse_key(str(reply.get("SecretString", "")))
    except InvalidKey as error:
        raise NotDelivered(
            f"AWS secret {secret_id}: {error}", "docs/runbook.md#keyturnnosigningkey writes one"
        ) from None


def deliver(notification: Notification, key: bytes, post: Post, stack: str = "") -> Result:
    """Sign a notification and send it to a receiver. Return the receiver's result. ``stack`` is the name of the stack
    whose key it is, if it is known. Raises NotDelivered."""
    body = encode([notification])
    timestamp = int(time.time())
    headers = {
        "content-type": CONTENT_TYPE_BATCH,
        "webhook-id": notification.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(key, notification.id, timestamp, body),
    }
    status, given, reply = post(body, headers)
    if RECEIVER_HEADER.lower() not in given:
        raise NotDelivered(
            f"Something other than a receiver answered with status {status}",
            "see docs/aws.md#answers-of-a-receiver for its causes",
        )
    if status == 401:
        doctor = chosen().command("doctor", "--aws", or_stack=stack or ANY_STACK)
        raise NotDelivered(
            "the receiver does not accept the signature (401)",
            f"its key is another one, or a clock is off by over {TOLERANCE:g} s: {doctor}",
        )
    if status not in (200, 503):
        raise NotDelivered(f"the receiver refuses the notification ({status})", "the URL must end in /v1/notifications")
    try:
        results = [result for result in decode_reply(reply) if result.id == notification.id]
    except MalformedMessage:
        results = []
    if not results:
        raise NotDelivered(f"the receiver is not ready, or busy ({status})", f"try again, or run {advised('doctor')}")
    return results[0]


def put_in_queue(aws: Aws, stack: Stack, secret: AwsSecret) -> str:
    """Put an event about a move of AWSCURRENT into the stack's queue, in the form of AWS's own event. Return the
    event's id.

    The event does not pass through EventBridge. EventBridge refuses a user's event if its source begins with "aws.".
    Raises AwsError.
    """
    event = label_move(secret.arn, secret.name, CURRENT, secret.version_id or "", datetime.now(UTC))
    if "QueueUrl" not in stack.outputs:
        raise AwsError(f"stack {stack.name}", "it has no output QueueUrl", "name Keyturn's stack: --stack NAME")
    with errors("sqs:SendMessage to the queue"):
        aws.client("sqs").send_message(QueueUrl=stack.outputs["QueueUrl"], MessageBody=json.dumps(event))
    return str(event["id"])
