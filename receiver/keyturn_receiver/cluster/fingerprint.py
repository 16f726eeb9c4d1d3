"""Fingerprints of secret values: digests made with a key that never leaves this process."""

import hashlib
import secrets

from keyturn_receiver.core.plan import Fingerprint


def new_fingerprint() -> Fingerprint:
    """Return a function that makes keyed digests, with a new random key.

    Equal values have equal digests. Outside this process, a digest reveals nothing about its value.
    """
    key = secrets.token_bytes(32)

    def fingerprint(value: bytes) -> bytes:
        return hashlib.blake2b(value, digest_size=16, key=key).digest()

    return fingerprint
