"""The signing keys that count now: the current, previous and pending version of one AWS secret, and public keys."""

import logging
from collections.abc import Mapping, Sequence

from keyturn_contract.signature import Ed25519, InvalidKey, parse_key
from keyturn_receiver.core.binding import CURRENT, Source
from keyturn_receiver.errors import SourceDeleted, SourceRefused
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.stores import Stores

STAGES = (CURRENT, "AWSPREVIOUS", "AWSPENDING")

_log = logging.getLogger(__name__)


class SigningKeys:
    """The keys as last read; a failed look keeps those there are."""

    def __init__(self, stores: Stores, secret_id: str) -> None:
        self._stores = stores
        self._secret_id = secret_id
        self._keys: tuple[bytes, ...] = ()
        self._versions: Mapping[str, str] = {}

    def __call__(self) -> Sequence[bytes]:
        """The keys that are valid now; empty before the first look."""
        return self._keys

    async def look(self) -> None:
        """Read the keys anew, if their versions have changed.

        Raises SourceRefused or SourceUnavailable when there is no usable current key.
        """
        store = await self._stores.get(self._stores.key(self._secret_id))
        versions = await self._labelled(store.secrets_manager)
        if versions and versions == self._versions:
            return
        keys: list[bytes] = []
        for stage in versions or STAGES:
            try:
                version = await store.secrets_manager.value(Source(self._secret_id, stage))
                keys.append(parse_key(version.value if isinstance(version.value, str) else ""))
            except SourceRefused:
                if stage == CURRENT:
                    raise
            except InvalidKey:
                fault = f"signing key {self._secret_id} ({stage}) is not of the form whsec_<base64>: make a new one"
                if stage == CURRENT:
                    raise SourceRefused(fault) from None
                _log.warning(fault)
        self._keys = tuple(dict.fromkeys(keys))
        self._versions = versions

    async def _labelled(self, secrets_manager: SecretsManager) -> Mapping[str, str]:
        """The versions that hold the labels, by label; empty where the role may not describe the secret."""
        try:
            described = await secrets_manager.describe(self._secret_id)
        except SourceDeleted:
            raise
        except SourceRefused:
            return {}
        current = {stage: described.current(stage) for stage in STAGES}
        return {stage: version_id for stage, version_id in current.items() if version_id}


def ed25519(public_key: bytes) -> Ed25519:
    """Check signatures under a public key of 32 bytes."""
    # Imported here: six megabytes that those with a signing key do without.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(public_key)

    def fits(signature: bytes, content: bytes) -> bool:
        try:
            key.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    return fits
