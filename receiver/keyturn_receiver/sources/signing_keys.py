"""The keys that verify signatures: signing keys from an AWS secret, a file or both, and public keys."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from keyturn_contract.signature import Ed25519
from keyturn_receiver.errors import KeyturnError, NoCredentials, detached
from keyturn_receiver.telemetry.logs import RepeatedWarnings

_log = logging.getLogger(__name__)


class KeySource(Protocol):
    """A place that holds signing keys: an AWS secret or a file. Its ``name`` appears in logs and in /readyz."""

    name: str

    async def load(self) -> Sequence[bytes]:
        """Read the keys. Raises KeyturnError if there is no usable key."""


class SigningKeys:
    """Key ring. It holds the signing keys of all sources, as they were last read.

    If one source fails, its last keys stay valid. The keys of the other sources are not affected.
    """

    def __init__(self, sources: Sequence[KeySource]) -> None:
        self._sources = sources
        self._keys_by_source: dict[str, Sequence[bytes]] = {}  # a source that has always failed has no keys
        self._keys: tuple[bytes, ...] = ()
        self._errors: dict[str, KeyturnError] = {}  # the error of each source whose last load failed
        self._warnings = RepeatedWarnings(_log)

    def current(self) -> Sequence[bytes]:
        """Return the keys that are valid now. Before the first load, there are no keys."""
        return self._keys

    def not_loaded(self) -> Sequence[str]:
        """Return the names of the sources that readiness still waits for.

        If no source has a key yet, these are all sources. Otherwise these are the sources that have not been tried yet.
        So a failed source does not prevent readiness if another source has a key.
        """
        return [source.name for source in self._sources if not self._keys or source.name not in self._keys_by_source]

    def waiting_for(self) -> Sequence[str]:
        """Return the names that ``not_loaded`` returns. If a source has failed, add the reason to its name.

        The reason is left out if it concerns the receiver's credentials.
        """
        reasons = {
            name: str(error) for name, error in self._errors.items() if not isinstance(error, NoCredentials)
        }  # readiness reports a problem with the credentials separately
        return [f"{name} ({reasons[name]})" if name in reasons else name for name in self.not_loaded()]

    async def load(self) -> None:
        """Read the keys of every source again. A warning is logged for each source that fails."""
        await asyncio.gather(*(self._load(source) for source in self._sources))

    async def _load(self, source: KeySource) -> None:
        try:
            self._keys_by_source[source.name] = await source.load()
            self._errors.pop(source.name, None)
            self._warnings.over(source.name)
        except KeyturnError as error:
            self._keys_by_source.setdefault(source.name, ())
            self._errors[source.name] = detached(error)
            self._warnings.warning(source.name, str(error))
        self._keys = tuple(
            dict.fromkeys(key for each in self._sources for key in self._keys_by_source.get(each.name, ()))
        )


def ed25519(public_key: bytes) -> Ed25519:
    """Return a function that verifies signatures with a public key of 32 bytes."""
    # The import is here because the library takes 6 MB of memory, which a receiver without public keys does not need.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(public_key)

    def is_valid(signature: bytes, content: bytes) -> bool:
        try:
            key.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    return is_valid
