"""The keys that sign deliveries: the signing key in Secrets Manager and, if the stack has one, a KMS key.

Both the current and the previous key sign, as Standard Webhooks specifies for rotations. A receiver that has not yet
read the new key accepts the signature of the previous key. So no receiver refuses a delivery because of a rotation.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyturn_contract.signature import InvalidKey, parse_key, sign, sign_ed25519

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

CURRENT = "AWSCURRENT"
PREVIOUS = "AWSPREVIOUS"
PENDING = "AWSPENDING"

KMS_LIMIT = 4096  # bytes: https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html#KMS-Sign-request-Message


class SigningUnavailable(Exception):
    """No usable key can be read now, or KMS cannot sign now. The text gives the reason, and never quotes a key."""


class UnusableKey(SigningUnavailable):
    """The secret's value is not a valid signing key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that sign a delivery: symmetric keys, and an optional function that signs with Ed25519."""

    symmetric: tuple[bytes, ...]
    ed25519: Callable[[bytes], bytes] | None = None

    def headers(self, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
        """Return the webhook headers of one attempt. ``timestamp`` is in seconds since the epoch.

        Raises SigningUnavailable.
        """
        signatures = [sign(key, message_id, timestamp, body) for key in self.symmetric]
        if self.ed25519 is not None:
            signatures.append(sign_ed25519(self.ed25519, message_id, timestamp, body))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }


class KeyRing:
    """A thread-safe cache of the signing keys. It reads the keys that have the staging labels ``stages``.

    The keys are read at the first use, and again when a caller reports them as stale. Only the first staging label must
    have a key.
    """

    def __init__(
        self,
        secrets_manager: "SecretsManagerClient",
        secret_id: str,
        ed25519: Callable[[bytes], bytes] | None = None,
        stages: Sequence[str] = (CURRENT, PREVIOUS),
    ) -> None:
        self._stages = stages
        self._secrets_manager = secrets_manager
        self._secret_id = secret_id
        self._ed25519 = ed25519
        self._keys: Keys | None = None
        self._lock = threading.Lock()

    @property
    def signs_with_kms(self) -> bool:
        """Whether KMS signs, too, in addition to the signing key. KMS can sign at most KMS_LIMIT bytes."""
        return self._ed25519 is not None

    def keys(self, stale: Keys | None = None) -> Keys:
        """Return the cached keys. If the cache is empty, or still has the keys ``stale`` that the caller has used, read
        the keys first.

        Raises SigningUnavailable.
        """
        with self._lock:
            if self._keys is None or self._keys is stale:
                first, *others = self._stages
                required = read_key(self._secrets_manager, self._secret_id, first)
                if required is None:
                    raise SigningUnavailable(f"the signing key's secret has no version {first}: put one")
                self._keys = Keys((required, *filter(None, map(self._read, others))), self._ed25519)
            return self._keys

    def _read(self, stage: str) -> bytes | None:
        try:
            return read_key(self._secrets_manager, self._secret_id, stage)
        except UnusableKey:
            # An unusable older key is skipped, because the key with the first staging label has already replaced it.
            return None


def read_key(
    secrets_manager: "SecretsManagerClient", secret_id: str, stage: str, version_id: str | None = None
) -> bytes | None:
    """Read the key that has the staging label ``stage``. Return None if no version has this staging label, or if the
    version has no value yet.

    If ``version_id`` is given, this version must have the staging label. Raises SigningUnavailable.
    """
    version: dict[str, Any] = {"VersionId": version_id} if version_id else {}
    try:
        response = secrets_manager.get_secret_value(SecretId=secret_id, VersionStage=stage, **version)
        return parse_key(response.get("SecretString", ""))
    except InvalidKey as error:
        raise UnusableKey(f"signing key ({stage}): {error}") from None
    except Exception as error:
        code = error_code(error)
        if code == "ResourceNotFoundException":
            return None
        raise SigningUnavailable(f"signing key ({stage}): Secrets Manager: {code}") from None


def kms_signer(kms: "KMSClient", key_id: str) -> Callable[[bytes], bytes]:
    """Return a function that signs at most KMS_LIMIT bytes with Ed25519 in KMS. It raises SigningUnavailable."""

    def sign_in_kms(content: bytes) -> bytes:
        try:
            response = kms.sign(KeyId=key_id, Message=content, MessageType="RAW", SigningAlgorithm="ED25519_SHA_512")
        except Exception as error:
            raise SigningUnavailable(f"KMS: {error_code(error)}") from None
        return bytes(response["Signature"])

    return sign_in_kms


def error_code(error: Exception) -> str:
    """Return AWS's error code, or else the name of the exception's class. The text of the exception is never logged,
    because it may quote anything."""
    response = getattr(error, "response", None)
    fields = response.get("Error") if isinstance(response, dict) else None
    return str(fields.get("Code")) if isinstance(fields, dict) and fields.get("Code") else type(error).__name__
