"""What Secrets Manager calls to rotate the signing key, in four steps. The composition root of the rotation.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html

The new key becomes current only after every receiver has taken a heartbeat signed with it and without the old one;
until then, and on any failure, the old key goes on, and Secrets Manager tries the rotation again.
"""

import os
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import urllib3

from keyturn_contract.message import EventType, Notification, NotificationData
from keyturn_contract.signature import new_key
from keyturn_notifier import aws
from keyturn_notifier.delivery import Receiver, tls
from keyturn_notifier.event import HEARTBEAT_SOURCE
from keyturn_notifier.settings import Settings, read_settings
from keyturn_notifier.signing import CURRENT, PENDING, KeyRing, error_code, kms_signer, read_key
from keyturn_notifier.telemetry import logger
from keyturn_notifier.verdict import Fate

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_secretsmanager import SecretsManagerClient

PAUSE_SECONDS = 5.0  # between two tries: a receiver looks for new keys once a minute
TRY_SECONDS = 30.0  # one try: what Receiver.deliver may take


class RotationFailed(Exception):
    """The rotation stops here, with the old key in place; the text says why, and what to do if it stays so."""


class Rotation:
    """The steps for one secret; ``receivers`` makes those to test, which sign with the pending key."""

    def __init__(
        self,
        secrets_manager: "SecretsManagerClient",
        secret_id: str,
        receivers: Callable[[], Sequence[Receiver]],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._secrets_manager = secrets_manager
        self._secret_id = secret_id
        self._receivers = receivers
        self._sleep = sleep

    def create(self, version_id: str) -> None:
        """Write a new key as the pending version, unless an earlier try has."""
        if read_key(self._secrets_manager, self._secret_id, PENDING, version_id) is None:
            self._secrets_manager.put_secret_value(
                SecretId=self._secret_id,
                ClientRequestToken=version_id,
                SecretString=new_key(os.urandom(32)),
                VersionStages=[PENDING],
            )

    def test(self, version_id: str, seconds: float) -> None:
        """Send heartbeats until every receiver has taken one, for ``seconds`` at most. Raises RotationFailed.

        Receivers know a new key when they next look for one.
        """
        if read_key(self._secrets_manager, self._secret_id, PENDING, version_id) is None:
            raise RotationFailed("there is no pending key to test: cancel the rotation, and rotate again")
        end = time.monotonic() + seconds
        waiting = {receiver: "" for receiver in self._receivers()}
        while waiting:
            waiting = {receiver: why for receiver in waiting if (why := _refusal(receiver))}
            if waiting and time.monotonic() + PAUSE_SECONDS > end:
                told = "; ".join(f"{receiver.host}: {why}" for receiver, why in waiting.items())
                raise RotationFailed(f"not every receiver takes the new key, so the old one stays: {told}")
            if waiting:
                self._sleep(PAUSE_SECONDS)

    def finish(self, version_id: str) -> None:
        """Make the pending key current. Those that hold the old one still sign with it, and are still heard."""
        stages = self._secrets_manager.describe_secret(SecretId=self._secret_id)["VersionIdsToStages"]
        current = next((version for version, labels in stages.items() if CURRENT in labels), None)
        if current != version_id:
            self._secrets_manager.update_secret_version_stage(
                SecretId=self._secret_id,
                VersionStage=CURRENT,
                MoveToVersionId=version_id,
                **({"RemoveFromVersionId": current} if current else {}),
            )


def _refusal(receiver: Receiver) -> str:
    """Send one heartbeat; why it was not taken, or nothing."""
    data = NotificationData("SigningKeyTest", account="-", region=os.environ.get("AWS_REGION", "-"))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    heartbeat = Notification(str(uuid.uuid4()), HEARTBEAT_SOURCE, EventType.HEARTBEAT, "heartbeat", now, data)
    verdict = receiver.deliver([heartbeat], time.monotonic() + TRY_SECONDS).verdicts[heartbeat.id]
    return "" if verdict.fate is Fate.DONE else verdict.why


@cache
def _rotation() -> tuple[Settings, Rotation]:
    settings = read_settings()
    secrets_manager = aws.client("secretsmanager")
    ed25519 = kms_signer(aws.client("kms"), settings.kms_key_id) if settings.kms_key_id else None

    def receivers() -> list[Receiver]:
        # Beside the KMS key, where there is one: what will be sent after the rotation must be taken, no more.
        key_ring = KeyRing(secrets_manager, settings.signing_key_secret_id, ed25519, (PENDING,))
        pool = urllib3.PoolManager(ssl_context=tls(settings.ca_bundle))
        return [Receiver(url, key_ring, pool) for url in settings.receiver_urls]

    return settings, Rotation(secrets_manager, settings.signing_key_secret_id, receivers)


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: "LambdaContext") -> None:
    """Do one step of a rotation. Raises RotationFailed, which Secrets Manager takes for "try again later"."""
    settings, rotation = _rotation()
    step, version_id = event["Step"], event["ClientRequestToken"]
    if event["SecretId"] != settings.signing_key_secret_id:
        raise RotationFailed("this function rotates Keyturn's signing key and no other secret")
    try:
        if step == "createSecret":
            rotation.create(version_id)
        elif step == "testSecret":
            rotation.test(version_id, context.get_remaining_time_in_millis() / 1000 - TRY_SECONDS)
        elif step == "finishSecret":
            rotation.finish(version_id)
        elif step != "setSecret":  # receivers read the pending key by themselves
            raise RotationFailed(f"no such step: {step}")
    except RotationFailed as error:
        logger.error("rotation of the signing key failed", extra={"step": step, "reason": str(error)})
        raise
    except Exception as error:
        logger.error("rotation of the signing key failed", extra={"step": step, "reason": error_code(error)})
        raise RotationFailed(f"{step}: {error_code(error)}") from None
    logger.info("rotation of the signing key", extra={"step": step, "version_id": version_id})
