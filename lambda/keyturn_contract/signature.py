"""Signatures of deliveries: Standard Webhooks, symmetric (`v1`).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Why not the published package: docs/adr/002-own-webhook-signature.md.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
TOLERANCE = 300.0  # seconds, either way
MAX_SIGNATURES = 8  # in one header: three keys in rotation, two schemes, and room

_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}")  # printable ASCII without the dot that separates what is signed
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")


class InvalidKey(ValueError):
    """The text is no signing key."""


class NotVerified(Exception):
    """The sender holds no key, or the delivery is not of now; ``reason`` is for logs, not for the sender."""

    def __init__(self, reason: str) -> None:
        super().__init__("not verified")
        self.reason = reason


def parse_key(text: str) -> bytes:
    """Read a key: base64 of 24 to 64 bytes, after ``whsec_`` if that is there. Raises InvalidKey, which does not
    quote it.

    The prefix is the specification's form; CloudFormation, which generates a stack's first key, cannot write it.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey(f"a signing key is {PREFIX} and base64") from None
    if not 24 <= len(key) <= 64:
        raise InvalidKey("a signing key is 24 to 64 bytes long")
    return key


def new_key(random: bytes) -> str:
    """Write 24 to 64 random bytes as a key. Raises InvalidKey for another length."""
    text = PREFIX + base64.b64encode(random).decode()
    parse_key(text)
    return text


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Sign one attempt: ``timestamp`` in seconds since the epoch. Returns ``v1,<base64>``."""
    return "v1," + base64.b64encode(_digest(key, message_id, str(timestamp), body)).decode()


def verify(
    keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE
) -> str:
    """Return the verified ``webhook-id`` of a delivery signed with any of ``keys``.

    ``headers`` has lower-case names; ``now`` and ``tolerance`` are seconds. Raises NotVerified, and nothing else,
    whatever the bytes.
    """
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    candidates = headers.get("webhook-signature", "").split(" ", MAX_SIGNATURES)[:MAX_SIGNATURES]
    if not _ID.fullmatch(message_id):
        raise NotVerified("webhook-id is missing or malformed")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise NotVerified("webhook-timestamp is missing or malformed")
    if abs(now - int(timestamp)) > tolerance:
        raise NotVerified("webhook-timestamp is too old or too new")
    given = [base64.b64decode(match[1]) for match in map(_SIGNATURE.fullmatch, candidates) if match]
    if not given:
        raise NotVerified("webhook-signature holds no v1 signature")
    # Every pair, found or not: how long it takes says nothing.
    matches = [
        hmac.compare_digest(_digest(key, message_id, timestamp, body), signature) for key in keys for signature in given
    ]
    if not any(matches):
        raise NotVerified("no signature fits any key")
    return message_id


def _digest(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
