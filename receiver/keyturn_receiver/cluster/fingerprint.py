"""Fingerprints of secret values: keyed digests, whose key never leaves this process."""

import hashlib
import secrets

from keyturn_receiver.core.plan import Fingerprint


def new_fingerprint() -> Fingerprint:
    """Make a function that returns keyed digests, with a new random key.

    Equal values have equal digests. A digest reveals nothing outside this process.
    """
    key = secrets.token_bytes(32)

    def fingerprint(value: bytes) -> bytes:
        return hashlib.blake2b(value, digest_size=16, key=key).digest()

    return fingerprint
