"""Rotation in AWS. This module starts it, and waits until the staging label AWSCURRENT has moved."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keyturn_cli.advice import advised
from keyturn_cli.aws import Aws, AwsError, errors
from keyturn_cli.errors import CliError, TimedOut
from keyturn_receiver.core.binding import CURRENT

PENDING = "AWSPENDING"
PAUSE = 1.0  # seconds between two calls of DescribeSecret


@dataclass(frozen=True, slots=True)
class Rotation:
    """A started rotation. ``version_id`` is the version that is to become current."""

    arn: str
    name: str
    version_id: str


def start(aws: Aws, secret_id: str) -> Rotation:
    """Start a rotation. Raises AwsError, or CliError if the secret cannot be rotated now."""
    secret = aws.describe_secret(secret_id)
    name = str(secret.get("Name") or secret_id)
    if not secret.get("RotationEnabled"):
        raise CliError(
            f"AWS secret {name} has no rotation function",
            f"configure one (docs/rotation-strategies.md), or write a value by put-secret-value and use"
            f" {advised('wait', name)}",
        )
    try:
        with errors(f"secretsmanager:RotateSecret {secret_id}"):
            reply = aws.secrets_manager(secret_id).rotate_secret(SecretId=secret_id)
    except AwsError as error:
        pending = _pending(secret)
        if error.code != "InvalidRequestException" or not pending:
            raise
        raise CliError(
            f"an earlier rotation of {name} is not complete (version {pending} is {PENDING})",
            "see the rotation function's log; aws secretsmanager cancel-rotate-secret ends it",
        ) from None
    return Rotation(str(reply["ARN"]), name, str(reply["VersionId"]))


def wait_for_label(
    aws: Aws,
    rotation: Rotation,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> float:
    """Wait until the new version has AWSCURRENT. Return the number of seconds of the wait.

    Raises TimedOut after ``seconds``, CliError if the rotation was cancelled, and AwsError.
    """
    started = now()
    while True:
        stages = aws.describe_secret(rotation.arn).get("VersionIdsToStages") or {}
        labels = stages.get(rotation.version_id)
        if labels is not None and CURRENT in labels:
            return now() - started
        if labels is None and PENDING not in {label for given in stages.values() for label in given}:
            raise CliError(f"the rotation of {rotation.name} was cancelled", "the old value is current")
        if now() - started >= seconds:
            raise TimedOut(
                f"the rotation of {rotation.name} has not ended after {seconds:.0f} s: the old value is current",
                "see the rotation function's log; AWS tries it again",
            )
        sleep(PAUSE)


def _pending(secret: Mapping[str, Any]) -> str:
    """Return the id of a version that has AWSPENDING but not AWSCURRENT, or an empty text. Such a version belongs to a
    rotation that is not complete.

    https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html
    """
    stages = secret.get("VersionIdsToStages") or {}
    return next((version for version, labels in stages.items() if PENDING in labels and CURRENT not in labels), "")
