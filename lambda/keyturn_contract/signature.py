"""Signatures of deliveries, as in Standard Webhooks: symmetric (`v1`, HMAC-SHA256) and asymmetric (`v1a`, Ed25519).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

The standard library has no Ed25519. So callers pass functions that sign or verify with it.
docs/adr/002-own-webhook-signature.md explains why this module is used instead of the published package of Standard
Webhooks.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping, Sequence

PREFIX = "whsec_"
PUBLIC_PREFIX = "whpk_"
TOLERANCE = 300.0  # seconds by which the timestamp of a signature may be in the past or in the future
# Only this many signatures of a header count: three keys during a rotation, each with two schemes, and two spare.
MAX_SIGNATURES = 8
# Only this many asymmetric signatures of a header count. Anybody can send them, and a check takes 0.1 ms per key.
MAX_ED25519 = 3

_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}")  # printable ASCII except the dot, which separates the signed parts
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")
_SIGNATURE_ED25519 = re.compile(r"v1a,([A-Za-z0-9+/]{86}==)")
# The DER bytes in front of the 32-byte key in an Ed25519 SubjectPublicKeyInfo: https://www.rfc-editor.org/rfc/rfc8410
_SPKI = bytes.fromhex("302a300506032b6570032100")

Ed25519 = Callable[[bytes, bytes], bool]
"""Function ``fits(signature, content)`` for one public key. It returns whether the 64-byte signature is valid."""


class InvalidKey(ValueError):
    """The text is not a valid key."""


class NotVerified(Exception):
    """A header is missing or malformed, the timestamp is out of range, or no signature matches. ``reason`` is for logs.
    The sender must not see it."""

    def __init__(self, reason: str) -> None:
        super().__init__("not verified")
        self.reason = reason


def parse_key(text: str) -> bytes:
    """Parse a symmetric key: base64 of 24 to 64 bytes, with or without ``whsec_`` in front.

    The specification requires this prefix. CloudFormation generates the first key of a stack, and cannot add the
    prefix. So keys without it are accepted, too. Raises InvalidKey, which never quotes the key.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey(f"a signing key must be {PREFIX} followed by base64") from None
    if not 24 <= len(key) <= 64:
        raise InvalidKey("a signing key must have 24 to 64 bytes")
    return key


def new_key(random: bytes) -> str:
    """Format 24 to 64 random bytes as a key. Raises InvalidKey for any other number of bytes."""
    text = PREFIX + base64.b64encode(random).decode()
    parse_key(text)
    return text


def parse_public_key(text: str) -> bytes:
    """Parse an Ed25519 public key: base64 of 32 bytes, with or without ``whpk_`` in front, or the output of ``aws kms
    get-public-key``. That output is the base64 of a SubjectPublicKeyInfo.

    Raises InvalidKey.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PUBLIC_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey(f"a public key must be {PUBLIC_PREFIX} followed by base64") from None
    key = key.removeprefix(_SPKI)
    if len(key) != 32:
        raise InvalidKey("a public key must have the 32 bytes of Ed25519")
    return key


def content(message_id: str, timestamp: int | str, body: bytes) -> bytes:
    """Return the content that is signed: ``id.timestamp.body``."""
    return f"{message_id}.{timestamp}.".encode() + body


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Sign one attempt of a delivery with HMAC. ``timestamp`` is in seconds since the epoch. Return ``v1,<base64>``."""
    return "v1," + _base64(_digest(key, content(message_id, timestamp, body)))


def sign_ed25519(sign: Callable[[bytes], bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Sign one attempt of a delivery with Ed25519. ``sign`` has to return 64 bytes. Return ``v1a,<base64>``."""
    return "v1a," + _base64(sign(content(message_id, timestamp, body)))


def verify(
    keys: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance: float = TOLERANCE,
    public_keys: Sequence[Ed25519] = (),
) -> str:
    """Verify a delivery, and return its ``webhook-id``. One signature is enough if it is valid for one of the keys.

    The names in ``headers`` must be in lower case. ``now`` is in seconds since the epoch, and ``tolerance`` is in
    seconds. Raises NotVerified, and no other exception, for any input.
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
    asymmetric = [match[1] for match in map(_SIGNATURE_ED25519.fullmatch, candidates) if match]
    given_ed25519 = [base64.b64decode(each) for each in asymmetric[:MAX_ED25519]]
    if not (given and keys) and not (given_ed25519 and public_keys):
        raise NotVerified("webhook-signature has no signature of a scheme that keys are configured for")
    signed = content(message_id, timestamp, body)
    # Every pair is checked, even after a match. So the duration of the check reveals nothing about the keys.
    matches = [hmac.compare_digest(digest, each) for digest in (_digest(key, signed) for key in keys) for each in given]
    matches += [fits(each, signed) for fits in public_keys for each in given_ed25519]
    if not any(matches):
        raise NotVerified("no signature matches any key")
    return message_id


def _digest(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _base64(signature: bytes) -> str:
    return base64.b64encode(signature).decode()
