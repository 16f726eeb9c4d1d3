"""What deliveries are signed with: the signing key out of Secrets Manager, and a KMS key where the stack has one.

The current and the previous key both sign, as Standard Webhooks has it for rotations: a receiver that has not seen the
new key yet knows the one before, so that there is no moment at which a delivery is refused.
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
    """There is nothing to sign with now; the text says why and quotes nothing of a key."""


class UnusableKey(SigningUnavailable):
    """What stands in the secret is no signing key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that sign: symmetric ones, and a function that signs with Ed25519."""

    symmetric: tuple[bytes, ...]
    ed25519: Callable[[bytes], bytes] | None = None

    def headers(self, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
        """The headers of one attempt; ``timestamp`` in seconds since the epoch. Raises SigningUnavailable."""
        signatures = [sign(key, message_id, timestamp, body) for key in self.symmetric]
        if self.ed25519 is not None:
            signatures.append(sign_ed25519(self.ed25519, message_id, timestamp, body))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }


class KeyRing:
    """Reads the keys at ``stages`` once, and again when told that they are stale. Threads may share it.

    There must be a key at the first of the stages.
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
    def in_kms(self) -> bool:
        """Whether KMS signs, too, which takes no more than KMS_LIMIT bytes."""
        return self._ed25519 is not None

    def keys(self, stale: Keys | None = None) -> Keys:
        """The keys to sign with; read anew unless the ``stale`` ones have been replaced. Raises SigningUnavailable."""
        with self._lock:
            if self._keys is None or self._keys is stale:
                first, *others = self._stages
                required = read_key(self._secrets_manager, self._secret_id, first)
                if required is None:
                    raise SigningUnavailable(f"the signing key has no version {first}: put one")
                self._keys = Keys((required, *filter(None, map(self._read, others))), self._ed25519)
            return self._keys

    def _read(self, stage: str) -> bytes | None:
        try:
            return read_key(self._secrets_manager, self._secret_id, stage)
        except UnusableKey:
            return None  # somebody has corrected it since, with the version at the first stage


def read_key(
    secrets_manager: "SecretsManagerClient", secret_id: str, stage: str, version_id: str | None = None
) -> bytes | None:
    """Read the key at a staging label (of one version): None where there is none. Raises SigningUnavailable."""
    version: dict[str, Any] = {"VersionId": version_id} if version_id else {}
    try:
        answer = secrets_manager.get_secret_value(SecretId=secret_id, VersionStage=stage, **version)
        return parse_key(answer.get("SecretString", ""))
    except InvalidKey as error:
        raise UnusableKey(f"signing key ({stage}): {error}") from None
    except Exception as error:
        code = error_code(error)
        if code == "ResourceNotFoundException":
            return None
        raise SigningUnavailable(f"signing key ({stage}): Secrets Manager: {code}") from None


def kms_signer(kms: "KMSClient", key_id: str) -> Callable[[bytes], bytes]:
    """Sign with Ed25519 in KMS: at most KMS_LIMIT bytes. The function raises SigningUnavailable."""

    def sign_in_kms(content: bytes) -> bytes:
        try:
            answer = kms.sign(KeyId=key_id, Message=content, MessageType="RAW", SigningAlgorithm="ED25519_SHA_512")
        except Exception as error:
            raise SigningUnavailable(f"KMS: {error_code(error)}") from None
        return bytes(answer["Signature"])

    return sign_in_kms


def error_code(error: Exception) -> str:
    """AWS's word for what went wrong, or the exception's name; its text may quote anything, and is not ours to show."""
    response = getattr(error, "response", None)
    fields = response.get("Error") if isinstance(response, dict) else None
    return str(fields.get("Code")) if isinstance(fields, dict) and fields.get("Code") else type(error).__name__
