"""Signatures of deliveries: Standard Webhooks, symmetric (`v1`, HMAC-SHA256) and asymmetric (`v1a`, Ed25519).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Ed25519 itself is not in the standard library: whoever signs or verifies `v1a` brings it along as a function. Why not
the published package: docs/adr/002-own-webhook-signature.md.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping, Sequence

PREFIX = "whsec_"
PUBLIC_PREFIX = "whpk_"
TOLERANCE = 300.0  # seconds, either way
MAX_SIGNATURES = 8  # in one header: three keys in rotation, two schemes, and room

_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}")  # printable ASCII without the dot that separates what is signed
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")
_SIGNATURE_ED25519 = re.compile(r"v1a,([A-Za-z0-9+/]{86}==)")
# What stands before the 32 bytes of an Ed25519 key in SubjectPublicKeyInfo: https://www.rfc-editor.org/rfc/rfc8410
_SPKI = bytes.fromhex("302a300506032b6570032100")

Ed25519 = Callable[[bytes, bytes], bool]
"""Tells whether a signature (64 bytes) fits a content, under the public key that it was made for."""


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


def parse_public_key(text: str) -> bytes:
    """Read an Ed25519 public key: 32 bytes in base64 after ``whpk_``, or what ``aws kms get-public-key`` prints.

    The latter is base64 of a SubjectPublicKeyInfo. Raises InvalidKey.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PUBLIC_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey(f"a public key is {PUBLIC_PREFIX} and base64") from None
    key = key.removeprefix(_SPKI)
    if len(key) != 32:
        raise InvalidKey("a public key is one of Ed25519: 32 bytes")
    return key


def content(message_id: str, timestamp: int | str, body: bytes) -> bytes:
    """What is signed: ``id.timestamp.body``."""
    return f"{message_id}.{timestamp}.".encode() + body


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Sign one attempt: ``timestamp`` in seconds since the epoch. Returns ``v1,<base64>``."""
    return "v1," + _base64(_digest(key, content(message_id, timestamp, body)))


def sign_ed25519(sign: Callable[[bytes], bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Sign one attempt with a function that makes 64 bytes of a content. Returns ``v1a,<base64>``."""
    return "v1a," + _base64(sign(content(message_id, timestamp, body)))


def verify(
    keys: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance: float = TOLERANCE,
    public_keys: Sequence[Ed25519] = (),
) -> str:
    """Return the verified ``webhook-id`` of a delivery signed with any of ``keys``, or for any of ``public_keys``.

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
    given_ed25519 = [base64.b64decode(match[1]) for match in map(_SIGNATURE_ED25519.fullmatch, candidates) if match]
    if not (given and keys) and not (given_ed25519 and public_keys):
        raise NotVerified("webhook-signature holds no signature of a kind that is checked here")
    signed = content(message_id, timestamp, body)
    # Every pair, found or not: how long it takes says nothing.
    matches = [hmac.compare_digest(digest, each) for digest in (_digest(key, signed) for key in keys) for each in given]
    matches += [fits(each, signed) for fits in public_keys for each in given_ed25519]
    if not any(matches):
        raise NotVerified("no signature fits any key")
    return message_id


def _digest(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _base64(signature: bytes) -> str:
    return base64.b64encode(signature).decode()
