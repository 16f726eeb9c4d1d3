"""The Lambda entry point of the signing key's rotation. Secrets Manager calls it in four steps. Composition root.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html

The new key becomes current only after every receiver has accepted a heartbeat that is signed with the new key and not
with the old key. Until then, and after any failure, the old key stays current, and Secrets Manager retries the
rotation.
"""

import os
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from keyturn_contract.message import MAX_HEARTBEAT_AGE, EventType, Notification, NotificationData
from keyturn_contract.signature import TOLERANCE, new_key
from keyturn_notifier import aws
from keyturn_notifier.authorities import CA_FAULT, Authorities, read_from_secret
from keyturn_notifier.delivery import ReceiverClient, connection_pool
from keyturn_notifier.disposition import Disposition
from keyturn_notifier.event_parser import HEARTBEAT_SOURCE
from keyturn_notifier.settings import NotifierSettings, read_settings
from keyturn_notifier.signing import CURRENT, PENDING, KeyRing, error_code, kms_signer, read_key
from keyturn_notifier.telemetry import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_secretsmanager import SecretsManagerClient

PAUSE_SECONDS = 5.0  # seconds between two attempts; a receiver reads the keys once a minute
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
TRY_SECONDS = 30.0  # seconds for one attempt, which is one call of ReceiverClient.deliver


class RotationFailed(Exception):
    """The rotation stops, and the old key stays current. The text gives the reason, and says what to do if the rotation
    fails again."""


