"""What signatures are checked with: the signing keys in an AWS secret, in a file or in both, and public keys."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from keyturn_contract.signature import Ed25519
from keyturn_receiver.errors import KeyturnError

_log = logging.getLogger(__name__)


class KeySource(Protocol):
    """Where signing keys are kept; ``name`` is for people."""

    name: str

    async def look(self) -> Sequence[bytes]:
        """Give the keys that are there now. Raises KeyturnError when there is none to be had."""


class SigningKeys:
    """The keys of all places as last read; a failed look keeps those there were, and takes away no other place's."""

    def __init__(self, places: Sequence[KeySource]) -> None:
        self._places = places
        self._found: dict[str, Sequence[bytes]] = {}  # by the place's name; empty where each look has failed so far
        self._keys: tuple[bytes, ...] = ()

    def __call__(self) -> Sequence[bytes]:
        """The keys that are valid now; empty before the first look."""
        return self._keys

    def not_loaded(self) -> Sequence[str]:
        """The places to wait for: each until its first look, and all while none of them has given a key.

        Who has looked in vain in one place goes on with the other's keys.
        """
        return [source.name for source in self._places if not self._keys or source.name not in self._found]

    async def look(self) -> None:
        """Read the keys anew; a place that gives none is warned of."""
        await asyncio.gather(*(self._look(source) for source in self._places))

    async def _look(self, source: KeySource) -> None:
        try:
            self._found[source.name] = await source.look()
        except KeyturnError as error:
            self._found.setdefault(source.name, ())
            _log.warning("%s", error)
        self._keys = tuple(dict.fromkeys(key for source in self._places for key in self._found.get(source.name, ())))


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
