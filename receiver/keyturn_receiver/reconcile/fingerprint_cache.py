"""What this replica remembers of the Secrets it has read or written, so that it need not read them again."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.plan import Fingerprint, LiveSecret


@dataclass(frozen=True, slots=True)
class _Remembered:
    resource_version: str
    type: str
    immutable: bool
    fingerprints: Mapping[str, bytes]


class FingerprintCache:
    """Secrets as this replica last saw them whole: good as long as the picture shows the same resource version."""

    def __init__(self) -> None:
        self._remembered: dict[Target, _Remembered] = {}

    def recall(self, known: BoundSecret) -> LiveSecret | None:
        """Give the Secret as the picture shows it, if this replica has seen just that one whole."""
        found = self._remembered.get(known.target)
        if found is None or found.resource_version != known.resource_version:
            return None
        return LiveSecret(
            known.target,
            known.uid,
            found.resource_version,
            found.type,
            found.immutable,
            known.record,
            found.fingerprints,
        )

    def keep(self, live: LiveSecret, resource_version: str, fingerprints: Mapping[str, bytes]) -> None:
        """Remember what a Secret is after a write of our own."""
        self._remembered[live.target] = _Remembered(resource_version, live.type, live.immutable, fingerprints)

    def forget(self, target: Target) -> None:
        """Remember nothing of a Secret: it is gone, or not what it seemed."""
        self._remembered.pop(target, None)


def new_fingerprint() -> Fingerprint:
    """Make a function that tells values apart within this process, and tells nothing of them outside."""
    key = secrets.token_bytes(32)

    def fingerprint(value: bytes) -> bytes:
        return hashlib.blake2b(value, digest_size=16, key=key).digest()

    return fingerprint