class Rotation:
    """The steps of the rotation of one secret.

    ``receivers`` takes a staging label, and returns the clients for the test step. These clients sign with the key that
    has this staging label.
    """

    def __init__(
        self,
        secrets_manager: "SecretsManagerClient",
        secret_id: str,
        receivers: Callable[[str], Sequence[ReceiverClient]],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._secrets_manager = secrets_manager
        self._secret_id = secret_id
        self._receivers = receivers
        self._sleep = sleep

    def is_open(self, version_id: str) -> bool:
        """Return True if a rotation to this version is in progress. Return False if this rotation has already ended.

        Raises RotationFailed if rotation is not enabled, or if the version belongs to no rotation.

        A caller of the function can pass any version. So every step makes the same checks as AWS's own template:
        https://github.com/aws-samples/aws-secrets-manager-rotation-lambdas
        """
        secret = self._secrets_manager.describe_secret(SecretId=self._secret_id)
        if not secret.get("RotationEnabled"):
            raise RotationFailed("rotation is not enabled for the signing key: configure it, as the stack does")
        labels = secret["VersionIdsToStages"].get(version_id)
        if labels is None:
            raise RotationFailed("the signing key has no such version: Secrets Manager makes it when a rotation starts")
        if CURRENT in labels:
            return False
        if PENDING not in labels:
            raise RotationFailed(f"the version is not labelled {PENDING}: a rotation makes no other version current")
        return True

    def create(self, version_id: str) -> None:
        """Write a new key as the pending version, unless an earlier attempt has already written it."""
        if not self._has_key(version_id):
            self._secrets_manager.put_secret_value(
                SecretId=self._secret_id,
                ClientRequestToken=version_id,
                SecretString=new_key(os.urandom(32)),
                VersionStages=[PENDING],
            )

    def test(self, version_id: str, seconds: float) -> None:
        """Send heartbeats until every receiver has accepted one, but at most for ``seconds``. Raises RotationFailed.

        A receiver accepts the new key only after it has read the keys again. So the first heartbeats may be refused.

        Dry run: if there is no pending key, the current key is tested. When a rotation is configured but not started,
        Secrets Manager runs only this step. It creates a version for this purpose, and then removes it.
        """
        is_dry_run = not self._has_key(version_id)
        end = time.monotonic() + seconds
        refusals = {receiver: "" for receiver in self._receivers(CURRENT if is_dry_run else PENDING)}
        while refusals:
            refusals = {receiver: reason for receiver in refusals if (reason := _refusal(receiver))}
            if refusals and time.monotonic() + PAUSE_SECONDS > end:
                reasons = "; ".join(f"{receiver.host}: {reason}" for receiver, reason in refusals.items())
                if is_dry_run:
                    raise RotationFailed(f"dry run: receivers refuse the current key: {reasons}")
                raise RotationFailed(f"the old key stays current, because receivers refuse the new one: {reasons}")
            if refusals:
                self._sleep(PAUSE_SECONDS)

    def finish(self, version_id: str) -> None:
        """Make the pending key current. Receivers still accept the old key, because running notifiers may have cached
        it.

        Raises RotationFailed if the version has no key.
        """
        if not self._has_key(version_id):
            raise RotationFailed("the pending version has no key: cancel the rotation and start it again")
        stages = self._secrets_manager.describe_secret(SecretId=self._secret_id)["VersionIdsToStages"]
        current = next((version for version, labels in stages.items() if CURRENT in labels), None)
        self._secrets_manager.update_secret_version_stage(
            SecretId=self._secret_id,
            VersionStage=CURRENT,
            MoveToVersionId=version_id,
            **({"RemoveFromVersionId": current} if current else {}),
        )

    def _has_key(self, version_id: str) -> bool:
        return read_key(self._secrets_manager, self._secret_id, PENDING, version_id) is not None


def _refusal(receiver: ReceiverClient) -> str:
    """Send one heartbeat. Return the reason if the receiver does not accept it, or else an empty text."""
    data = NotificationData("SigningKeyTest", account="-", region=os.environ.get("AWS_REGION", "-"))
    # This heartbeat does not take the event path, so it must not make a broken event path look healthy. Its time is so
    # old that the receiver does not count it, even if the receiver's clock differs.
    sent_at = datetime.now(UTC) - timedelta(seconds=MAX_HEARTBEAT_AGE + 2 * TOLERANCE)
    at = sent_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    heartbeat = Notification(str(uuid.uuid4()), HEARTBEAT_SOURCE, EventType.HEARTBEAT, "heartbeat", at, data)
    result = receiver.deliver([heartbeat], time.monotonic() + TRY_SECONDS).results[heartbeat.id]
    return "" if result.disposition is Disposition.DONE else result.reason


@cache
def _rotation() -> tuple[NotifierSettings, Rotation]:
    """Build the rotation once, for all invocations of one execution environment."""
    settings = read_settings()
    proxy = settings.https_proxy
    secrets_manager = aws.client("secretsmanager", proxy)
    ed25519 = kms_signer(aws.client("kms", proxy), settings.kms_key_id) if settings.kms_key_id else None
    secret_id = settings.ca_bundle_secret_id
    read = read_from_secret(secrets_manager, secret_id) if secret_id else None
    authorities = Authorities(settings.ca_bundle, read, lambda fault: logger.warning(CA_FAULT, extra={"reason": fault}))

    def receivers(stage: str) -> list[ReceiverClient]:
        # If there is a KMS key, KMS also signs these heartbeats, just as it signs deliveries. A receiver that has only
        # the public part of the KMS key cannot verify any other signature.
        key_ring = KeyRing(secrets_manager, settings.signing_key_secret_id, ed25519, (stage,))
        return [
            ReceiverClient(url, key_ring, connection_pool(url, authorities.context, proxy), authorities.reload)
            for url in settings.receiver_urls
        ]

    return settings, Rotation(secrets_manager, settings.signing_key_secret_id, receivers)


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: "LambdaContext") -> None:
    """Execute one step of a rotation. If it raises RotationFailed, Secrets Manager retries later."""
    settings, rotation = _rotation()
    step, version_id = event["Step"], event["ClientRequestToken"]
    if event["SecretId"] != settings.signing_key_secret_id:
        raise RotationFailed("this function rotates Keyturn's signing key and no other secret")
    try:
        if step not in STEPS:
            raise RotationFailed("unknown step")
        if not rotation.is_open(version_id):
            logger.info("signing key rotation has ended already", extra={"step": step, "version_id": version_id})
            return
        if step == "createSecret":
            rotation.create(version_id)
        elif step == "testSecret":
            rotation.test(version_id, context.get_remaining_time_in_millis() / 1000 - TRY_SECONDS)
        elif step == "finishSecret":
            rotation.finish(version_id)
        # setSecret has nothing to do, because receivers read the pending key by themselves.
    except RotationFailed as error:
        logger.error("signing key rotation step failed", extra={"step": step, "reason": str(error)})
        raise
    except Exception as error:
        logger.error("signing key rotation step failed", extra={"step": step, "reason": error_code(error)})
        raise RotationFailed(f"{step}: {error_code(error)}") from None
    logger.info("signing key rotation step done", extra={"step": step, "version_id": version_id})
