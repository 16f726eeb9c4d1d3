"""Keyturn's signatures, checked in both directions against the published package of Standard Webhooks.

They are also checked against golden vectors.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from keyturn_contract.signature import new_key, parse_key, parse_public_key, sign, sign_ed25519, verify
from keyturn_receiver.sources.signing_keys import ed25519

VECTORS = json.loads((Path(__file__).parent / "vectors" / "signatures.json").read_text())
ED25519_VECTORS = json.loads((Path(__file__).parent / "vectors" / "signatures-ed25519.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_hmac_vectors_are_signed_and_verified(vector: dict[str, str]) -> None:
    key, timestamp, body = parse_key(vector["key"]), int(vector["timestamp"]), vector["body"].encode()
    assert sign(key, vector["id"], timestamp, body) == vector["signature"]
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": vector["timestamp"],
        "webhook-signature": vector["signature"],
    }
    assert verify([key], headers, body, timestamp) == vector["id"]


@given(st.binary(min_size=24, max_size=64), st.text(st.characters(codec="utf-8", exclude_characters=""), max_size=200))
def test_published_package_and_keyturn_make_the_same_signature(random: bytes, body: str) -> None:
    text = new_key(random)
    now = datetime.now(UTC).replace(microsecond=0)
    timestamp = int(now.timestamp())
    theirs = Webhook(text)
    ours = sign(parse_key(text), "msg_1", timestamp, body.encode())
    assert theirs.sign("msg_1", now, body) == ours
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(timestamp), "webhook-signature": ours}
    assert verify([parse_key(text)], headers, body.encode(), timestamp) == "msg_1"


@pytest.mark.parametrize("vector", ED25519_VECTORS, ids=lambda vector: vector["name"])
def test_golden_ed25519_vectors_are_signed_and_verified(vector: dict[str, str]) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["seed"]))
    timestamp, body = int(vector["timestamp"]), vector["body"].encode()
    assert sign_ed25519(key.sign, vector["id"], timestamp, body) == vector["signature"]
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": vector["timestamp"],
        "webhook-signature": vector["signature"],
    }
    for form in ("public_key", "public_key_of_kms"):
        public_key = ed25519(parse_public_key(vector[form]))
        assert verify([], headers, body, timestamp, public_keys=[public_key]) == vector["id"]
